//! The kinds of failures.

use std::fmt;

/// The kind of an [`Error`](crate::Error), from [`Error::kind`](crate::Error::kind).
/// Each kind has a predicate on [`Error`](crate::Error), which says what to do.
///
/// ```
/// use finetuner::{Error, ErrorKind};
///
/// let error = Error::of_answer(409, r#"{"detail": "there is such a run"}"#);
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
    /// An answer, or the next part of it, took too long.
    Timeout,
    /// The connection broke, or a stream ended early.
    Broken,
    /// There is no token, or the backend does not accept it.
    Unauthorized,
    /// The token does not allow this call.
    Forbidden,
    /// Nothing has that name.
    NotFound,
    /// Something has that name already.
    Conflict,
    /// More was sent than the backend takes.
    TooLarge,
    /// Too many calls in too short a time.
    RateLimited,
    /// The backend, or a proxy before it, failed.
    Server,
    /// Any other status than those above.
    Status,
    /// The answer is not what the API promises.
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
    /// A download is not what was announced, or holds no model.
    Artifact,
    /// A file or folder of this machine can't be read or written.
    File,
    /// The program's own setup: addresses, tokens, features, arguments that
    /// exclude each other.
    Setup,
}

impl ErrorKind {
    /// Returns the name of the kind in lower case, such as `not found`.
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
