//! Saving what a run has made. What arrives is checked, and appears whole or
//! not at all; what a zip says about paths is not believed.

use std::{
    fs,
    future::{Future, IntoFuture},
    io::{self, Read, Write},
    path::{Component, Path, PathBuf},
    pin::Pin,
};

use tempfile::{NamedTempFile, TempDir};
use zip::ZipArchive;

use crate::{
    Error, Result, Run,
    data::{Expected, blocking, download},
    progress::{ProgressSink, progress_methods},
};

/// The most that an artifact may unpack to where nothing else is said.
pub(crate) const MAX_UNPACKED: u64 = 64 << 30;
/// The most files of an artifact.
const MAX_FILES: usize = 10_000;

/// In which form an artifact is saved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Saved {
    Unpacked,
    Zip,
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
    path: PathBuf,
    form: Saved,
    max_unpacked: u64,
    progress: ProgressSink,
}

impl SaveArtifact {
    pub(crate) fn new(run: Run, path: PathBuf, form: Saved) -> Self {
        Self {
            run,
            path,
            form,
            max_unpacked: MAX_UNPACKED,
            progress: ProgressSink::default(),
        }
    }

    /// The most bytes that the artifact may unpack to; 64 GiB by default.
    ///
    /// ```no_run
    /// # async fn example(run: finetuner::Run) -> finetuner::Result<()> {
    /// // A model of a few hundred megabytes.
    /// run.save_model("clip-model").max_unpacked(2 << 30).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn max_unpacked(mut self, bytes: u64) -> Self {
        self.max_unpacked = bytes;
        self
    }

    progress_methods!(
        "download is, in bytes",
        "finetuner.get_run(\"clip-fashion-1\").await?.save_model(\"clip-model\")",
        |save| format!("Saving {}", save.run.name())
    );

    async fn save(self) -> Result<PathBuf> {
        let purpose = match self.form {
            Saved::Unpacked => "save the model",
            Saved::Zip => "save the artifact",
        };
        self.run.check_finished(purpose).await?;
        let id = self.run.known_artifact()?.to_owned();
        let path = std::path::absolute(&self.path).map_err(|e| Error::file(&self.path, e))?;
        let (form, limit, place) = (self.form, self.max_unpacked, path.clone());
        let mut file = blocking(move || {
            if form == Saved::Unpacked {
                check_free(&place)?;
            }
            let folder = place.parent().unwrap_or(&place);
            fs::create_dir_all(folder).map_err(|e| Error::file(folder, e))?;
            tempfile::Builder::new()
                .prefix(".finetuner-")
                .tempfile_in(folder)
                .map_err(|e| Error::file(folder, e))
        })
        .await?;
        let started = download(&self.run.transport, Expected::Id(id), None, self.progress).await?;
        let mut download = started.ok_or_else(|| Error::artifact("the server sent nothing"))?;
        while let Some(bytes) = download.next().await? {
            // A few hundred kilobytes at once: not worth a thread.
            file.write_all(&bytes).map_err(|e| Error::file(&path, e))?;
        }
        let place = path;
        blocking(move || match form {
            Saved::Unpacked => unpack(file, &place, limit),
            Saved::Zip => keep(file, &place),
        })
        .await?;
        Ok(self.path)
    }
}

impl IntoFuture for SaveArtifact {
    type Output = Result<PathBuf>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.save())
    }
}

/// Puts a downloaded file in its place, as readable for others as any new file.
fn keep(file: NamedTempFile, path: &Path) -> Result<()> {
    let failed = |e| Error::file(path, e);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;

        // The process's own mask can't be read without being changed.
        let permissions = fs::Permissions::from_mode(0o644);
        file.as_file()
            .set_permissions(permissions)
            .map_err(failed)?;
    }
    file.persist(path).map_err(|e| failed(e.error))?;
    Ok(())
}

/// A model may be saved where there is nothing, or over a saved model.
fn check_free(folder: &Path) -> Result<()> {
    let mut entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Error::file(folder, error)),
    };
    if entries.next().is_none() || folder.join("metadata.yml").is_file() {
        return Ok(());
    }
    Err(Error::file(
        folder,
        io::Error::new(
            io::ErrorKind::AlreadyExists,
            "the folder holds something else than a saved model; choose another",
        ),
    ))
}

/// Unpacks the one folder of the zip as `folder`.
fn unpack(file: NamedTempFile, folder: &Path, limit: u64) -> Result<()> {
    let parent = folder.parent().unwrap_or(folder);
    let failed = |e| Error::file(parent, e);
    let new = folder_beside(folder).map_err(failed)?;
    unpack_zip(file.reopen().map_err(failed)?, new.path(), limit)?;
    // Looked at again: the download may have taken a while.
    check_free(folder)?;
    let aside = folder_beside(folder).map_err(failed)?;
    let old = aside.path().join("old");
    match fs::rename(folder, &old) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(Error::file(folder, error));
        }
        _ => {}
    }
    if let Err(error) = fs::rename(new.path(), folder) {
        // The old model goes back; without one there is nothing to put back.
        let _ = fs::rename(&old, folder);
        return Err(Error::file(folder, error));
    }
    Ok(())
}

