//! Cache for values that are requested often, each computed at most once per
//! period.

use std::time::{Duration, Instant};

use tokio::sync::Mutex;

/// A value that is computed again when it is older than `life`. Concurrent
/// callers wait for one computation.
pub(crate) struct Cached<T> {
    life: Duration,
    value: Mutex<Option<(Instant, T)>>,
}

impl<T: Clone> Cached<T> {
    pub(crate) fn new(life: Duration) -> Self {
        Self {
            life,
            value: Mutex::default(),
        }
    }

    /// Returns the value, computed by `find` if necessary. Errors are not cached.
    pub(crate) async fn get<E>(&self, find: impl AsyncFnOnce() -> Result<T, E>) -> Result<T, E> {
        let mut value = self.value.lock().await;
        if let Some((at, value)) = &*value
            && at.elapsed() < self.life
        {
            return Ok(value.clone());
        }
        let found = find().await?;
        *value = Some((Instant::now(), found.clone()));
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[tokio::test]
    async fn a_fresh_value_is_cached_and_errors_are_not() {
        let count = Cell::new(0);
        let find = async || {
            count.set(count.get() + 1);
            tokio::task::yield_now().await;
            match count.get() {
                1 => Err(()),
                n => Ok(n),
            }
        };
        let cached = Cached::new(Duration::from_secs(3600));
        assert_eq!(cached.get(find).await, Err(()));
        let both = tokio::join!(cached.get(find), cached.get(find));
        assert_eq!(both, (Ok(2), Ok(2)));
        let stale = Cached::new(Duration::ZERO);
        assert_eq!(stale.get(find).await, Ok(3));
        assert_eq!(stale.get(find).await, Ok(4));
    }
}
