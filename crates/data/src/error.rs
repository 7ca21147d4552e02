//! The error type of this crate.

use std::{fmt, io, path::Path};

use finetuner_protocol::InvalidField;

use crate::problems::Problems;

pub(crate) type Result<T, E = Error> = std::result::Result<T, E>;

/// Reason why data can't be read or used.
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
        /// Path of the file, or a description of input without a path.
        path: String,
        /// Error of the operating system.
        error: io::Error,
    },
    /// The options do not fit the data or the model.
    #[error("{0}")]
    Setup(String),
}

impl Error {
    /// Returns the problems of rows and documents, if the error has them.
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

    /// Creates the error of a row or document that can't be used.
    pub(crate) fn row(number: u64, reason: impl fmt::Display) -> Self {
        Self::rows("the data", number, reason)
    }

    /// Creates the error of a row in a file. `number` is 0 for the whole file.
    pub(crate) fn rows(file: &str, number: u64, reason: impl fmt::Display) -> Self {
        let mut problems = Problems::new(file);
        problems.add(number, reason.to_string());
        problems.into()
    }

    /// Creates the error of an option with an invalid value.
    pub(crate) fn invalid(field: &str, value: impl fmt::Display, limit: &str) -> Self {
        InvalidField::new(field, value, limit).into()
    }

    /// Returns the problems of rows and documents, or the error without them.
    pub(crate) fn into_problems(self) -> Result<Problems> {
        match self {
            Self::Data(problems) => Ok(problems),
            error => Err(error),
        }
    }
}