/// Writes the files of a zip below `target`, without the one folder that holds
/// them all. Nothing is written outside of it, no link is made, and no more than
/// `limit` bytes are unpacked, whatever the zip says its sizes are.
pub(crate) fn unpack_zip(zip: impl io::Read + io::Seek, target: &Path, limit: u64) -> Result<()> {
    let mut zip = ZipArchive::new(zip).map_err(Error::artifact)?;
    if zip.len() > MAX_FILES {
        let reason = format!("it has {} files, {MAX_FILES} are allowed", zip.len());
        return Err(Error::artifact(reason));
    }
    let mut left = limit;
    for i in 0..zip.len() {
        let mut entry = zip.by_index(i).map_err(Error::artifact)?;
        if entry.is_dir() {
            continue;
        }
        if entry.is_symlink() {
            return Err(Error::artifact(format!("entry {i} is a link")));
        }
        let path = entry
            .enclosed_name()
            .ok_or_else(|| Error::artifact(format!("entry {i} leads out of it")))?;
        let path = target.join(inner_path(&path));
        let place = path.parent().unwrap_or(target);
        fs::create_dir_all(place).map_err(|e| Error::file(place, e))?;
        // Two entries of one name, or one name in other capitals.
        let mut out = fs::File::create_new(&path).map_err(|e| Error::file(&path, e))?;
        let mut entry = (&mut entry).take(left.saturating_add(1));
        let written = io::copy(&mut entry, &mut out).map_err(|error| match error.kind() {
            // What the zip says of its content is not so.
            io::ErrorKind::InvalidData | io::ErrorKind::Other | io::ErrorKind::InvalidInput => {
                Error::artifact(format!("entry {i}: {error}"))
            }
            _ => Error::file(&path, error),
        })?;
        left = left.checked_sub(written).ok_or_else(|| {
            Error::artifact(format!(
                "it unpacks to more than {limit} bytes; allow more with `max_unpacked`"
            ))
        })?;
    }
    Ok(())
}

/// A temporary folder on the same disk as `folder`, as readable for others as
/// any new folder is.
fn folder_beside(folder: &Path) -> io::Result<TempDir> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(".finetuner-");
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o777));
    builder.tempdir_in(folder.parent().unwrap_or(folder))
}

/// The path without the folder that holds all files of the zip.
fn inner_path(path: &Path) -> PathBuf {
    let parts: Vec<Component<'_>> = path.components().collect();
    match parts.as_slice() {
        [_, inner @ ..] if !inner.is_empty() => inner.iter().collect(),
        all => all.iter().collect(),
    }
}

#[cfg(test)]
mod tests {
    use zip::{ZipWriter, write::SimpleFileOptions};

    use super::*;

    fn zip(files: &[(&str, &str)]) -> NamedTempFile {
        let file = NamedTempFile::new().unwrap();
        let mut zip = ZipWriter::new(file.reopen().unwrap());
        for (name, text) in files {
            zip.start_file(*name, SimpleFileOptions::default()).unwrap();
            zip.write_all(text.as_bytes()).unwrap();
        }
        zip.finish().unwrap();
        file
    }

    #[test]
    fn replaces_a_saved_model_and_nothing_else() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("model");
        let one = zip(&[
            ("run/metadata.yml", "1"),
            ("run/models/a.yml", "a"),
            ("run/old", ""),
        ]);
        unpack(one, &folder, MAX_UNPACKED).unwrap();
        assert_eq!(
            fs::read_to_string(folder.join("models/a.yml")).unwrap(),
            "a"
        );
        unpack(zip(&[("run/metadata.yml", "2")]), &folder, MAX_UNPACKED).unwrap();
        assert_eq!(
            fs::read_to_string(folder.join("metadata.yml")).unwrap(),
            "2"
        );
        assert!(!folder.join("old").exists());

        let other = root.path().join("photos");
        fs::create_dir(&other).unwrap();
        fs::write(other.join("me.jpg"), "x").unwrap();
        let error = unpack(zip(&[("run/metadata.yml", "3")]), &other, MAX_UNPACKED).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("something else than a saved model"),
            "{error}"
        );
        let left: Vec<_> = fs::read_dir(root.path()).unwrap().collect();
        assert_eq!(left.len(), 2, "temporary folders are left: {left:?}");
    }

    #[test]
    fn refuses_what_is_no_zip_leads_out_of_it_is_a_link_or_too_much() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("model");
        let refused = |file: NamedTempFile, limit| {
            let error = unpack(file, &folder, limit).unwrap_err();
            assert!(error.is_artifact(), "{error}");
            error.to_string()
        };
        let text = refused(zip(&[("run/../../evil", "x")]), MAX_UNPACKED);
        assert!(text.contains("leads out"), "{text}");
        let mut garbage = NamedTempFile::new().unwrap();
        garbage.write_all(b"<html>").unwrap();
        refused(garbage, MAX_UNPACKED);

        let file = NamedTempFile::new().unwrap();
        let mut link = ZipWriter::new(file.reopen().unwrap());
        link.add_symlink("run/link", "/etc/passwd", SimpleFileOptions::default())
            .unwrap();
        link.finish().unwrap();
        assert!(refused(file, MAX_UNPACKED).contains("is a link"));

        let zeros = "0".repeat(5000);
        let bomb = zip(&[("run/a", &zeros), ("run/b", &zeros)]);
        assert!(refused(bomb, 9_999).contains("more than 9999 bytes"));
        let fits = zip(&[("run/a", &zeros), ("run/b", &zeros)]);
        assert!(!folder.exists() && !root.path().join("evil").exists());
        unpack(fits, &folder, 10_000).unwrap();
    }
}
