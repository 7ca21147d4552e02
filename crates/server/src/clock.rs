//! The time of this process. Unlike the clock on the wall, nobody can set it,
//! and it does not jump. Tests move it forward by hand.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// A clock. Its clones show the same time.
#[derive(Clone, Debug)]
pub(crate) struct Clock {
    begun: Instant,
    /// Milliseconds by which it was moved forward.
    moved: Arc<AtomicU64>,
}

impl Default for Clock {
    fn default() -> Self {
        Self {
            begun: Instant::now(),
            moved: Arc::default(),
        }
    }
}

impl Clock {
    /// The time since the clock was made.
    pub(crate) fn now(&self) -> Duration {
        self.begun.elapsed() + Duration::from_millis(self.moved.load(Ordering::SeqCst))
    }

    /// Moves the clock forward.
    #[cfg(test)]
    pub(crate) fn advance(&self, by: Duration) {
        let by = u64::try_from(by.as_millis()).unwrap_or(u64::MAX);
        self.moved.fetch_add(by, Ordering::SeqCst);
    }
}
