//! Local files that documents name: permission to read them, and their content.

use std::path::PathBuf;

use finetuner_protocol::{Content, Document, text::start_of};

use crate::{
    error::{Error, Result},
    uri::local_path,
};

/// Documents whose local files are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Files {
    /// Documents that this program created. A local file in any other document is
    /// an error.
    Own,
    All,
    None,
}

/// Returns the local file whose content a document needs.
///
/// Returns an error if reading the file is not permitted.
fn file_of(document: &Document, files: Files) -> Result<Option<PathBuf>, String> {
    if document.content.is_some() || document.embedding.is_some() || files == Files::None {
        return Ok(None);
    }
    let Some(path) = local_path(&document.uri) else {
        return Ok(None);
    };
    if files == Files::All || !document.other.origin.is_received() {
        return Ok(Some(path));
    }
    // If a document has chunks, only its chunks are used.
    if !document.chunks.is_empty() {
        return Ok(None);
    }
    Err(format!(
        "document `{}` names the local file `{}`, but the document was pulled or read from a \
         file and may come from another user: allow the upload with \
         `DocumentSource::from(documents).reads_files(true)`",
        document.id,
        start_of(&document.uri)
    ))
}

/// Checks that the local files of a document and its chunks exist and may be read.
pub(crate) fn check_files(document: &Document, files: Files) -> Result<(), String> {
    if let Some(path) = file_of(document, files)? {
        let shown = || start_of(&path.to_string_lossy());
        match std::fs::metadata(&path) {
            Ok(about) if about.is_file() => {}
            Ok(_) => return Err(format!("{} is not a file", shown())),
            Err(error) => return Err(format!("{}: {error}", shown())),
        }
    }
    let mut chunks = document.chunks.iter();
    chunks.try_for_each(|chunk| check_files(chunk, files))
}

/// Reason why a local file can't be loaded.
pub(crate) enum LoadFault {
    /// Reading it is not permitted.
    Refused(String),
    File(Error),
}

/// Loads the local files of a document and its chunks as their content.
pub(crate) fn load_files(document: &mut Document, files: Files) -> Result<(), LoadFault> {
    if let Some(path) = file_of(document, files).map_err(LoadFault::Refused)? {
        let bytes = std::fs::read(&path).map_err(|e| LoadFault::File(Error::file(&path, e)))?;
        document.content = Some(Content::Blob(bytes));
    }
    let mut chunks = document.chunks.iter_mut();
    chunks.try_for_each(|chunk| load_files(chunk, files))
}
