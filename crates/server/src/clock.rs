//! Monotonic time of this process. It is independent of the system time. Tests
//! can advance it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// A clock. Clones show the same time.
#[derive(Clone, Debug)]
pub(crate) struct Clock {
    begun: Instant,
    /// Milliseconds by which tests have advanced it.
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
    /// Returns the time since the clock was created.
    pub(crate) fn now(&self) -> Duration {
        self.begun.elapsed() + Duration::from_millis(self.moved.load(Ordering::SeqCst))
    }

    /// Advances the clock.
    #[cfg(test)]
    pub(crate) fn advance(&self, by: Duration) {
        let by = u64::try_from(by.as_millis()).unwrap_or(u64::MAX);
        self.moved.fetch_add(by, Ordering::SeqCst);
    }
}
