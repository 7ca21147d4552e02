//! Failures of the keyring.

use crate::error::Error;

/// Why the keyring did not execute a request.
#[derive(Debug)]
pub(super) struct Failure {
    /// Whether this session has no keyring. Otherwise it refused or timed out.
    pub(super) is_absent: bool,
    pub(super) reason: String,
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        Self::setup(format!("the keyring can't be used: {}", failure.reason))
    }
}
