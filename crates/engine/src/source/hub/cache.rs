//! The cache of the hub's own tools: `blobs` by their ETags, `snapshots` of
//! commits with links to blobs, `refs` from revisions to commits, and markers
//! of files that a commit lacks.

use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// The folder with all models.
#[derive(Clone, Debug)]
pub(super) struct Cache(PathBuf);

impl Cache {
    /// Returns `HF_HUB_CACHE`, or `hub` in `HF_HOME`, or the user's default
    /// cache.
    pub(super) fn from_env() -> Self {
        let given = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        if let Some(cache) = given("HF_HUB_CACHE") {
            return Self(cache.into());
        }
        let home = given("HF_HOME").map(PathBuf::from).or_else(|| {
            let user = std::env::home_dir()?;
            Some(user.join(".cache").join("huggingface"))
        });
        // Without a home folder, the cache is in the current folder.
        Self(home.unwrap_or_default().join("hub"))
    }

    #[cfg(test)]
    pub(super) fn at(folder: &Path) -> Self {
        Self(folder.to_owned())
    }

    pub(super) fn folder(&self) -> &Path {
        &self.0
    }

    /// Reads the token file next to the cache.
    pub(super) fn token(&self) -> Option<String> {
        let token = std::fs::read_to_string(self.0.parent()?.join("token")).ok()?;
        Some(token.trim().to_owned()).filter(|token| !token.is_empty())
    }

    /// Returns the cache of one model, `owner/name`.
    pub(super) fn repo(&self, name: &str) -> RepoCache {
        let folder = format!("models--{}", name.replace('/', "--"));
        RepoCache(self.0.join(folder))
    }
}

/// The cached files of one model.
pub(super) struct RepoCache(PathBuf);

impl RepoCache {
    /// Returns the commit of a revision at the time of its download. A commit
    /// is its own revision.
    pub(super) fn commit(&self, revision: &str) -> Option<String> {
        if is_commit(revision) {
            return Some(revision.to_owned());
        }
        let commit = std::fs::read_to_string(self.0.join("refs").join(revision)).ok()?;
        Some(commit.trim().to_owned()).filter(|commit| is_plain(commit))
    }

    pub(super) fn store_commit(&self, revision: &str, commit: &str) -> Result<()> {
        if is_commit(revision) {
            return Ok(());
        }
        write(&self.0.join("refs").join(revision), commit.as_bytes())
    }

    pub(super) fn find(&self, commit: &str, file: &str) -> Option<PathBuf> {
        let path = self.0.join("snapshots").join(commit).join(file);
        path.is_file().then_some(path)
    }

    fn absent(&self, commit: &str, file: &str) -> PathBuf {
        self.0.join(".no_exist").join(commit).join(file)
    }

    /// Returns whether the hub reported that a commit lacks a file.
    pub(super) fn is_absent(&self, commit: &str, file: &str) -> bool {
        self.absent(commit, file).is_file()
    }

    pub(super) fn mark_absent(&self, commit: &str, file: &str) -> Result<()> {
        write(&self.absent(commit, file), b"")
    }

    /// Returns the path for the content with this ETag. The file may not exist
    /// yet.
    pub(super) fn blob(&self, etag: &str) -> Result<PathBuf> {
        let folder = self.0.join("blobs");
        std::fs::create_dir_all(&folder).map_err(|e| Error::io(&folder, e))?;
        Ok(folder.join(etag))
    }

    /// Links a blob under its name in a commit.
    pub(super) fn link(&self, commit: &str, file: &str, etag: &str) -> Result<PathBuf> {
        let path = self.0.join("snapshots").join(commit).join(file);
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
        }
        // Up from the file's folders, the commit and `snapshots`.
        let up = "../".repeat(2 + file.matches('/').count());
        let target = format!("{up}blobs/{etag}");
        // If another process created the link, it is equally correct.
        let _ = std::fs::remove_file(&path);
        #[cfg(unix)]
        let linked = std::os::unix::fs::symlink(target, &path);
        #[cfg(not(unix))]
        let linked = std::fs::copy(self.0.join("blobs").join(etag), &path).map(|_| drop(target));
        match linked {
            Err(e) if !path.is_file() => Err(Error::io(&path, e)),
            _ => Ok(path),
        }
    }
}

/// Returns whether a revision is a full commit hash.
fn is_commit(revision: &str) -> bool {
    revision.len() == 40 && revision.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Returns whether a commit or ETag from the hub is safe as a file name.
pub(super) fn is_plain(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    (1..=128).contains(&name.len()) && name.bytes().all(allowed)
}

/// Writes a file atomically.
fn write(path: &Path, content: &[u8]) -> Result<()> {
    let io = |e| Error::io(path, e);
    let folder = path.parent().unwrap_or(path);
    std::fs::create_dir_all(folder).map_err(io)?;
    let mut file = tempfile::NamedTempFile::new_in(folder).map_err(io)?;
    std::io::Write::write_all(&mut file, content).map_err(io)?;
    file.persist(path).map_err(|e| io(e.error))?;
    Ok(())
}
