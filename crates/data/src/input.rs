//! Input of a reader: a file, or bytes in memory.

use std::{
    fs::File,
    io::{Cursor, Read},
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::error::{Error, Result};

/// A file, or the content of a file.
#[derive(Clone, Debug)]
pub(crate) enum Input {
    Path(PathBuf),
    Bytes(Arc<[u8]>),
}

impl Input {
    /// Reads all bytes of a reader. `what` is its description in errors.
    pub(crate) fn read(mut reader: impl Read, what: &str) -> Result<Self> {
        let mut bytes = Vec::new();
        let read = reader.read_to_end(&mut bytes);
        read.map_err(|e| Error::file(Path::new(what), e))?;
        Ok(Self::Bytes(bytes.into()))
    }

    /// Reads a path that can be read only once, such as a pipe, into memory.
    pub(crate) fn repeatable(self) -> Result<Self> {
        let Self::Path(path) = &self else {
            return Ok(self);
        };
        let failed = |e| Error::file(path, e);
        if std::fs::metadata(path).map_err(failed)?.is_file() {
            return Ok(self);
        }
        Ok(Self::Bytes(std::fs::read(path).map_err(failed)?.into()))
    }

    /// Returns the path for messages, or `what` for bytes.
    pub(crate) fn name(&self, what: &str) -> String {
        match self {
            Self::Path(path) => path.display().to_string(),
            Self::Bytes(_) => what.to_owned(),
        }
    }

    /// Opens a reader at the start of the input.
    pub(crate) fn open(&self) -> Result<Box<dyn Read + Send>> {
        Ok(match self {
            Self::Path(path) => Box::new(File::open(path).map_err(|e| Error::file(path, e))?),
            Self::Bytes(bytes) => Box::new(Cursor::new(Arc::clone(bytes))),
        })
    }

    /// Returns whether both are the same file or share their bytes.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Path(a), Self::Path(b)) => a == b,
            (Self::Bytes(a), Self::Bytes(b)) => Arc::ptr_eq(a, b),
            _ => false,
        }
    }
}
