//! Why a keyring was of no use.

use crate::error::Error;

/// Why the keyring did not do what was asked.
#[derive(Debug)]
pub(super) struct Failure {
    /// This session has none; otherwise it refused, or did not answer.
    pub(super) is_absent: bool,
    pub(super) reason: String,
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        Self::setup(format!("the keyring can't be used: {}", failure.reason))
    }
}
