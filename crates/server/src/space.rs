//! The room on the disk. The last of it is kept for finishing what runs: new
//! uploads and runs are refused while checkpoints, models and the database's own
//! rows still fit.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::error::{ApiError, Result};

/// The most bytes that are kept by default.
const MOST_BY_DEFAULT: u64 = 512 << 20;
/// The part of the disk that is kept by default: one of so many.
const PART_BY_DEFAULT: u64 = 20;

/// The bytes of a disk.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Disk {
    pub(crate) free: u64,
    pub(crate) total: u64,
}

/// Looks at the disk of a folder. None if the system does not tell.
type Look = Arc<dyn Fn(&Path) -> Option<Disk> + Send + Sync>;

/// The room on the disk of the data folder.
#[derive(Clone)]
pub(crate) struct Space {
    folder: PathBuf,
    /// Bytes to keep; a part of the disk if there is no setting.
    reserve: Option<u64>,
    look: Look,
}

impl Space {
    pub(crate) fn new(folder: PathBuf, reserve: Option<u64>) -> Self {
        Self::with(folder, reserve, Arc::new(look))
    }

    fn with(folder: PathBuf, reserve: Option<u64>, look: Look) -> Self {
        Self {
            folder,
            reserve,
            look,
        }
    }

    /// The disk of the data folder, if the system tells.
    pub(crate) fn disk(&self) -> Option<Disk> {
        (self.look)(&self.folder)
    }

    /// Returns the folder whose disk this is.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Refuses something new of so many bytes if it would use the reserve.
    pub(crate) fn check(&self, what: &str, bytes: u64) -> Result<()> {
        let Some(disk) = (self.look)(&self.folder) else {
            return Ok(());
        };
        let by_default = (disk.total / PART_BY_DEFAULT).min(MOST_BY_DEFAULT);
        let reserve = self.reserve.unwrap_or(by_default);
        if disk.free.saturating_sub(bytes) >= reserve {
            return Ok(());
        }
        Err(ApiError::full(format!(
            "{what}: the server's disk has {} MiB free, and {} MiB are kept for the runs in \
             progress: delete data or runs, or ask the operator for more room",
            disk.free >> 20,
            reserve >> 20
        )))
    }
}

impl fmt::Debug for Space {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Space")
            .field("folder", &self.folder)
            .field("reserve", &self.reserve)
            .finish_non_exhaustive()
    }
}

#[cfg(unix)]
fn look(folder: &Path) -> Option<Disk> {
    let found = rustix::fs::statvfs(folder).ok()?;
    Some(Disk {
        free: found.f_bavail.saturating_mul(found.f_frsize),
        total: found.f_blocks.saturating_mul(found.f_frsize),
    })
}

#[cfg(not(unix))]
fn look(_: &Path) -> Option<Disk> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_of_the_disk_is_kept() {
        let free = |free: u64, reserve| {
            let disk = Disk {
                free,
                total: 1000 << 20,
            };
            Space::with(PathBuf::new(), reserve, Arc::new(move |_| Some(disk)))
        };
        // A twentieth of this disk: 50 MiB.
        free(60 << 20, None).check("upload", 10 << 20).unwrap();
        let error = free(60 << 20, None).check("upload", 11 << 20).unwrap_err();
        assert_eq!(error.status(), 507);
        assert!(
            error.message().contains("60 MiB free, and 50 MiB are kept"),
            "{}",
            error.message()
        );
        free(60 << 20, Some(0)).check("upload", 60 << 20).unwrap();
        assert!(free(60 << 20, Some(61 << 20)).check("run", 0).is_err());
        let unknown = Space::with(PathBuf::new(), None, Arc::new(|_| None));
        unknown.check("run", u64::MAX).unwrap();
    }

    #[cfg(unix)]
    #[test]
    fn the_disk_is_looked_at() {
        let disk = look(&std::env::temp_dir()).unwrap();
        assert!(disk.total > 0 && disk.free <= disk.total);
    }
}
