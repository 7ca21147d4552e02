//! Kinds of failures.

use std::fmt;

/// The kind of an [`Error`](crate::Error), from [`Error::kind`](crate::Error::kind).
///
/// Each kind has a predicate on [`Error`](crate::Error), which explains the remedy.
///
/// ```
/// use finetuner::{Error, ErrorKind};
///
/// let error = Error::from_response(409, r#"{"detail": "there is such a run"}"#);
/// match error.kind() {
///     ErrorKind::Conflict => println!("the name is taken"),
///     kind => println!("{kind}: {error}"),
/// }
/// # assert_eq!(error.kind(), ErrorKind::Conflict);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The backend can't be reached.
    Connect,
    /// An answer, or the next part of one, took too long.
    Timeout,
    /// The connection broke, or a stream ended early.
    Broken,
    /// There is no token, or the backend does not accept it.
    Unauthorized,
    /// The token does not allow this call.
    Forbidden,
    /// Nothing has that name.
    NotFound,
    /// The name is already taken.
    Conflict,
    /// The upload is larger than the backend accepts.
    TooLarge,
    /// Too many calls in too short a time.
    RateLimited,
    /// The backend, or a proxy in front of it, failed.
    Server,
    /// Any other HTTP status.
    Status,
    /// The answer does not follow the API.
    Decode,
    /// An argument can't be used.
    Invalid,
    /// The data can't be used.
    Data,
    /// The run has not started yet.
    RunPreparing,
    /// The run has not finished yet.
    RunInProgress,
    /// The run failed.
    RunFailed,
    /// The backend does not know this call.
    Unsupported,
    /// A download is corrupt, or contains no model.
    Artifact,
    /// A local file or folder can't be read or written.
    File,
    /// The program's own setup: addresses, tokens, features, arguments that exclude
    /// each other.
    Setup,
}

impl ErrorKind {
    /// Returns a lower-case description of the kind, such as `not found`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "not reached",
            Self::Timeout => "timeout",
            Self::Broken => "broken connection",
            Self::Unauthorized => "unauthorized",
            Self::Forbidden => "forbidden",
            Self::NotFound => "not found",
            Self::Conflict => "conflict",
            Self::TooLarge => "too large",
            Self::RateLimited => "rate limited",
            Self::Server => "server error",
            Self::Status => "unexpected status",
            Self::Decode => "unexpected answer",
            Self::Invalid => "invalid argument",
            Self::Data => "invalid data",
            Self::RunPreparing => "run preparing",
            Self::RunInProgress => "run in progress",
            Self::RunFailed => "run failed",
            Self::Unsupported => "unsupported",
            Self::Artifact => "bad artifact",
            Self::File => "file error",
            Self::Setup => "setup",
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
