//! Stores images of a data set on disk, since they may not fit in memory.

use std::{
    io::{Read, Seek, SeekFrom, Write},
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use tempfile::NamedTempFile;

use super::key::hash_value;
use crate::{Error, Result};

/// A temporary file of concatenated images.
///
/// It is deleted with the last reference to it.
#[derive(Debug)]
pub struct ImageFile(Mutex<NamedTempFile>);

impl ImageFile {
    /// Creates an empty file in this folder.
    pub(super) fn new_in(folder: &Path) -> Result<Self> {
        let file = NamedTempFile::new_in(folder).map_err(|e| Error::io(folder, e))?;
        Ok(Self(Mutex::new(file)))
    }

    /// Appends an image.
    pub(super) fn keep(self: &Arc<Self>, bytes: &[u8]) -> Result<Stored> {
        let mut file = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let written = file.seek(SeekFrom::End(0)).and_then(|start| {
            file.write_all(bytes)?;
            Ok(start)
        });
        Ok(Stored {
            start: written.map_err(|e| Error::io(file.path(), e))?,
            length: bytes.len(),
            content_key: hash_value(bytes),
            file: Arc::clone(self),
        })
    }
}

/// An image in a file.
#[derive(Clone, Debug)]
pub struct Stored {
    file: Arc<ImageFile>,
    start: u64,
    length: usize,
    content_key: u64,
}

impl Stored {
    /// Returns a hash of the content, stable within one process.
    pub(super) fn content_key(&self) -> u64 {
        self.content_key
    }

    /// Returns the encoded image: PNG, JPEG, GIF, WebP or BMP.
    ///
    /// # Errors
    /// [`Error::Io`] if the file can't be read.
    pub fn read(&self) -> Result<Vec<u8>> {
        let mut bytes = vec![0; self.length];
        let mut file = self.file.0.lock().unwrap_or_else(PoisonError::into_inner);
        let read = file
            .seek(SeekFrom::Start(self.start))
            .and_then(|_| file.read_exact(&mut bytes));
        read.map_err(|e| Error::io(file.path(), e))?;
        Ok(bytes)
    }
}

impl PartialEq for Stored {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.file, &other.file)
            && (self.start, self.length) == (other.start, other.length)
    }
}
