//! Data for experiment trackers: measurements, and the end of the run.

use std::time::{SystemTime, UNIX_EPOCH};

/// Measurements of one step.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Row {
    /// Steps since the start of the training.
    pub(super) step: u64,
    /// Seconds since 1970.
    pub(super) time: f64,
    pub(super) values: Vec<(String, f64)>,
}

/// End of a run, as trackers show it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Finished,
    Failed,
    /// The run was ended at the server.
    Cancelled,
    /// The run continues in another worker.
    Left,
}

/// Returns the current time in seconds since 1970.
pub(super) fn now() -> f64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0.0, |now| now.as_secs_f64())
}
