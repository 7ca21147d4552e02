//! Cache of contents that workers of this machine have fetched, as files named
//! by their SHA-256.
//!
//! Several workers may use the folder at the same time. A file appears
//! complete, by a rename, and is verified against its name at every use, so a
//! damaged file is never used. The cache has a size limit and evicts the least
//! recently used files. A broken cache costs only time.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io::{self, Read, Write},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use sha2::{Digest, Sha256};

use super::variables::{WORKER_CACHE, WORKER_CACHE_MB};
use crate::private::private_folder;

/// Default size limit, in MiB.
const LIMIT_MB: u64 = 20 << 10;
/// Subfolder for the files, because the named folder may belong to others.
const CONTENTS: &str = "contents";
/// Prefix of unfinished files' names.
const UNFINISHED: &str = ".part-";
/// Age after which unfinished files of killed workers are removed.
const ABANDONED: Duration = Duration::from_secs(24 * 3600);
/// Buffer size for copying, in bytes.
const PIECE: usize = 1 << 20;

/// A cache of contents.
#[derive(Clone, Debug)]
pub(super) struct Cache {
    folder: PathBuf,
    /// Size limit, in bytes.
    limit: u64,
}

impl Cache {
    /// Opens the cache that the environment names, if it names one.
    pub(super) fn of_this_process() -> Result<Option<Self>, String> {
        let set = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        let Some(folder) = set(WORKER_CACHE) else {
            return Ok(None);
        };
        let limit = limit(set(WORKER_CACHE_MB).as_deref())?;
        Self::open(Path::new(&folder), limit).map(Some)
    }

    pub(super) fn open(folder: &Path, limit: u64) -> Result<Self, String> {
        let contents = folder.join(CONTENTS);
        fs::create_dir_all(&contents)
            .and_then(|()| private_folder(&contents))
            .map_err(|e| format!("{WORKER_CACHE} ({}): {e}", folder.display()))?;
        Ok(Self {
            folder: contents,
            limit,
        })
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Copies a content to a file. Returns false if the cache does not have it.
    /// Removes a damaged file and returns false. Blocks.
    pub(super) fn take(&self, sha256: &str, to: &Path) -> io::Result<bool> {
        let Some(path) = self.path_of(sha256) else {
            return Ok(false);
        };
        let mut file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        };
        if copy(&mut file, &mut File::create(to)?)? == sha256 {
            // The modification time is the time of last use. If it can't be set, the
            // file is evicted sooner.
            let _ = file.set_modified(SystemTime::now());
            return Ok(true);
        }
        // If it can't be removed, the next copy replaces it.
        let _ = fs::remove_file(&path);
        Ok(false)
    }

    /// Stores a copy of a verified file, unless it is larger than the limit.
    /// Blocks.
    pub(super) fn keep(&self, sha256: &str, from: &Path) -> io::Result<()> {
        let mut from = File::open(from)?;
        let size = from.metadata()?.len();
        let Some(path) = self.path_of(sha256).filter(|_| size <= self.limit) else {
            return Ok(());
        };
        self.evict(size);
        // `tempfile` creates files that only their owner can read.
        let mut file = tempfile::Builder::new()
            .prefix(UNFINISHED)
            .tempfile_in(&self.folder)?;
        copy(&mut from, file.as_file_mut())?;
        file.persist(path).map_err(|e| e.error)?;
        Ok(())
    }

    /// Returns the path of a content, or `None` if the name is not a SHA-256.
    fn path_of(&self, sha256: &str) -> Option<PathBuf> {
        is_sum(sha256).then(|| self.folder.join(sha256))
    }

    /// Evicts the least recently used files until `size` more bytes fit, and
    /// removes abandoned files of killed workers. Workers that do so at the same
    /// time choose the same files.
    fn evict(&self, size: u64) {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            let Ok(found) = entry.metadata() else {
                continue;
            };
            let used = found.modified().unwrap_or(SystemTime::UNIX_EPOCH);
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if is_sum(&name) {
                files.push((used, found.len(), entry.path()));
            } else if name.starts_with(UNFINISHED)
                && used.elapsed().is_ok_and(|age| age > ABANDONED)
            {
                let _ = fs::remove_file(entry.path());
            }
        }
        files.sort();
        let mut sum: u64 = files.iter().map(|(_, length, _)| length).sum();
        for (_, length, path) in files {
            if sum.saturating_add(size) <= self.limit {
                break;
            }
            // Another worker may have removed it. A file that is open stays readable.
            let _ = fs::remove_file(path);
            sum -= length;
        }
    }
}

