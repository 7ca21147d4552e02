//! Staging folders, in which a model is prepared, and their cleanup. See
//! [`place`](super::place) for their content.

use std::{
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
};

use sha2::{Digest, Sha256};

use super::{
    disk::sync_folder,
    manifest::{Compare, MANIFEST, Manifest, STAGING, is_same},
};

/// File that marks that the target may have been touched.
const MOVING: &str = "moving";

/// A folder in which a model is prepared.
#[derive(Debug)]
pub(super) struct Staging {
    path: PathBuf,
    /// Keeps the lock, which the system releases when the process dies.
    _lock: File,
}

impl Staging {
    /// Creates a staging folder for `target` in `parent`.
    pub(super) fn create(parent: &Path, target: &Path) -> io::Result<Self> {
        loop {
            let mut builder = tempfile::Builder::new();
            let prefix = prefix_for(target);
            builder.prefix(&prefix);
            // With the permissions of any other new folder.
            #[cfg(unix)]
            builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o777));
            let path = builder.tempdir_in(parent)?.keep();
            let lock_path = path.join("lock");
            let lock = File::create_new(&lock_path).inspect_err(|_| {
                let _ = fs::remove_dir(&path);
            })?;
            match lock.try_lock() {
                // Another process considers it abandoned.
                Err(TryLockError::WouldBlock) => continue,
                // Without locks, abandoned folders are not recognized.
                Err(TryLockError::Error(_)) | Ok(()) => {}
            }
            if lock_path.exists() {
                return Ok(Self { path, _lock: lock });
            }
        }
    }

    /// Locks and returns the target's staging folders that dead processes left.
    pub(super) fn left_behind(parent: &Path, target: &Path) -> io::Result<Vec<Self>> {
        use io::ErrorKind::{NotFound, PermissionDenied};

        let prefix = prefix_for(target);
        let mut left = Vec::new();
        let entries = match fs::read_dir(parent) {
            // A folder that can't be listed may still have readable models, and
            // another process may just have moved this one.
            Err(error) if matches!(error.kind(), PermissionDenied | NotFound) => return Ok(left),
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            if !entry.file_name().to_string_lossy().starts_with(&prefix) {
                continue;
            }
            let path = entry.path();
            if let Ok(lock) = File::open(path.join("lock"))
                && lock.try_lock().is_ok()
            {
                left.push(Self { path, _lock: lock });
            }
        }
        Ok(left)
    }

    pub(super) fn download(&self) -> PathBuf {
        self.path.join("download.zip")
    }

    pub(super) fn new_model(&self) -> PathBuf {
        self.path.join("new")
    }

    pub(super) fn old_model(&self) -> PathBuf {
        self.path.join("old")
    }

    /// Marks that the folder may contain files of the target.
    pub(super) fn mark_moving(&self) -> io::Result<()> {
        File::create(self.path.join(MOVING))?.sync_all()?;
        sync_folder(&self.path);
        Ok(())
    }

    pub(super) fn is_moving(&self) -> bool {
        self.path.join(MOVING).exists()
    }

    /// Marks that the target has its files again, so that the folder can be removed.
    pub(super) fn settle(&self) -> io::Result<()> {
        match fs::remove_file(self.path.join(MOVING)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Removes the replaced model: the files that its list names. Files that
    /// somebody else put there are kept.
    pub(super) fn clean(self) {
        if self.is_moving() {
            for folder in [self.new_model(), self.old_model()] {
                discard(&folder);
                if folder.exists() {
                    tracing::warn!(
                        folder = %folder.display(),
                        "keeping files that `save_model` did not write in this folder"
                    );
                    return;
                }
            }
            let _ = self.settle();
        }
    }
}

impl Drop for Staging {
    /// Removes the folder, unless it may contain files of the user, which are left
    /// to `place::recover`.
    fn drop(&mut self) {
        if !self.is_moving() {
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

/// Removes the listed files of a model, and folders that are empty then.
pub(super) fn discard(folder: &Path) {
    let Ok(Some(manifest)) = Manifest::read(folder) else {
        // All files were moved out of it.
        remove_empty_tree(folder);
        return;
    };
    for file in &manifest.files {
        if is_same(folder, file, Compare::Contents).unwrap_or(false) {
            let _ = fs::remove_file(folder.join(&file.path));
        }
    }
    remove_empty(folder, &manifest);
    if fs::read_dir(folder).is_ok_and(|rest| rest.count() == 1) {
        let _ = fs::remove_file(folder.join(MANIFEST));
    }
    // Fails if it still contains files, which are kept.
    let _ = fs::remove_dir(folder);
}

/// Removes folders that contain no files.
fn remove_empty_tree(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_empty_tree(&entry.path());
        }
    }
    let _ = fs::remove_dir(folder);
}

/// Removes the empty folders of a model, the innermost first.
pub(super) fn remove_empty(folder: &Path, manifest: &Manifest) {
    let mut inner: Vec<&Path> = manifest
        .files
        .iter()
        .flat_map(|file| Path::new(&file.path).ancestors().skip(1))
        .filter(|path| !path.as_os_str().is_empty())
        .collect();
    inner.sort_by_key(|path| std::cmp::Reverse(path.components().count()));
    inner.dedup();
    for path in inner {
        // Fails if it still contains files, which are kept.
        let _ = fs::remove_dir(folder.join(path));
    }
}

/// Returns the prefix of the names of the target's staging folders.
fn prefix_for(target: &Path) -> String {
    let name = target.file_name().unwrap_or_default();
    let hash = hex::encode(Sha256::digest(name.as_encoded_bytes()));
    format!("{STAGING}{}-", &hash[..12])
}
