//! Saving what a run has made. What arrives is checked, and appears whole or
//! not at all. Saving again replaces the files that were saved before and no
//! others.

mod disk;
mod manifest;
mod place;
mod staging;
#[cfg(test)]
mod tests;
mod unpack;

use std::{
    future::{Future, IntoFuture},
    path::{Path, PathBuf},
    pin::Pin,
};

use tokio::io::AsyncWriteExt;

use super::run::Run;
use crate::{
    data::blocking,
    error::{Error, Result},
    transport::{Expected, ProgressSink, download, progress_methods},
};

use disk::Real;
use place::Place;
#[cfg(feature = "local")]
pub(crate) use place::recover;
use unpack::MAX_UNPACKED;

impl Run {
    /// Saves the fine-tuned model as a folder in Hugging Face layout, which
    /// `transformers` opens, beside the run's configuration and metrics.
    /// Awaiting it returns the folder.
    ///
    /// The folder is created. A model that was saved there before is replaced;
    /// `.finetuner-files.json` lists its files. If the folder holds any other
    /// file, or one that was changed since, the call fails, names it, and
    /// changes nothing. The download resumes after a broken connection and is
    /// verified. If the disk fills up, the old model stays. If the program is
    /// killed, the folder holds the old model or the new one. On a mount point,
    /// and where the system can't swap folders, it may be incomplete until the
    /// next `save_model` or `local::get_model` repairs it.
    pub fn save_model(&self, folder: impl AsRef<Path>) -> SaveArtifact {
        let saved = Saved::Unpacked(folder.as_ref().to_owned());
        SaveArtifact::new(self.clone(), saved)
    }

    /// Saves the artifact as it is, `{run}.zip` in this directory, which is
    /// created. A file of that name is replaced. Awaiting it returns the file.
    pub fn save_artifact(&self, directory: impl AsRef<Path>) -> SaveArtifact {
        let saved = Saved::Zip(directory.as_ref().to_owned());
        SaveArtifact::new(self.clone(), saved)
    }
}

/// Where an artifact is saved, and in which form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Saved {
    /// The model, as this folder.
    Unpacked(PathBuf),
    /// The zip, in this folder.
    Zip(PathBuf),
}

/// An artifact on its way to this machine, from
/// [`Run::save_model`] or [`Run::save_artifact`]. Awaiting it returns the path.
///
/// ```no_run
/// # async fn example(finetuner: finetuner::Finetuner) -> finetuner::Result<()> {
/// let run = finetuner.get_run("clip-fashion-1").await?;
/// let saved = run.save_artifact("artifacts").await?;
/// println!("{}", saved.display());
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// Awaiting it gives [`Error::is_run_in_progress`] before the run has finished,
/// [`Error::is_run_failed`] where it has failed, [`Error::is_artifact`] where
/// what arrives is not what was announced, and [`Error::is_file`] where the
/// place can't be written or holds something else.
#[derive(Clone, Debug)]
#[must_use = "an artifact is saved when it is awaited"]
pub struct SaveArtifact {
    run: Run,
    saved: Saved,
    max_unpacked: u64,
    progress: ProgressSink,
}

impl SaveArtifact {
    pub(crate) fn new(run: Run, saved: Saved) -> Self {
        Self {
            run,
            saved,
            max_unpacked: MAX_UNPACKED,
            progress: ProgressSink::default(),
        }
    }

    /// The most bytes that the artifact may unpack to; 64 GiB by default.
    pub fn max_unpacked(mut self, bytes: u64) -> Self {
        self.max_unpacked = bytes;
        self
    }

    progress_methods!("download, in bytes", |save| format!(
        "Saving {}",
        save.run.name()
    ));

    async fn save(self) -> Result<PathBuf> {
        let (path, purpose) = match &self.saved {
            Saved::Unpacked(folder) => (folder.clone(), "save the model"),
            Saved::Zip(folder) => (zip_path(folder, self.run.name())?, "save the artifact"),
        };
        let is_zip = matches!(self.saved, Saved::Zip(_));
        self.run.check_finished(purpose).await?;
        let id = self.run.known_artifact()?.to_owned();
        let absolute = std::path::absolute(&path).map_err(|e| Error::file(&path, e))?;
        let (place, file) = blocking(move || {
            let place = match is_zip {
                true => Place::for_zip(&absolute)?,
                false => Place::for_model(&absolute)?,
            };
            let file = std::fs::File::create_new(place.staging.download());
            Ok((place, file.map_err(|e| Error::file(&absolute, e))?))
        })
        .await?;
        let failed = |e| Error::file(&path, e);
        let mut file = tokio::fs::File::from_std(file);
        let started = download(&self.run.transport, Expected::Id(id), None, self.progress).await?;
        let mut download = started.ok_or_else(|| Error::artifact("the server sent nothing"))?;
        while let Some(bytes) = download.next().await? {
            file.write_all(&bytes).await.map_err(failed)?;
        }
        file.flush().await.map_err(failed)?;
        file.sync_all().await.map_err(failed)?;
        drop(file);
        let limit = self.max_unpacked;
        blocking(move || match is_zip {
            true => place.keep_zip(&Real),
            false => place.unpack(limit, &Real),
        })
        .await?;
        Ok(path)
    }
}

/// The path of a run's zip. The name comes from the server, and must not lead
/// anywhere else.
fn zip_path(folder: &Path, name: &str) -> Result<PathBuf> {
    let is_plain = finetuner_protocol::check_name("run_name", name).is_ok()
        && !(cfg!(windows) && name.contains(':'));
    if !is_plain {
        return Err(Error::artifact(format!(
            "the backend calls the run `{}`, which can't be the name of a file; `save_model` \
             takes a folder of any name",
            name.escape_debug()
        )));
    }
    Ok(folder.join(format!("{name}.zip")))
}

/// Opens the files of a zip in a temporary folder; `shown` is what errors call
/// it. Blocks.
#[cfg(feature = "local")]
pub(crate) fn unpack_temporarily(
    mut zip: std::fs::File,
    shown: &Path,
) -> Result<tempfile::TempDir> {
    let failed = |e| Error::file(&std::env::temp_dir(), e);
    let folder = tempfile::tempdir().map_err(failed)?;
    unpack::unpack_zip(&mut zip, folder.path(), shown, MAX_UNPACKED, &Real)?;
    Ok(folder)
}

/// Opens the files of a zip in a folder that is there.
#[cfg(fuzzing)]
pub(crate) fn unpack_bytes(zip: &[u8], folder: &Path, limit: u64) -> Result<()> {
    use std::io::{Seek, Write};

    let failed = |e| Error::file(folder, e);
    let mut file = tempfile::tempfile().map_err(failed)?;
    file.write_all(zip)
        .and_then(|()| file.rewind())
        .map_err(failed)?;
    unpack::unpack_zip(&mut file, folder, folder, limit, &Real).map(drop)
}

impl IntoFuture for SaveArtifact {
    type Output = Result<PathBuf>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.save())
    }
}
