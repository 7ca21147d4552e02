//! Why data can't be read.

use std::{fmt, io, path::Path};

use finetuner_protocol::InvalidField;

use crate::problems::Problems;

/// The result of a call.
pub(crate) type Result<T, E = Error> = std::result::Result<T, E>;

/// Why data can't be read or used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An option has a value that is not allowed.
    #[error(transparent)]
    Invalid(#[from] InvalidField),
    /// Rows or documents can't be used.
    #[error(transparent)]
    Data(#[from] Problems),
    /// A file can't be read.
    #[error("{path}: {error}")]
    File {
        /// The path of the file, or a name for input without one.
        path: String,
        /// The reason of the operating system.
        error: io::Error,
    },
    /// The options don't fit the data.
    #[error("{0}")]
    Setup(String),
}

impl Error {
    /// Returns the problems of rows and documents, if they are the error.
    #[must_use]
    pub fn problems(&self) -> Option<&Problems> {
        match self {
            Self::Data(problems) => Some(problems),
            _ => None,
        }
    }

    pub(crate) fn file(path: &Path, error: io::Error) -> Self {
        Self::File {
            path: path.display().to_string(),
            error,
        }
    }

    pub(crate) fn setup(reason: impl fmt::Display) -> Self {
        Self::Setup(reason.to_string())
    }

    /// A row or document that can't be used.
    pub(crate) fn row(number: u64, reason: impl fmt::Display) -> Self {
        Self::rows("the data", number, reason)
    }

    /// A row of a file that can't be used.
    pub(crate) fn rows(file: &str, number: u64, reason: impl fmt::Display) -> Self {
        let mut problems = Problems::new(file);
        problems.add(number, reason.to_string());
        problems.into()
    }

    /// A setting that can't be used.
    pub(crate) fn invalid(field: &str, value: impl fmt::Display, limit: &str) -> Self {
        InvalidField::new(field, value, limit).into()
    }

    /// Returns the problems of the data, if they are the error.
    pub(crate) fn into_problems(self) -> Result<Problems> {
        match self {
            Self::Data(problems) => Ok(problems),
            error => Err(error),
        }
    }
}
