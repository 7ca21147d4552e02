//! Files of documents.

use std::path::Path;

use finetuner_protocol::DocumentArray;

use super::thread::blocking;
use crate::error::{Error, Result};

/// Reads a binary file of docarray 0.x, compressed or not.
///
/// Pickled arrays, docarray's default, can't be read safely: save the array in
/// Python with `protocol="protobuf"`.
///
/// ```no_run
/// # async fn example(finetuner: finetuner::Finetuner) -> finetuner::Result<()> {
/// let documents = finetuner::load_documents("train.da").await?;
/// finetuner.push("train", documents).await?;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// [`Error::is_file`] if the file can't be read, [`Error::is_data`] if it contains
/// no documents.
pub async fn load_documents(path: impl AsRef<Path>) -> Result<DocumentArray> {
    let path = path.as_ref().to_owned();
    blocking(move || {
        let bytes = std::fs::read(&path).map_err(|e| Error::file(&path, e))?;
        Ok(DocumentArray::from_file_bytes(&bytes)?)
    })
    .await
}

/// Writes documents to a binary file of docarray 0.x.
///
/// docarray reads it with `DocumentArray.load_binary(path, protocol="protobuf",
/// compress="gzip")`, and so does [`load_documents`]. A file is never left half
/// written. A symbolic link stays one: its target is written.
///
/// ```no_run
/// # async fn example(finetuner: finetuner::Finetuner) -> finetuner::Result<()> {
/// let documents = finetuner.pull("train").await?;
/// finetuner::save_documents("train.da", documents).await?;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// [`Error::is_file`] if it can't be written.
pub async fn save_documents(path: impl AsRef<Path>, documents: DocumentArray) -> Result<()> {
    let path = path.as_ref().to_owned();
    blocking(move || {
        let failed = |e| Error::file(&path, e);
        let target = match path.is_symlink() {
            true => std::fs::canonicalize(&path).map_err(failed)?,
            false => path.clone(),
        };
        let folder = target.parent().filter(|p| !p.as_os_str().is_empty());
        let folder = folder.unwrap_or(Path::new("."));
        let mut builder = tempfile::Builder::new();
        builder.prefix(".finetuner-");
        // With the permissions of any other new file.
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
        let file = builder.tempfile_in(folder).map_err(failed)?;
        let mut out = std::io::BufWriter::new(file);
        documents.write(&mut out)?;
        let file = out.into_inner().map_err(|e| failed(e.into_error()))?;
        file.persist(&target).map_err(|e| failed(e.error))?;
        Ok(())
    })
    .await
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use finetuner_protocol::Document;

    use super::*;

    #[tokio::test]
    async fn a_file_of_documents_has_the_permissions_of_any_other_file() {
        let folder = tempfile::tempdir().unwrap();
        let place = |name: &str| folder.path().join(name);
        std::fs::write(place("usual"), "x").unwrap();
        let documents = DocumentArray::from(vec![Document::text("a")]);
        save_documents(place("a.da"), documents).await.unwrap();
        let mode = |name| {
            let about = std::fs::metadata(place(name)).unwrap();
            about.permissions().mode()
        };
        assert_eq!(mode("a.da"), mode("usual"));
    }

    #[tokio::test]
    async fn a_symbolic_link_stays_one() {
        let folder = tempfile::tempdir().unwrap();
        let (link, target) = (folder.path().join("a.da"), folder.path().join("b.da"));
        std::os::unix::fs::symlink("b.da", &link).unwrap();
        let documents = DocumentArray::from(vec![Document::text("a")]);
        let error = save_documents(&link, documents.clone()).await.unwrap_err();
        assert!(error.is_file() && !target.exists(), "{error}");
        std::fs::write(&target, "old").unwrap();
        save_documents(&link, documents).await.unwrap();
        assert!(link.is_symlink());
        assert_eq!(load_documents(&target).await.unwrap().len(), 1);
    }
}
