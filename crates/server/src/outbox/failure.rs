//! Why a message was not sent.

use std::time::Duration;

/// Why a message was not sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) reason: String,
    /// How long the receiver asks to wait.
    pub(super) retry_after: Option<Duration>,
    /// Whether another attempt would change nothing.
    pub(super) is_final: bool,
}

impl Failure {
    pub(super) fn new(reason: impl Into<String>) -> Self {
        Self {
            reason: reason.into(),
            retry_after: None,
            is_final: false,
        }
    }
}
