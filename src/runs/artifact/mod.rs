//! Saving artifacts. A download is verified and never appears half written. Saving
//! again replaces only files that were saved before.

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
    /// Saves the fine-tuned model as a folder in Hugging Face layout.
    ///
    /// `transformers` opens the folder, which also has the run's configuration and
    /// metrics. Awaiting the returned value gives the path of the folder.
    ///
    /// The folder is created if necessary. A model that was saved in it before is
    /// replaced; `.finetuner-files.json` lists its files. If the folder contains any
    /// other file, or a file that was changed, the call fails with its name and
    /// changes nothing.
    ///
    /// The download resumes after a broken connection and is verified. If the disk
    /// is full, the old model stays. If the program is killed, the folder contains
    /// either the old or the new model. Only on a mount point, or if the system can't
    /// swap folders, it may be incomplete until the next `save_model` or
    /// `local::get_model` repairs it.
    pub fn save_model(&self, folder: impl AsRef<Path>) -> SaveArtifact {
        let saved = Saved::Unpacked(folder.as_ref().to_owned());
        SaveArtifact::new(self.clone(), saved)
    }

    /// Saves the artifact as a zip file, `{run}.zip`, in this directory.
    ///
    /// The directory is created, and an existing file of that name is replaced.
    /// Awaiting the returned value gives the path of the file.
    pub fn save_artifact(&self, directory: impl AsRef<Path>) -> SaveArtifact {
        let saved = Saved::Zip(directory.as_ref().to_owned());
        SaveArtifact::new(self.clone(), saved)
    }
}

/// Target and format of an artifact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Saved {
    /// The unpacked model, as this folder.
    Unpacked(PathBuf),
    /// The zip file, in this folder.
    Zip(PathBuf),
}

/// Download of an artifact, from [`Run::save_model`] or [`Run::save_artifact`].
///
/// Awaiting it gives the path.
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
/// [`Error::is_run_failed`] if it has failed, [`Error::is_artifact`] if the download
/// is corrupt, and [`Error::is_file`] if the target can't be written or contains
/// other files.
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

    /// Sets the limit for the unpacked artifact in bytes; 64 GiB by default.
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

/// Returns the path of a run's zip file. The run's name comes from the server and
/// must not lead out of the folder.
fn zip_path(folder: &Path, name: &str) -> Result<PathBuf> {
    let is_plain = finetuner_protocol::check_name("run_name", name).is_ok()
        && !(cfg!(windows) && name.contains(':'));
    if !is_plain {
        return Err(Error::artifact(format!(
            "the backend calls the run `{}`, which is not allowed as a file name: use `save_model`, \
             which takes a folder of any name",
            name.escape_debug()
        )));
    }
    Ok(folder.join(format!("{name}.zip")))
}

/// Unpacks a zip into a temporary folder; errors call it `shown`. Blocks.
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

/// Unpacks a zip into an existing folder.
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