/// Parses the variable. Returns the limit in bytes.
fn limit(megabytes: Option<&OsStr>) -> Result<u64, String> {
    let Some(text) = megabytes else {
        return Ok(LIMIT_MB << 20);
    };
    let number = text
        .to_str()
        .and_then(|text| text.trim().parse::<u64>().ok());
    let number = number.ok_or_else(|| {
        format!(
            "{WORKER_CACHE_MB} is `{}`: give a whole number of MiB, such as {LIMIT_MB}",
            text.display()
        )
    })?;
    Ok(number.saturating_mul(1 << 20))
}

fn is_sum(name: &str) -> bool {
    name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Copies all bytes. Returns their SHA-256 as hex digits.
fn copy(from: &mut File, to: &mut File) -> io::Result<String> {
    let mut sum = Sha256::new();
    let mut piece = vec![0; PIECE];
    loop {
        match from.read(&mut piece)? {
            0 => return Ok(hex::encode(sum.finalize())),
            count => {
                sum.update(&piece[..count]);
                to.write_all(&piece[..count])?;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Place {
        folder: tempfile::TempDir,
        cache: Cache,
    }

    fn place(limit: u64) -> Place {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(&folder.path().join("cache"), limit).unwrap();
        Place { folder, cache }
    }

    impl Place {
        fn keep(&self, bytes: &str) -> String {
            let file = self.folder.path().join("fetched");
            fs::write(&file, bytes).unwrap();
            let sum = hex::encode(Sha256::digest(bytes));
            self.cache.keep(&sum, &file).unwrap();
            sum
        }

        fn take(&self, sum: &str) -> Option<String> {
            let file = self.folder.path().join("taken");
            let taken = self.cache.take(sum, &file).unwrap();
            taken.then(|| fs::read_to_string(file).unwrap())
        }

        fn used(&self, sum: &str, seconds_ago: u64) {
            let file = File::open(self.cache.folder().join(sum)).unwrap();
            let used = SystemTime::now() - Duration::from_secs(seconds_ago);
            file.set_modified(used).unwrap();
        }
    }

    #[test]
    fn cached_content_is_reused_unless_damaged() {
        let place = place(1000);
        let sum = place.keep("abc");
        assert_eq!(place.take(&sum).unwrap(), "abc");
        assert_eq!(place.take(&hex::encode(Sha256::digest("other"))), None);
        // Two workers that store the same content do no harm.
        assert_eq!(place.keep("abc"), sum);
        let file = place.cache.folder().join(&sum);
        fs::write(&file, "abd").unwrap();
        assert_eq!(place.take(&sum), None);
        assert!(!file.exists());
        // A name that is not a SHA-256 has no file.
        assert_eq!(place.take("../fetched"), None);
    }

    #[test]
    #[cfg(unix)]
    fn the_cache_is_readable_only_by_its_owner() {
        use std::os::unix::fs::PermissionsExt;

        let place = place(1000);
        let sum = place.keep("abc");
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(place.cache.folder()), 0o700);
        assert_eq!(mode(&place.cache.folder().join(sum)), 0o600);
    }

    #[test]
    fn the_least_recently_used_content_is_evicted() {
        let place = place(250);
        let [a, b] = ["a", "b"].map(|text| place.keep(&text.repeat(100)));
        place.used(&a, 300);
        place.used(&b, 200);
        place.take(&a).unwrap();
        let abandoned = place.cache.folder().join(".part-old");
        fs::write(&abandoned, "x").unwrap();
        let file = File::open(&abandoned).unwrap();
        file.set_modified(SystemTime::now() - 2 * ABANDONED)
            .unwrap();
        let c = place.keep(&"c".repeat(100));
        let there = [&a, &b, &c].map(|sum| place.take(sum).is_some());
        assert_eq!(there, [true, false, true]);
        assert!(!abandoned.exists());
        // A file that does not fit evicts nothing.
        let large = place.keep(&"d".repeat(251));
        let there = [&a, &c, &large].map(|sum| place.take(sum).is_some());
        assert_eq!(there, [true, true, false]);
    }

    #[test]
    fn an_invalid_limit_is_reported() {
        assert_eq!(limit(None).unwrap(), 20 << 30);
        assert_eq!(limit(Some("3".as_ref())).unwrap(), 3 << 20);
        let error = limit(Some("lots".as_ref())).unwrap_err();
        assert!(
            error.contains("FINETUNER_WORKER_CACHE_MB is `lots`"),
            "{error}"
        );
    }
}
