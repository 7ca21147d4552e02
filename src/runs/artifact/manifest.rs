//! The list of the files of a saved model. Saving again replaces only these files.

use std::{
    fs, io,
    path::{Component, Path},
};

use serde::{Deserialize, Serialize};

use super::disk::Disk;
use crate::transport::hash_of;

/// Name of the list within a saved model.
pub(super) const MANIFEST: &str = ".finetuner-files.json";

/// Prefix of the names of staging folders.
pub(super) const STAGING: &str = ".finetuner-save-";

/// Newest version of the list that this code reads.
const VERSION: u32 = 1;

/// Maximum number of foreign files in an error.
const SHOWN: usize = 5;

/// The files of a saved model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Manifest {
    version: u32,
    pub(super) files: Vec<SavedFile>,
}

/// A file of a saved model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SavedFile {
    /// Relative to the folder, with `/` between its parts.
    pub(crate) path: String,
    pub(crate) size: u64,
    pub(crate) sha256: String,
}

/// How files are compared with the list: by size, or by size and SHA-256.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Compare {
    Sizes,
    Contents,
}

impl Manifest {
    pub(super) fn new(files: Vec<SavedFile>) -> Self {
        Self {
            version: VERSION,
            files,
        }
    }

    /// Reads a folder's list; `None` if it has none.
    pub(super) fn read(folder: &Path) -> io::Result<Option<Self>> {
        let bytes = match fs::read(folder.join(MANIFEST)) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let bad = |reason: String| {
            let reason = format!("{MANIFEST} can't be used: {reason}; choose another folder");
            io::Error::new(io::ErrorKind::InvalidData, reason)
        };
        let manifest: Self = serde_json::from_slice(&bytes).map_err(|e| bad(e.to_string()))?;
        if manifest.version > VERSION {
            return Err(bad("a newer version of finetuner wrote it".to_owned()));
        }
        // The folder may come from anywhere, so no path may lead out of it.
        for file in &manifest.files {
            let mut parts = Path::new(&file.path).components();
            if file.path.is_empty() || !parts.all(|part| matches!(part, Component::Normal(_))) {
                return Err(bad(format!("`{}` is not a path in the folder", file.path)));
            }
        }
        Ok(Some(manifest))
    }

    pub(super) fn write(&self, folder: &Path, disk: &dyn Disk) -> io::Result<()> {
        let mut text = serde_json::to_vec_pretty(self)?;
        text.push(b'\n');
        let mut file = disk.create(&folder.join(MANIFEST))?;
        file.write_all(&text)?;
        file.sync()
    }

    fn find(&self, path: &str) -> Option<&SavedFile> {
        self.files.iter().find(|file| file.path == path)
    }

    fn has_folder(&self, path: &str) -> bool {
        let within = |file: &SavedFile| {
            let rest = file.path.strip_prefix(path);
            rest.is_some_and(|rest| rest.starts_with('/'))
        };
        self.files.iter().any(within)
    }
}

/// Refuses a folder that contains anything but the files saved in it before. A
/// folder that does not exist is accepted.
pub(super) fn check_free(folder: &Path, compare: Compare) -> io::Result<()> {
    let foreign = foreign(folder, compare)?;
    if foreign.is_empty() {
        return Ok(());
    }
    if is_unlisted_model(folder) {
        let reason = format!(
            "an earlier version saved this: it is a model without the list of its files, \
             {MANIFEST}. Delete the folder or move it away, or choose another folder"
        );
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, reason));
    }
    let more = match foreign.len().saturating_sub(SHOWN) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let shown = foreign.iter().take(SHOWN).map(String::as_str);
    let reason = format!(
        "the folder holds files that `save_model` did not write: {}{more}. Move them away, or \
         choose another folder",
        shown.collect::<Vec<_>>().join(", ")
    );
    Err(io::Error::new(io::ErrorKind::AlreadyExists, reason))
}

/// Whether a folder contains a model of a version that wrote no list. It is not
/// replaced, because other files may be among the model's.
fn is_unlisted_model(folder: &Path) -> bool {
    let has = |name: &str| folder.join(name).is_file();
    has("config.json") && has("model.safetensors") && !has(MANIFEST)
}

/// Returns the files and folders that saving a model would lose.
fn foreign(folder: &Path, compare: Compare) -> io::Result<Vec<String>> {
    if !folder.exists() {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    walk(folder, "", &mut found)?;
    if found.is_empty() {
        return Ok(Vec::new());
    }
    let Some(manifest) = Manifest::read(folder)? else {
        return Ok(found.into_iter().map(|entry| entry.path).collect());
    };
    let mut foreign = Vec::new();
    for entry in found {
        if entry.path == MANIFEST && entry.kind.is_file() {
            continue;
        }
        if entry.kind.is_dir() {
            if !manifest.has_folder(&entry.path) {
                foreign.push(entry.path);
            }
            continue;
        }
        match manifest.find(&entry.path) {
            None => foreign.push(entry.path),
            Some(file) if !is_same(folder, file, compare)? => {
                foreign.push(format!("{} (changed since it was saved)", entry.path));
            }
            Some(_) => {}
        }
    }
    Ok(foreign)
}

/// Whether a file is unchanged since it was saved.
pub(super) fn is_same(folder: &Path, file: &SavedFile, compare: Compare) -> io::Result<bool> {
    let path = folder.join(&file.path);
    let found = fs::symlink_metadata(&path)?;
    if !found.is_file() || found.len() != file.size {
        return Ok(false);
    }
    Ok(compare == Compare::Sizes || hash_of(&path)? == file.sha256)
}

struct Entry {
    path: String,
    kind: fs::FileType,
}

/// Lists everything below a folder. Links are listed, but not followed.
fn walk(folder: &Path, prefix: &str, found: &mut Vec<Entry>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let kind = entry.file_type()?;
        // The file system creates this folder at the root of a disk.
        let is_system = prefix.is_empty() && kind.is_dir() && name == "lost+found";
        if is_system || (prefix.is_empty() && kind.is_dir() && name.starts_with(STAGING)) {
            continue;
        }
        let path = format!("{prefix}{name}");
        if kind.is_dir() {
            walk(&entry.path(), &format!("{path}/"), found)?;
        }
        found.push(Entry { path, kind });
    }
    Ok(())
}
