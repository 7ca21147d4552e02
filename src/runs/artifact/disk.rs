//! File system operations for saving a model. Writing operations are behind a
//! trait, so that tests can make each of them fail or kill the process.

use std::{
    fs::{self, File, TryLockError},
    io::{self, Write},
    path::{Path, PathBuf},
    time::Duration,
};

/// Attempts to lock a folder, each followed by a pause of a tenth of a second.
const LOCK_TRIES: usize = 600;

/// Writing operations of a file system.
pub(crate) trait Disk {
    /// Creates a file that must not exist yet.
    fn create(&self, path: &Path) -> io::Result<Box<dyn SyncWrite>> {
        Ok(Box::new(File::create_new(path)?))
    }

    /// Renames a file or folder.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    /// Swaps two folders atomically. Not every system supports this.
    fn exchange(&self, one: &Path, other: &Path) -> io::Result<()> {
        exchange(one, other)
    }
}

/// A file that can be flushed to the disk.
pub(crate) trait SyncWrite: Write {
    /// Flushes the content to the disk.
    fn sync(&self) -> io::Result<()>;
}

impl SyncWrite for File {
    fn sync(&self) -> io::Result<()> {
        self.sync_all()
    }
}

/// The file systems of this machine.
pub(crate) struct Real;

impl Disk for Real {}

#[cfg(any(target_os = "linux", target_os = "android", target_vendor = "apple"))]
fn exchange(one: &Path, other: &Path) -> io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};

    Ok(renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE)?)
}

#[cfg(not(any(target_os = "linux", target_os = "android", target_vendor = "apple")))]
fn exchange(_: &Path, _: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Flushes the entries of a folder to the disk, if the system supports this.
pub(super) fn sync_folder(folder: &Path) {
    // Otherwise a power failure may undo the last rename, but not half of it.
    if let Ok(folder) = File::open(folder) {
        let _ = folder.sync_all();
    }
}

/// Returns a folder's identity, which changes if another folder replaces it.
pub(super) fn identity(path: &Path) -> Option<(u64, u64)> {
    let found = fs::metadata(path).ok()?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        Some((found.dev(), found.ino()))
    }
    #[cfg(not(unix))]
    Some((0, found.len()))
}

/// Locks a folder, so that only one process moves files in it.
pub(super) fn lock_folder(folder: &Path) -> io::Result<Option<File>> {
    // Not every system can open folders or lock them.
    let Ok(file) = File::open(folder) else {
        return Ok(None);
    };
    for _ in 0..LOCK_TRIES {
        match file.try_lock() {
            Ok(()) => return Ok(Some(file)),
            Err(TryLockError::Error(_)) => return Ok(None),
            Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(100)),
        }
    }
    Err(io::Error::new(
        io::ErrorKind::ResourceBusy,
        "another program has been saving a model here for a minute",
    ))
}

/// Returns the absolute path, with symbolic links resolved.
pub(super) fn resolve(path: &Path) -> io::Result<PathBuf> {
    let is_link = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        found => found?.is_symlink(),
    };
    match fs::canonicalize(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => match is_link {
            true => Err(io::Error::new(
                error.kind(),
                "it is a symbolic link to a path that does not exist",
            )),
            // It does not exist, or another process has just moved it.
            false => std::path::absolute(path),
        },
        found => found,
    }
}

pub(super) fn parent_of(path: &Path) -> &Path {
    path.parent().unwrap_or(path)
}

#[cfg(unix)]
pub(super) fn must_stay_in_place(target: &Path, parent: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;

    let device = |path| fs::metadata(path).map(|found| found.dev());
    // The root of the file system has no parent.
    target == parent
        || holds_current_folder(target)
        || matches!((device(target), device(parent)), (Ok(one), Ok(other)) if one != other)
}

#[cfg(not(unix))]
pub(super) fn must_stay_in_place(target: &Path, parent: &Path) -> bool {
    target == parent || holds_current_folder(target)
}

/// Whether this process works in the folder: a swap would move it away.
fn holds_current_folder(target: &Path) -> bool {
    std::env::current_dir().is_ok_and(|current| current.starts_with(target))
}

pub(super) fn is_read_only(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem
    )
}

/// Whether a rename failed because its target exists and is not empty.
pub(super) fn is_taken(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::AlreadyExists | io::ErrorKind::DirectoryNotEmpty
    )
}

/// Whether a folder can't be renamed because of its location.
pub(super) fn is_immovable(error: &io::Error) -> bool {
    is_read_only(error)
        || matches!(
            error.kind(),
            io::ErrorKind::ResourceBusy | io::ErrorKind::CrossesDevices
        )
}
