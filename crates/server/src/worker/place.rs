//! The place where a worker runs.

/// Where a worker runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// In a thread of another program. The worker does not change that program.
    Thread,
    /// In its own process.
    Process,
}
