//! Moves a saved model into place. Whatever fails in between, a folder contains
//! either the old model or the new one, never a part of either.
//!
//! A model is written into a staging folder first:
//!
//! ```text
//! .finetuner-save-NAME-RANDOM/   beside the target, on the same disk
//!     lock                       locked as long as its process lives
//!     download.zip
//!     new/                       the new model; after the swap, the old one
//!     old/                       the old model, if folders can't be swapped
//!     moving                     exists from the first step that touches the target
//! ```
//!
//! Then it is swapped with the target. If the target can't be renamed (a mount point,
//! or a folder whose parent is read-only), the staging folder is inside it, and its
//! files are moved one by one. [`recover`] completes or undoes the work of a killed
//! process.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use super::{
    disk::{
        Disk, Real, identity, is_immovable, is_read_only, is_taken, lock_folder,
        must_stay_in_place, parent_of, resolve, sync_folder,
    },
    manifest::{Compare, MANIFEST, Manifest, check_free},
    staging::{Staging, discard, remove_empty},
    unpack::unpack_zip,
};
use crate::error::{Error, Result};

/// Maximum number of retries because other processes saved in between.
const RACES: usize = 100;

/// Target of a model or a zip.
#[derive(Debug)]
pub(super) struct Place {
    /// The path in errors.
    shown: PathBuf,
    /// The path with symbolic links resolved.
    target: PathBuf,
    pub(super) staging: Staging,
    /// Whether the staging folder is within the target.
    inside: bool,
}

impl Place {
    /// Prepares the target of a model; refuses a folder with any other file.
    pub(super) fn for_model(path: &Path) -> Result<Self> {
        let failed = |e| Error::file(path, e);
        let target = resolve(path).map_err(failed)?;
        recover(&target).map_err(failed)?;
        check_early(&target).map_err(failed)?;
        let parent = parent_of(&target);
        fs::create_dir_all(parent).map_err(|e| Error::file(parent, e))?;
        let beside = match must_stay_in_place(&target, parent) {
            true => None,
            false => match Staging::create(parent, &target) {
                Err(error) if target.is_dir() && is_read_only(&error) => None,
                created => Some(created.map_err(|e| Error::file(parent, e))?),
            },
        };
        let inside = beside.is_none();
        let staging = match beside {
            Some(staging) => staging,
            None => Staging::create(&target, &target).map_err(failed)?,
        };
        Ok(Self {
            shown: path.to_owned(),
            target,
            staging,
            inside,
        })
    }

    /// Prepares the target of a zip.
    pub(super) fn for_zip(path: &Path) -> Result<Self> {
        let parent = parent_of(path);
        let failed = |e| Error::file(parent, e);
        fs::create_dir_all(parent).map_err(failed)?;
        for left in Staging::left_behind(parent, path).map_err(failed)? {
            drop(left);
        }
        Ok(Self {
            shown: path.to_owned(),
            target: path.to_owned(),
            staging: Staging::create(parent, path).map_err(failed)?,
            inside: false,
        })
    }

    /// Moves the downloaded zip into place.
    pub(super) fn keep_zip(self, disk: &dyn Disk) -> Result<()> {
        let failed = |e| Error::file(&self.shown, e);
        disk.rename(&self.staging.download(), &self.target)
            .map_err(failed)?;
        sync_folder(parent_of(&self.target));
        Ok(())
    }

    /// Unpacks the downloaded zip and moves the model into place.
    pub(super) fn unpack(self, limit: u64, disk: &dyn Disk) -> Result<()> {
        let failed = |e| Error::file(&self.shown, e);
        let mut zip = File::open(self.staging.download()).map_err(failed)?;
        self.write_new(&self.staging, &mut zip, limit, disk)?;
        let placed = match self.inside {
            true => self.replace_inside(&self.staging, disk),
            false => self.replace_beside(disk),
        };
        match placed {
            // A mount point can't be renamed.
            Err(error) if !self.inside && is_immovable(&error) => {
                let staging = Staging::create(&self.target, &self.target).map_err(failed)?;
                self.write_new(&staging, &mut zip, limit, disk)?;
                self.replace_inside(&staging, disk).map_err(failed)?;
                staging.clean();
            }
            placed => {
                placed.map_err(failed)?;
                self.staging.clean();
            }
        }
        Ok(())
    }

