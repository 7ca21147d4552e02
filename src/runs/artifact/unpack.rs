//! Unpacks untrusted zip files. Nothing is written outside the target, no link is
//! created, and actual sizes are counted.

use std::{
    fs::{self, File},
    io::{self, Read, Seek, SeekFrom},
    path::Path,
};

use sha2::{Digest, Sha256};
use zip::{ZipArchive, result::ZipError};

use super::{
    disk::Disk,
    manifest::{MANIFEST, SavedFile},
};
use crate::error::{Error, Result, is_web_page, start_of};

/// Default limit for an unpacked artifact in bytes.
pub(crate) const MAX_UNPACKED: u64 = 64 << 30;
/// Maximum number of files of an artifact.
const MAX_FILES: usize = 10_000;
/// Bytes copied at a time.
const PIECE: usize = 256 << 10;

/// Writes the files of a zip below `target`, without the top folder if all files are in
/// the same, and returns the files written. Errors name `shown`, the folder that the
/// user knows.
pub(crate) fn unpack_zip(
    file: &mut File,
    target: &Path,
    shown: &Path,
    limit: u64,
    disk: &dyn Disk,
) -> Result<Vec<SavedFile>> {
    let mut zip = open(file)?;
    if zip.is_empty() {
        return Err(Error::artifact("the zip contains no files"));
    }
    if zip.len() > MAX_FILES {
        let reason = format!(
            "it has {} files, but only {MAX_FILES} are allowed",
            zip.len()
        );
        return Err(Error::artifact(reason));
    }
    let top = top_folder(&mut zip)?;
    let mut left = limit;
    let mut files = Vec::new();
    for i in 0..zip.len() {
        let mut entry = zip.by_index(i).map_err(Error::artifact)?;
        if entry.is_dir() {
            continue;
        }
        if entry.is_symlink() {
            return Err(Error::artifact(format!("entry {i} is a link")));
        }
        let name = entry.name().map_err(Error::artifact)?;
        // macOS adds this folder beside the one that was packed.
        if top.is_some() && parts_of(&name).is_some_and(|parts| parts[0] == "__MACOSX") {
            continue;
        }
        let inner = inner_path(&name, top.as_deref())
            .ok_or_else(|| Error::artifact(format!("entry {i} leads out of it")))?;
        if inner == MANIFEST {
            return Err(Error::artifact(format!("entry {i} is called {MANIFEST}")));
        }
        let path = target.join(&inner);
        let failed = |error| Error::file(&shown.join(&inner), error);
        let place = path.parent().unwrap_or(target);
        fs::create_dir_all(place).map_err(failed)?;
        let mut out = disk.create(&path).map_err(|error| match error.kind() {
            // The same name, or the same except for upper and lower case.
            io::ErrorKind::AlreadyExists => {
                Error::artifact(format!("two of its files are called `{inner}`"))
            }
            _ => failed(error),
        })?;
        let mut hasher = Sha256::new();
        let mut size = 0;
        let mut piece = vec![0; PIECE];
        loop {
            let count = match entry.read(&mut piece) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                // The zip is a local file, so its content is at fault.
                Err(error) => return Err(Error::artifact(format!("`{inner}`: {error}"))),
            };
            left = left.checked_sub(count as u64).ok_or_else(|| {
                Error::artifact(format!(
                    "it unpacks to more than {limit} bytes: raise the limit with `max_unpacked`"
                ))
            })?;
            size += count as u64;
            hasher.update(&piece[..count]);
            out.write_all(&piece[..count]).map_err(failed)?;
        }
        out.sync().map_err(failed)?;
        files.push(SavedFile {
            path: inner,
            size,
            sha256: hex::encode(hasher.finalize()),
        });
    }
    Ok(files)
}

/// Opens a zip; the error says what the file is instead.
fn open(file: &mut File) -> Result<ZipArchive<&mut File>> {
    let mut head = Vec::new();
    let read = |file: &mut File, head: &mut Vec<u8>| {
        file.seek(SeekFrom::Start(0))?;
        Read::by_ref(file).take(512).read_to_end(head)?;
        file.seek(SeekFrom::End(0))
    };
    let length = read(file, &mut head).map_err(Error::artifact)?;
    ZipArchive::new(file).map_err(|error| {
        Error::artifact(match (head.as_slice(), error) {
            ([], _) => "the file is empty".to_owned(),
            (head, _) if is_web_page(head) => {
                format!("it is a web page, not a zip: {}", start_of(head))
            }
            ([b'P', b'K', 3, 4, ..], ZipError::InvalidArchive(_)) => format!(
                "the zip is cut off after {length} bytes: the list of files at its end is missing"
            ),
            (_, ZipError::InvalidArchive(_)) => "it is not a zip file".to_owned(),
            (_, error) => error.to_string(),
        })
    })
}

/// Returns the top folder, if all files are in the same.
fn top_folder(zip: &mut ZipArchive<&mut File>) -> Result<Option<String>> {
    let mut top: Option<String> = None;
    for i in 0..zip.len() {
        let entry = zip.by_index(i).map_err(Error::artifact)?;
        if entry.is_dir() {
            continue;
        }
        let name = entry.name().map_err(Error::artifact)?;
        match parts_of(&name).unwrap_or_default().as_slice() {
            ["__MACOSX", ..] => {}
            [first, _, ..] if top.as_deref().is_none_or(|top| top == *first) => {
                top = Some((*first).to_owned());
            }
            _ => return Ok(None),
        }
    }
    Ok(top)
}

/// Returns the path of an entry without the top folder; `None` if it leads out of the
/// target.
fn inner_path(name: &str, top: Option<&str>) -> Option<String> {
    let parts = parts_of(name)?;
    Some(match parts.as_slice() {
        [first, inner @ ..] if !inner.is_empty() && Some(*first) == top => inner.join("/"),
        all => all.join("/"),
    })
}

/// Splits the path of an entry; `None` if it leads out of the target. Some programs use
/// `\` as separator.
fn parts_of(name: &str) -> Option<Vec<&str>> {
    if name.starts_with(['/', '\\']) || name.contains('\0') {
        return None;
    }
    let parts: Vec<&str> = name
        .split(['/', '\\'])
        .filter(|part| !part.is_empty() && *part != ".")
        .collect();
    // `C:` is another drive on Windows.
    let leads_out =
        |part: &&str| *part == ".." || part.ends_with(':') || (cfg!(windows) && part.contains(':'));
    (!parts.is_empty() && !parts.iter().any(leads_out)).then_some(parts)
}
