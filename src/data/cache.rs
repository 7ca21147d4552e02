//! Local cache of pulled data.
//!
//! A file's name contains a hash of the data set's name and the SHA-256 of its
//! content, so one request tells whether it is up to date. The files share a size
//! limit; the least recently used file is removed first.

use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use etcetera::BaseStrategy;
use sha2::{Digest, Sha256};
use tempfile::NamedTempFile;

use crate::{
    error::{Error, Result},
    transport::hash_of,
};

/// Default limit for all files together, in bytes.
pub(super) const CACHE_SIZE: u64 = 16 << 30;
/// Age at which unfinished downloads of killed programs are removed.
const ABANDONED: Duration = Duration::from_secs(24 * 3600);
/// Prefix of the names of unfinished downloads.
const UNFINISHED: &str = ".finetuner-";

/// Environment variable with the folder of the cache; `finetuner` in the user's
/// cache folder by default.
const FOLDER_VARIABLE: &str = "FINETUNER_CACHE";

/// Returns the folder of the cache for programs that set none.
pub(super) fn default_folder() -> Option<PathBuf> {
    let named = std::env::var_os(FOLDER_VARIABLE).filter(|value| !value.is_empty());
    named.map(PathBuf::from).or_else(|| {
        let folders = etcetera::choose_base_strategy().ok()?;
        Some(folders.cache_dir().join("finetuner"))
    })
}

/// Cache entry of one data set.
#[derive(Clone, Debug)]
pub(super) struct Slot {
    folder: PathBuf,
    stem: String,
    /// Limit for all files of the folder together, in bytes.
    limit: u64,
}

impl Slot {
    /// Returns the entry for `key`: backend, user, name of the data.
    pub(super) fn within(folder: &Path, key: [&str; 3], limit: u64) -> Self {
        let mut stem = hex::encode(Sha256::digest(key.join("\n")));
        stem.truncate(32);
        Self {
            folder: folder.join("documents"),
            stem,
            limit,
        }
    }

    /// Like [`Slot::find`], but verifies the SHA-256 and removes a damaged file.
    /// Blocks.
    pub(super) fn find_whole(&self) -> Option<(String, PathBuf)> {
        let (hash, path) = self.find()?;
        if hash_of(&path).is_ok_and(|found| found == hash) {
            // Marks it as used. On a read-only file system, nothing is evicted.
            let _ = File::options()
                .append(true)
                .open(&path)
                .and_then(|file| file.set_modified(SystemTime::now()));
            return Some((hash, path));
        }
        // If it can't be removed, the next download replaces it.
        let _ = fs::remove_file(path);
        None
    }

    /// Returns the content's SHA-256 and the path of the file.
    fn find(&self) -> Option<(String, PathBuf)> {
        let entries = fs::read_dir(&self.folder).ok()?;
        entries.flatten().find_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let hash = name.strip_prefix(&self.stem)?.strip_prefix('-')?;
            let hash = hash.strip_suffix(".da")?.to_owned();
            Some((hash, entry.path()))
        })
    }

    /// Creates a temporary file for a download.
    pub(super) fn begin(&self) -> Result<NamedTempFile> {
        let failed = |e| Error::file(&self.folder, e);
        fs::create_dir_all(&self.folder).map_err(failed)?;
        tempfile::Builder::new()
            .prefix(UNFINISHED)
            .tempfile_in(&self.folder)
            .map_err(failed)
    }

    /// Moves a complete download into place and removes an older one. Blocks.
    pub(super) fn keep(&self, mut file: NamedTempFile, hash: &str) -> Result<()> {
        let failed = |e| Error::file(&self.folder, e);
        file.flush().map_err(failed)?;
        let before = self.find();
        let path = self.folder.join(format!("{}-{hash}.da", self.stem));
        file.persist(&path).map_err(|e| failed(e.error))?;
        if let Some((_, old)) = before.filter(|(_, old)| *old != path) {
            // Another program may have removed it already.
            let _ = fs::remove_file(old);
        }
        self.evict(&path);
        Ok(())
    }

    /// Removes the least recently used files until the limit holds, and downloads
    /// that killed programs left behind. The file `newest` is removed last.
    fn evict(&self, newest: &Path) {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            let (Ok(found), name) = (entry.metadata(), entry.file_name()) else {
                continue;
            };
            let used = found.modified().unwrap_or(SystemTime::UNIX_EPOCH);
            let name = name.to_string_lossy();
            if name.starts_with(UNFINISHED) {
                if used.elapsed().is_ok_and(|age| age > ABANDONED) {
                    let _ = fs::remove_file(entry.path());
                }
            } else if name.ends_with(".da") {
                let path = entry.path();
                files.push((path == newest, used, found.len(), path));
            }
        }
        files.sort();
        let mut sum: u64 = files.iter().map(|(_, _, length, _)| length).sum();
        for (_, _, length, path) in files {
            if sum <= self.limit {
                break;
            }
            // Another program may remove it first; an open file stays readable.
            let _ = fs::remove_file(path);
            sum -= length;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_keeps_the_last_content_of_each_data_set() {
        let folder = tempfile::tempdir().unwrap();
        let slot = Slot::within(folder.path(), ["http://a", "u", "train"], CACHE_SIZE);
        let other = Slot::within(folder.path(), ["http://a", "u", "eval"], CACHE_SIZE);
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
        let hash = hex::encode(Sha256::digest(b"abc"));
        slot.keep(file, &hash).unwrap();
        assert_eq!(slot.find_whole(), slot.find());
        let files = fs::read_dir(folder.path().join("documents")).unwrap();
        assert_eq!(files.count(), 1);
    }
    #[test]
    fn the_least_recently_used_copy_is_evicted() {
        let folder = tempfile::tempdir().unwrap();
        let slot = |name: &'static str| Slot::within(folder.path(), ["http://a", "u", name], 250);
        let keep = |name: &'static str, age: u64| {
            let content = name.repeat(100);
            let mut file = slot(name).begin().unwrap();
            file.write_all(content.as_bytes()).unwrap();
            let hash = hex::encode(Sha256::digest(&content));
            slot(name).keep(file, &hash).unwrap();
            let (_, path) = slot(name).find().unwrap();
            let used = SystemTime::now() - Duration::from_secs(age);
            let file = File::options().append(true).open(path).unwrap();
            file.set_modified(used).unwrap();
        };
        keep("a", 300);
        keep("b", 200);
        // Reading counts as use.
        slot("a").find_whole().unwrap();
        let abandoned = folder.path().join("documents/.finetuner-old");
        fs::write(&abandoned, "x").unwrap();
        let file = File::options().append(true).open(&abandoned).unwrap();
        file.set_modified(SystemTime::now() - 2 * ABANDONED)
            .unwrap();
        keep("c", 100);
        let there = ["a", "b", "c"].map(|name| slot(name).find().is_some());
        assert_eq!(there, [true, false, true]);
        assert!(!abandoned.exists());
    }
}
