//! Unpacks an untrusted zip. The directory is read one entry at a time, and sizes
//! are counted while unpacking.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

// Does not keep all entries in memory. This API is unstable, so Cargo.toml pins
// the exact version.
use zip::unstable::read::ZipIterable;

use super::{refusal::Refusal, spool::stored};
use crate::space::Space;

/// Maximum number of entries.
const MAX_ENTRIES: usize = 200_000;
/// Maximum total size of the unpacked files, in bytes.
const MAX_UNPACKED: u64 = 4 << 30;
/// Maximum size of an image, in bytes.
const MAX_IMAGE: u64 = 64 << 20;
/// Maximum number of path components, and the bytes that count for a folder.
const MAX_DEPTH: usize = 9;
const FOLDER_BYTES: u64 = 4096;
/// Buffer size in bytes.
const BUFFER: usize = 256 << 10;

/// Unpacks a zip below `target`. Returns the paths of the files that `is_table`
/// accepts.
pub(super) fn unzip(
    zip: &Path,
    target: &Path,
    space: &Space,
    is_table: fn(&Path) -> bool,
) -> Result<Vec<PathBuf>, Refusal> {
    let mut limits = Limits {
        left: MAX_UNPACKED,
        space,
    };
    let file = || File::open(zip).map_err(|e| Refusal::from(stored(e)));
    let mut archive = ZipIterable::try_new(file()?, zip::read::Config::default()).map_err(bad)?;
    if archive.len() > MAX_ENTRIES {
        return Err(refuse(format!(
            "the zip has {} entries, {MAX_ENTRIES} are allowed: split it",
            archive.len()
        )));
    }
    let mut tables = Vec::new();
    let mut entries = archive
        .files_with_reader(file()?, zip::ZipReadOptions::default())
        .map_err(bad)?;
    while let Some(entry) = entries.next() {
        let mut entry = entry.map_err(bad)?;
        if entry.is_dir() {
            continue;
        }
        let name = entry.name().map_err(bad)?.into_owned();
        if is_hidden(&name) {
            continue;
        }
        if entry.is_symlink() {
            return Err(refuse(format!("`{}` is a link", shown(&name))));
        }
        let inner = inner_path(&name)
            .ok_or_else(|| refuse(format!("`{}` leads out of the zip", shown(&name))))?;
        let path = target.join(&inner);
        let depth = inner.components().count();
        if depth > MAX_DEPTH {
            return Err(refuse(format!(
                "`{}` lies in more than {} folders",
                shown(&name),
                MAX_DEPTH - 1
            )));
        }
        limits.take(FOLDER_BYTES * depth as u64)?;
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(|e| placed(e, &name))?;
        }
        let out = File::create_new(&path).map_err(|e| placed(e, &name))?;
        let most = match is_table(&inner) {
            true => MAX_UNPACKED,
            false => MAX_IMAGE,
        };
        limits.copy(&mut entry, out, most, &name)?;
        if is_table(&inner) {
            tables.push(path);
        }
    }
    Ok(tables)
}

struct Limits<'a> {
    left: u64,
    space: &'a Space,
}

impl Limits<'_> {
    /// Counts bytes against the size limit.
    fn take(&mut self, bytes: u64) -> Result<(), Refusal> {
        self.left = self.left.checked_sub(bytes).ok_or_else(|| {
            refuse(format!(
                "the zip unpacks to more than {} GiB: split it",
                MAX_UNPACKED >> 30
            ))
        })?;
        self.space.check("upload", bytes)?;
        Ok(())
    }

    fn copy(
        &mut self,
        from: &mut impl Read,
        mut out: File,
        most: u64,
        name: &str,
    ) -> Result<(), Refusal> {
        let mut piece = vec![0; BUFFER];
        let mut size = 0;
        loop {
            let count = match from.read(&mut piece) {
                Ok(0) => return Ok(()),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(refuse(format!("`{}`: {error}", shown(name)))),
            };
            size += count as u64;
            if size > most {
                return Err(refuse(format!(
                    "`{}` has more than {} MiB",
                    shown(name),
                    most >> 20
                )));
            }
            self.take(count as u64)?;
            out.write_all(&piece[..count]).map_err(stored)?;
        }
    }
}

fn refuse(reason: String) -> Refusal {
    Refusal::Field("file", reason)
}

fn bad(error: impl std::fmt::Display) -> Refusal {
    refuse(format!("the zip can't be read: {error}"))
}

