//! Data that was pulled before, on this machine. A file's name says which data
//! it is and what its content's SHA-256 is, so that one request tells whether
//! it is still good.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use sha2::{Digest, Sha256};
use tempfile::NamedTempFile;

use super::download::hex;
use crate::{Error, Result};

/// The folder for what was pulled, in place of `finetuner` in the user's cache
/// folder.
const FOLDER_VARIABLE: &str = "FINETUNER_CACHE";

/// The folder for what was pulled, where the program names none.
pub(super) fn default_folder() -> Option<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    set(FOLDER_VARIABLE).map(PathBuf::from).or_else(|| {
        let cache = set("XDG_CACHE_HOME")
            .or_else(|| set("LOCALAPPDATA"))
            .map(PathBuf::from)
            .or_else(|| Some(PathBuf::from(set("HOME")?).join(".cache")))?;
        Some(cache.join("finetuner"))
    })
}

/// Where one data set is kept.
#[derive(Clone, Debug)]
pub(super) struct Slot {
    folder: PathBuf,
    stem: String,
}

impl Slot {
    /// The place in a cache folder of the data of that name, as a user of a
    /// backend sees it.
    pub(super) fn within(folder: &Path, key: [&str; 3]) -> Self {
        let mut stem = hex(&Sha256::digest(key.join("\n")));
        stem.truncate(32);
        Self {
            folder: folder.join("documents"),
            stem,
        }
    }

    /// As [`Slot::find`], where the file is what its name says; one that was
    /// damaged is taken away. Blocks.
    pub(super) fn find_whole(&self) -> Option<(String, PathBuf)> {
        let (hash, path) = self.find()?;
        if hash_of(&path).is_ok_and(|found| found == hash) {
            return Some((hash, path));
        }
        // Where it can't be removed, the next download takes its place.
        let _ = fs::remove_file(path);
        None
    }

    /// The content's SHA-256, and the file that has it.
    fn find(&self) -> Option<(String, PathBuf)> {
        let entries = fs::read_dir(&self.folder).ok()?;
        entries.flatten().find_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let hash = name.strip_prefix(&self.stem)?.strip_prefix('-')?;
            let hash = hash.strip_suffix(".da")?.to_owned();
            Some((hash, entry.path()))
        })
    }

    /// A file to take a download in.
    pub(super) fn begin(&self) -> Result<NamedTempFile> {
        let failed = |e| Error::file(&self.folder, e);
        fs::create_dir_all(&self.folder).map_err(failed)?;
        tempfile::Builder::new()
            .prefix(".finetuner-")
            .tempfile_in(&self.folder)
            .map_err(failed)
    }

    /// Puts a whole download in its place, and takes an older one away.
    pub(super) fn keep(&self, mut file: NamedTempFile, hash: &str) -> Result<()> {
        let failed = |e| Error::file(&self.folder, e);
        file.flush().map_err(failed)?;
        let before = self.find();
        let path = self.folder.join(format!("{}-{hash}.da", self.stem));
        file.persist(&path).map_err(|e| failed(e.error))?;
        if let Some((_, old)) = before.filter(|(_, old)| *old != path) {
            // Somebody else may have been faster.
            let _ = fs::remove_file(old);
        }
        Ok(())
    }
}

/// The SHA-256 of a file, as hex digits.
fn hash_of(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut hasher = Sha256::new();
    let mut piece = vec![0; 1 << 20];
    loop {
        match file.read(&mut piece)? {
            0 => return Ok(hex(&hasher.finalize())),
            count => hasher.update(&piece[..count]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_file_for_each_data_set_and_the_last_content_of_it() {
        let folder = tempfile::tempdir().unwrap();
        let slot = Slot::within(folder.path(), ["http://a", "u", "train"]);
        let other = Slot::within(folder.path(), ["http://a", "u", "eval"]);
        assert_eq!(slot.find(), None);
        for hash in ["aa", "bb", "bb"] {
            let mut file = slot.begin().unwrap();
            file.write_all(hash.as_bytes()).unwrap();
            slot.keep(file, hash).unwrap();
            let (found, path) = slot.find().unwrap();
            assert_eq!(found, hash);
            assert_eq!(fs::read_to_string(path).unwrap(), hash);
        }
        assert_eq!(other.find(), None);
        assert_eq!(slot.find_whole(), None, "`bb` is not its own SHA-256");
        let mut file = slot.begin().unwrap();
        file.write_all(b"abc").unwrap();
        let hash = hex(&Sha256::digest(b"abc"));
        slot.keep(file, &hash).unwrap();
        assert_eq!(slot.find_whole(), slot.find());
        let files = fs::read_dir(folder.path().join("documents")).unwrap();
        assert_eq!(files.count(), 1);
    }
}
