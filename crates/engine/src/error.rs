//! The errors of the engine.

use std::path::{Path, PathBuf};

/// The result of an engine call.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Error of an engine call.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A setting of the run configuration is invalid.
    #[error("`{field}`: {reason}")]
    Config {
        /// The field of the run configuration, such as `hyper_parameters.epochs`.
        field: String,
        /// The problem, and the remedy.
        reason: String,
    },
    /// A model could not be found.
    #[error("model `{name}`: {reason}")]
    Model {
        /// The requested name or path.
        name: String,
        /// The places that were searched, and the remedy.
        reason: String,
    },
    /// Weights do not match their description.
    #[error("bad checkpoint: {0}")]
    Checkpoint(String),
    /// Data can't be used for training.
    #[error("bad data: {0}")]
    Data(String),
    /// Data, weights or an artifact could not be transferred.
    ///
    /// The connection or the disk is at fault, not the content.
    #[error("{0}")]
    Transfer(String),
    /// One of several items to embed is invalid.
    #[error("item {}: {reason}", place + 1)]
    Item {
        /// Index of the item, from 0.
        place: usize,
        /// The problem of the item.
        reason: String,
    },
    /// The loss is not a finite number.
    #[error(
        "the loss became {loss} in epoch {epoch}, step {step}: the run has diverged. \
         A smaller `learning_rate` usually helps"
    )]
    Diverged {
        /// The value of the loss.
        loss: f32,
        /// The epoch, counted from 1.
        epoch: usize,
        /// The step in the epoch, counted from 1.
        step: usize,
    },
    /// The run was asked to stop.
    #[error("interrupted")]
    Interrupted,
    /// A file could not be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Error of the operating system.
        source: std::io::Error,
    },
    /// Weights or embeddings contain values that are not finite.
    #[error(
        "{what} hold values that are not finite numbers: the run has diverged. A smaller \
         `learning_rate` or `weight_decay` usually helps"
    )]
    NotFinite {
        /// The values that are not finite, and where they appeared.
        what: String,
    },
    /// A tensor operation failed.
    #[error(transparent)]
    Tensor(candle_core::Error),
}

/// Converts the error without candle's stack trace.
///
/// candle adds it to the text if `RUST_BACKTRACE` is set, but users read these
/// messages.
impl From<candle_core::Error> for Error {
    fn from(error: candle_core::Error) -> Self {
        Self::Tensor(without_backtrace(error))
    }
}

/// Removes stack traces from the text of an error.
pub(crate) fn without_backtrace(error: candle_core::Error) -> candle_core::Error {
    use candle_core::Error as Candle;
    match error {
        Candle::WithBacktrace { inner, .. } => without_backtrace(*inner),
        Candle::Context { inner, context } => Candle::Context {
            inner: Box::new(without_backtrace(*inner)),
            context,
        },
        Candle::WithPath { inner, path } => Candle::WithPath {
            inner: Box::new(without_backtrace(*inner)),
            path,
        },
        other => other,
    }
}

impl Error {
    pub(crate) fn config(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Config {
            field: field.into(),
            reason: reason.into(),
        }
    }

    /// Creates an [`Error::Model`].
    pub fn model(name: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Model {
            name: name.into(),
            reason: reason.into(),
        }
    }

    pub(crate) fn checkpoint(reason: impl Into<String>) -> Self {
        Self::Checkpoint(reason.into())
    }

    /// Creates an error about a `config.json`.
    pub(crate) fn config_json(reason: impl std::fmt::Display) -> Self {
        Self::checkpoint(format!("config.json: {reason}"))
    }

    pub(crate) fn data(reason: impl Into<String>) -> Self {
        Self::Data(reason.into())
    }

    pub(crate) fn io(path: &Path, source: std::io::Error) -> Self {
        Self::Io {
            path: path.to_owned(),
            source,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensor_errors_say_what_failed_without_a_stack_trace() {
        let inner = Box::new(candle_core::Error::Msg("shapes differ".to_owned()));
        let backtrace = Box::new(std::backtrace::Backtrace::force_capture());
        let traced = candle_core::Error::WithBacktrace { inner, backtrace };
        let error = Error::from(traced.context("in a step"));
        assert_eq!(error.to_string(), "in a step\nshapes differ");
    }
}