    fn write_new(
        &self,
        staging: &Staging,
        zip: &mut File,
        limit: u64,
        disk: &dyn Disk,
    ) -> Result<()> {
        let failed = |e| Error::file(&self.shown, e);
        let new = staging.new_model();
        fs::create_dir(&new).map_err(failed)?;
        let files = unpack_zip(zip, &new, &self.shown, limit, disk)?;
        Manifest::new(files).write(&new, disk).map_err(failed)?;
        sync_folder(&new);
        Ok(())
    }

    /// Swaps the new model with the target.
    fn replace_beside(&self, disk: &dyn Disk) -> io::Result<()> {
        for _ in 0..RACES {
            if self.try_replace(disk)? {
                sync_folder(parent_of(&self.target));
                return Ok(());
            }
        }
        self.staging.settle()?;
        Err(io::Error::new(
            io::ErrorKind::ResourceBusy,
            "other programs keep saving to this folder: save to another one, or try again later",
        ))
    }

    /// Like [`Place::replace_beside`]; returns `false` if another process was faster.
    fn try_replace(&self, disk: &dyn Disk) -> io::Result<bool> {
        let (new, old) = (self.staging.new_model(), self.staging.old_model());
        if !self.target.exists() {
            return match disk.rename(&new, &self.target) {
                Err(error) if is_taken(&error) => Ok(false),
                renamed => renamed.map(|()| true),
            };
        }
        self.staging.mark_moving()?;
        match disk.exchange(&new, &self.target) {
            Ok(()) => {
                // Nobody else writes to the old model now, so its files can be checked.
                if let Err(error) = check_free(&new, Compare::Contents) {
                    disk.exchange(&new, &self.target)?;
                    self.staging.settle()?;
                    return Err(error);
                }
                return Ok(true);
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) if is_immovable(&error) => {
                self.staging.settle()?;
                return Err(error);
            }
            // The file system can't swap folders.
            Err(_) => {}
        }
        match disk.rename(&self.target, &old) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => {
                self.staging.settle()?;
                return Err(error);
            }
        }
        let checked = check_free(&old, Compare::Contents);
        let placed = checked.and_then(|()| disk.rename(&new, &self.target));
        let Err(error) = placed else {
            return Ok(true);
        };
        match disk.rename(&old, &self.target) {
            Ok(()) => {
                self.staging.settle()?;
                match is_taken(&error) {
                    true => Ok(false),
                    false => Err(error),
                }
            }
            // Another process was faster; it would have replaced this model anyway.
            Err(taken) if is_taken(&taken) => {
                discard(&old);
                match old.exists() {
                    true => Err(error),
                    false => Ok(false),
                }
            }
            Err(error) => Err(error),
        }
    }

    /// Moves the old model's files out of the target and the new model's files in;
    /// the list of files last.
    fn replace_inside(&self, staging: &Staging, disk: &dyn Disk) -> io::Result<()> {
        let _one_at_a_time = lock_folder(&self.target)?;
        check_free(&self.target, Compare::Contents)?;
        let (new, old) = (staging.new_model(), staging.old_model());
        let missing = || io::Error::other("the list of files has disappeared");
        let files = Manifest::read(&new)?.ok_or_else(missing)?;
        staging.mark_moving()?;
        let moved = (|| {
            if let Some(before) = Manifest::read(&self.target)? {
                move_files(&self.target, &old, &before, disk)?;
                remove_empty(&self.target, &before);
            }
            move_files(&new, &self.target, &files, disk)
        })();
        if moved.is_err() {
            take_back(staging, &self.target, disk)?;
            staging.settle()?;
        }
        sync_folder(&self.target);
        moved
    }
}

