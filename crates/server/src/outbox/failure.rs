//! The error of a delivery attempt.

use std::time::Duration;

/// Reason why a message was not sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) reason: String,
    /// Pause that the receiver asked for.
    pub(super) retry_after: Option<Duration>,
    /// Whether no further attempt is made.
    pub(super) is_final: bool,
}

impl Failure {
    /// Creates a failure that is not final.
    pub(super) fn new(reason: impl Into<String>) -> Self {
        Self {
            reason: reason.into(),
            retry_after: None,
            is_final: false,
        }
    }
}
