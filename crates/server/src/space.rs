//! Free space on the disk. A reserve is kept for runs in progress: new uploads
//! and runs are refused early, so that checkpoints, models and database rows
//! still fit.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::error::{ApiError, Result};

/// Maximum default reserve, in bytes.
const MOST_BY_DEFAULT: u64 = 512 << 20;
/// Divisor of the disk size for the default reserve.
const PART_BY_DEFAULT: u64 = 20;

/// Free and total size of a disk, in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Disk {
    pub(crate) free: u64,
    pub(crate) total: u64,
}

/// Function that measures the disk of a folder. `None` if the system does not
/// report it.
type Measure = Arc<dyn Fn(&Path) -> Option<Disk> + Send + Sync>;

/// Free space on the disk of the data folder.
#[derive(Clone)]
pub(crate) struct Space {
    folder: PathBuf,
    /// Reserve in bytes. `None` for the default, a part of the disk.
    reserve: Option<u64>,
    measure: Measure,
}

impl Space {
    pub(crate) fn new(folder: PathBuf, reserve: Option<u64>) -> Self {
        Self::with(folder, reserve, Arc::new(measure))
    }

    fn with(folder: PathBuf, reserve: Option<u64>, measure: Measure) -> Self {
        Self {
            folder,
            reserve,
            measure,
        }
    }

    /// Measures the disk of the data folder, if the system reports it.
    pub(crate) fn disk(&self) -> Option<Disk> {
        (self.measure)(&self.folder)
    }

    /// Returns the folder whose disk this is.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Refuses something new of `bytes` bytes if it would use the reserve.
    pub(crate) fn check(&self, what: &str, bytes: u64) -> Result<()> {
        let Some(disk) = (self.measure)(&self.folder) else {
            return Ok(());
        };
        let by_default = (disk.total / PART_BY_DEFAULT).min(MOST_BY_DEFAULT);
        let reserve = self.reserve.unwrap_or(by_default);
        if disk.free.saturating_sub(bytes) >= reserve {
            return Ok(());
        }
        Err(ApiError::full(format!(
            "{what}: the server's disk has {} MiB free, and {} MiB are reserved for runs in \
             progress: delete data or runs, or ask the operator for more space",
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
fn measure(folder: &Path) -> Option<Disk> {
    let found = rustix::fs::statvfs(folder).ok()?;
    Some(Disk {
        free: found.f_bavail.saturating_mul(found.f_frsize),
        total: found.f_blocks.saturating_mul(found.f_frsize),
    })
}

#[cfg(not(unix))]
fn measure(_: &Path) -> Option<Disk> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reserve_of_the_disk_stays_free() {
        let free = |free: u64, reserve| {
            let disk = Disk {
                free,
                total: 1000 << 20,
            };
            Space::with(PathBuf::new(), reserve, Arc::new(move |_| Some(disk)))
        };
        // The default reserve of this disk is a twentieth, 50 MiB.
        free(60 << 20, None).check("upload", 10 << 20).unwrap();
        let error = free(60 << 20, None).check("upload", 11 << 20).unwrap_err();
        assert_eq!(error.status(), 507);
        assert!(
            error
                .message()
                .contains("60 MiB free, and 50 MiB are reserved"),
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
    fn the_disk_is_measured() {
        let disk = measure(&std::env::temp_dir()).unwrap();
        assert!(disk.total > 0 && disk.free <= disk.total);
    }
}