/// Moves a model's files, and then their list.
fn move_files(from: &Path, to: &Path, files: &Manifest, disk: &dyn Disk) -> io::Result<()> {
    let paths = files.files.iter().map(|file| file.path.as_str());
    for path in paths.chain([MANIFEST]) {
        let (from, to) = (from.join(path), to.join(path));
        if let Some(parent) = to.parent() {
            fs::create_dir_all(parent)?;
        }
        disk.rename(&from, &to)?;
    }
    Ok(())
}

/// Undoes [`Place::replace_inside`], wherever it has stopped. It may itself be
/// interrupted and repeated.
fn take_back(staging: &Staging, target: &Path, disk: &dyn Disk) -> io::Result<()> {
    let (new, old) = (staging.new_model(), staging.old_model());
    // The list is moved last, so without it the move was complete.
    let Some(files) = Manifest::read(&new)? else {
        return Ok(());
    };
    for file in &files.files {
        let (staged, placed) = (new.join(&file.path), target.join(&file.path));
        if !staged.exists() && placed.exists() {
            disk.rename(&placed, &staged)?;
        }
    }
    remove_empty(target, &files);
    let before = match Manifest::read(&old)? {
        // The old model was moved out completely.
        Some(before) => before,
        // Only a part was moved out, and its list is still in the target.
        None => match Manifest::read(target)? {
            Some(before) => before,
            None => return Ok(()),
        },
    };
    for path in before
        .files
        .iter()
        .map(|file| file.path.as_str())
        .chain([MANIFEST])
    {
        let (from, to) = (old.join(path), target.join(path));
        if from.exists() {
            if let Some(parent) = to.parent() {
                fs::create_dir_all(parent)?;
            }
            disk.rename(&from, &to)?;
        }
    }
    Ok(())
}

/// Completes or undoes the work of processes that died while saving to `target`.
/// Blocks.
pub(crate) fn recover(target: &Path) -> io::Result<()> {
    let real = fs::canonicalize(target);
    let target = real.as_deref().unwrap_or(target);
    let parent = parent_of(target);
    if parent.is_dir() {
        for staging in Staging::left_behind(parent, target)? {
            let old = staging.old_model();
            if old.exists() && !target.exists() {
                match fs::rename(&old, target) {
                    Err(error) if !is_taken(&error) => return Err(error),
                    _ => {}
                }
            }
            staging.clean();
        }
    }
    if target.is_dir() {
        for staging in Staging::left_behind(target, target)? {
            if staging.is_moving() {
                let _one_at_a_time = lock_folder(target)?;
                if is_complete(&staging)? {
                    staging.clean();
                } else {
                    take_back(&staging, target, &Real)?;
                    staging.settle()?;
                }
            }
        }
    }
    Ok(())
}

/// Whether all files of the new model are in the target. Its list is moved last, so
/// it is no longer in the staging folder.
fn is_complete(staging: &Staging) -> io::Result<bool> {
    Ok(Manifest::read(&staging.new_model())?.is_none())
}

/// Refuses a folder that is not free, before the download. Contents are compared
/// later, when nobody else writes to the folder.
fn check_early(target: &Path) -> io::Result<()> {
    for _ in 0..RACES {
        let _one_at_a_time = match target.is_dir() {
            true => lock_folder(target)?,
            false => None,
        };
        let before = identity(target);
        let checked = check_free(target, Compare::Sizes);
        // Another process may have replaced the folder meanwhile, or may be about
        // to.
        let is_gone = matches!(&checked, Err(error) if error.kind() == io::ErrorKind::NotFound);
        if !is_gone && before == identity(target) {
            return checked;
        }
    }
    Ok(())
}