fn shown(name: &str) -> String {
    finetuner_protocol::text::start_of(name)
}

/// Converts the error of a file that can't be created: the name is taken or too
/// long.
fn placed(error: io::Error, name: &str) -> Refusal {
    match error.kind() {
        io::ErrorKind::AlreadyExists | io::ErrorKind::NotADirectory => {
            refuse(format!("two files of the zip are called `{}`", shown(name)))
        }
        io::ErrorKind::InvalidFilename => refuse(format!("the name `{}` is too long", shown(name))),
        _ => stored(error).into(),
    }
}

/// Returns whether a path has a hidden component, such as `.DS_Store` or `__MACOSX`.
fn is_hidden(name: &str) -> bool {
    let mut parts = name.split(['/', '\\']);
    parts.any(|part| {
        part == "__MACOSX" || (part.starts_with('.') && !part.trim_matches('.').is_empty())
    })
}

/// Returns the path of an entry below the target; `None` if it leads out of it.
fn inner_path(name: &str) -> Option<PathBuf> {
    if name.starts_with(['/', '\\']) || name.contains('\0') {
        return None;
    }
    let parts: Vec<&str> = name
        .split(['/', '\\'])
        .filter(|part| !part.is_empty() && *part != ".")
        .collect();
    let leads_out = |part: &&str| *part == ".." || part.contains(':');
    match parts.is_empty() || parts.iter().any(leads_out) {
        true => None,
        false => Some(parts.iter().collect()),
    }
}

#[cfg(test)]
mod tests {
    use zip::{ZipWriter, write::SimpleFileOptions};

    use super::*;

    fn unzipped(files: &[(&str, &[u8])]) -> Result<(tempfile::TempDir, Vec<PathBuf>), String> {
        let folder = tempfile::tempdir().unwrap();
        let zip = folder.path().join("x.zip");
        let mut writer = ZipWriter::new(File::create(&zip).unwrap());
        for (name, bytes) in files {
            writer
                .start_file(*name, SimpleFileOptions::default())
                .unwrap();
            writer.write_all(bytes).unwrap();
        }
        writer.finish().unwrap();
        let target = folder.path().join("files");
        let space = Space::new(folder.path().to_owned(), Some(0));
        let is_table = |path: &Path| path.extension().is_some_and(|e| e == "csv");
        match unzip(&zip, &target, &space, is_table) {
            Ok(tables) => Ok((folder, tables)),
            Err(Refusal::Field(_, reason)) => Err(reason),
            Err(Refusal::Failed(error)) => Err(error.message().to_owned()),
            Err(Refusal::Rows(..)) => Err("rows".to_owned()),
        }
    }

    #[test]
    fn unpacked_files_stay_inside_the_target_folder() {
        let files: [(&str, &[u8]); 4] = [
            ("set/train.csv", b"a.png,a\n"),
            ("set/a.png", b"x"),
            ("__MACOSX/set/._train.csv", b"y"),
            ("set/.DS_Store", b"z"),
        ];
        let (folder, tables) = unzipped(&files).unwrap();
        assert_eq!(tables, [folder.path().join("files/set/train.csv")]);
        assert!(!folder.path().join("files/__MACOSX").exists());
        for name in ["../x.png", "/x.png", "a/../../x.png", "c:/x.png"] {
            let told = unzipped(&[(name, b"x")]).unwrap_err();
            assert!(told.contains("leads out"), "{name}: {told}");
        }
        let told = unzipped(&[("a/x", b"1"), ("a//x", b"2")]).unwrap_err();
        assert!(told.contains("two files"), "{told}");
    }

    #[test]
    fn a_small_zip_with_a_huge_image_is_refused() {
        let zeros = vec![0; (MAX_IMAGE + 1) as usize];
        let told = unzipped(&[("a.png", &zeros)]).unwrap_err();
        assert!(told.contains("`a.png` has more than 64 MiB"), "{told}");
        let (_folder, tables) = unzipped(&[("a.csv", &zeros)]).unwrap();
        assert_eq!(tables.len(), 1);
    }

    #[test]
    fn files_that_are_not_zips_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let zip = folder.path().join("x.zip");
        std::fs::write(&zip, b"PK\x03\x04 and then nothing").unwrap();
        let space = Space::new(folder.path().to_owned(), Some(0));
        let refused = unzip(&zip, &folder.path().join("files"), &space, |_| false);
        assert!(matches!(refused, Err(Refusal::Field("file", _))));
    }
}
