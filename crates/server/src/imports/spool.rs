//! Temporary storage of a file that is being uploaded, in its own folder beside
//! the database.

use std::{
    io,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use tempfile::TempDir;
use tokio::{fs::File, io::AsyncWriteExt};

use crate::{
    app::App,
    error::{ApiError, Result},
    space::Space,
    store::MAX_ARTIFACT_BYTES,
};

/// Prefix of the folders' names.
const PREFIX: &str = "incoming-";
/// Interval between checks of free disk space, in bytes.
const CHECK_INTERVAL: u64 = 16 << 20;
/// Maximum number of characters kept of a file name.
const MAX_NAME: usize = 100;

/// A file that is being received. Dropping it deletes the file.
pub(crate) struct Spool {
    folder: TempDir,
    file: File,
    name: String,
    size: u64,
    space: Space,
}

impl Spool {
    /// Creates an empty file. `name` is the file name that the client sent.
    pub(crate) async fn begin(app: &App, name: &str) -> Result<Self> {
        let space = app.space.clone();
        space.check("upload", 0)?;
        let folder = tempfile::Builder::new()
            .prefix(PREFIX)
            .tempdir_in(space.folder())
            .map_err(stored)?;
        let name = plain_name(name);
        let file = File::create(folder.path().join(&name)).await;
        Ok(Self {
            file: file.map_err(stored)?,
            folder,
            name,
            size: 0,
            space,
        })
    }

    /// Appends bytes. Fails if the file is too large or the disk is almost full.
    pub(crate) async fn write(&mut self, bytes: Bytes) -> Result<()> {
        let before = self.size;
        self.size += bytes.len() as u64;
        if self.size > MAX_ARTIFACT_BYTES {
            return Err(ApiError::too_large(format!(
                "`file` has more than {} GiB: split it",
                MAX_ARTIFACT_BYTES >> 30
            )));
        }
        if before / CHECK_INTERVAL != self.size / CHECK_INTERVAL {
            self.space.check("upload", 0)?;
        }
        self.file.write_all(&bytes).await.map_err(stored)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.size == 0
    }

    /// Flushes the file and makes it readable.
    pub(super) async fn finish(mut self) -> Result<Spooled> {
        self.file.flush().await.map_err(stored)?;
        Ok(Spooled {
            folder: self.folder,
            name: self.name,
            size: self.size,
        })
    }
}

/// A completely received file. Dropping it deletes the file.
pub(super) struct Spooled {
    folder: TempDir,
    /// Its sanitised name in the folder.
    pub(super) name: String,
    pub(super) size: u64,
}

impl Spooled {
    /// Returns the folder that contains the file and unpacked contents.
    pub(super) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(super) fn path(&self) -> PathBuf {
        self.folder.path().join(&self.name)
    }
}

/// Converts a write error.
pub(super) fn stored(error: io::Error) -> ApiError {
    error.into()
}

/// Returns the last component of a file name, without special characters.
fn plain_name(name: &str) -> String {
    let last = name.rsplit(['/', '\\']).next().unwrap_or_default();
    let plain = |c: char| match c {
        c if c.is_alphanumeric() || "._- ".contains(c) => c,
        _ => '_',
    };
    let plain: String = last.chars().map(plain).collect();
    // Keep the extension, because it determines the file type.
    let count = plain.chars().count();
    let plain: String = plain.chars().skip(count.saturating_sub(MAX_NAME)).collect();
    let plain = plain.trim_start_matches('.');
    match plain {
        "" => "data".to_owned(),
        plain => plain.to_owned(),
    }
}

/// Deletes folders that a killed server left behind. Blocks.
pub(crate) fn sweep(folder: &Path) {
    let Ok(found) = std::fs::read_dir(folder) else {
        return;
    };
    for entry in found.flatten() {
        if !entry.file_name().to_string_lossy().starts_with(PREFIX) {
            continue;
        }
        if let Err(error) = std::fs::remove_dir_all(entry.path()) {
            let path = entry.path();
            tracing::warn!("Can't delete {}: {error}", path.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_names_lose_their_folders_and_special_characters() {
        for (name, plain) in [
            ("train.csv", "train.csv"),
            ("../../etc/passwd", "passwd"),
            ("C:\\data\\größe 1.jsonl", "größe 1.jsonl"),
            ("..", "data"),
            ("", "data"),
            ("a\0b<c>.csv", "a_b_c_.csv"),
        ] {
            assert_eq!(plain_name(name), plain);
        }
        // File systems limit a name to 255 bytes.
        assert!(plain_name(&format!("{}.csv", "ä".repeat(300))).len() < 255);
        assert!(plain_name(&format!("{}.csv", "ä".repeat(300))).ends_with(".csv"));
    }

    #[test]
    fn only_leftover_upload_folders_are_removed() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["incoming-1", "content"] {
            std::fs::create_dir(folder.path().join(name)).unwrap();
        }
        sweep(folder.path());
        let names = std::fs::read_dir(folder.path()).unwrap();
        let names: Vec<_> = names.map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["content"]);
    }
}
