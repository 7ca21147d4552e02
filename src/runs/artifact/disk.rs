//! What saving a model needs of a file system. Writing operations are behind a
//! trait, so that tests can make each of them fail or kill the process there.

use std::{
    fs::{self, File, TryLockError},
    io::{self, Write},
    path::{Path, PathBuf},
    time::Duration,
};

/// How long a saver waits for another that moves files in the same folder, in
/// steps of a tenth of a second.
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

    /// Swaps two folders in one step. Not every system can.
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

/// Flushes the entries of a folder to the disk, where the system can.
pub(super) fn sync_folder(folder: &Path) {
    // Without it, a power failure may undo the last rename, but never halve it.
    if let Ok(folder) = File::open(folder) {
        let _ = folder.sync_all();
    }
}

/// Tells a folder from another that takes its place.
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

/// Lets one saver at a time move files in a folder.
pub(super) fn lock_folder(folder: &Path) -> io::Result<Option<File>> {
    // Not every system opens folders, or locks them.
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
        "another program saves a model here and does not end",
    ))
}

/// The path without links at its end, and absolute.
pub(super) fn resolve(path: &Path) -> io::Result<PathBuf> {
    let is_link = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        found => found?.is_symlink(),
    };
    match fs::canonicalize(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => match is_link {
            true => Err(io::Error::new(
                error.kind(),
                "it is a link to something that is not there",
            )),
            // Nothing is there, or another saver has just moved it.
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

/// Whether this program works in the folder: a swap would move it away.
fn holds_current_folder(target: &Path) -> bool {
    std::env::current_dir().is_ok_and(|current| current.starts_with(target))
}

pub(super) fn is_read_only(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem
    )
}

/// Whether a rename failed because its target is there and not empty.
pub(super) fn is_taken(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::AlreadyExists | io::ErrorKind::DirectoryNotEmpty
    )
}

/// Whether a folder can't be renamed because of where it is.
pub(super) fn is_immovable(error: &io::Error) -> bool {
    is_read_only(error)
        || matches!(
            error.kind(),
            io::ErrorKind::ResourceBusy | io::ErrorKind::CrossesDevices
        )
}
