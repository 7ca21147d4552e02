//! Cache of values that cost time and memory, such as loaded models.
//!
//! Each value is created once; concurrent requests for it share the creation.
//! The least recently used values are evicted. A value in use is never evicted.

use std::{
    collections::HashMap,
    ops::Deref,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures_util::{
    FutureExt,
    future::{BoxFuture, Shared},
};

use super::counters::CacheCounters;
use crate::error::{ApiError, Result};

/// Values by their keys, within a limit of bytes.
pub(crate) struct Cache<T> {
    /// Name of the values, for errors.
    what: &'static str,
    /// Remedy if one value exceeds the limit.
    remedy: &'static str,
    /// Limit on the size of all values, in bytes.
    limit: u64,
    counters: CacheCounters,
    state: Mutex<State<T>>,
}

struct State<T> {
    entries: HashMap<String, Entry<T>>,
    /// Counter of uses, for the order of eviction.
    clock: u64,
}

struct Entry<T> {
    value: Making<T>,
    /// Reference count of the users. Every user has a clone.
    users: Arc<()>,
    /// Size of the value; 0 until its creator has reserved room.
    bytes: u64,
    /// Value of the clock at the last use.
    used: u64,
}

type Making<T> = Shared<BoxFuture<'static, Result<Arc<T>>>>;

/// A value in use, which is not evicted.
pub(crate) struct Held<T> {
    value: Arc<T>,
    user: Arc<()>,
}

impl<T> Clone for Held<T> {
    fn clone(&self) -> Self {
        Self {
            value: Arc::clone(&self.value),
            user: Arc::clone(&self.user),
        }
    }
}

impl<T> Deref for Held<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T: Send + Sync + 'static> Cache<T> {
    pub(crate) fn new(
        (what, remedy): (&'static str, &'static str),
        limit: u64,
        counters: CacheCounters,
    ) -> Arc<Self> {
        Arc::new(Self {
            what,
            remedy,
            limit,
            counters,
            state: Mutex::new(State {
                entries: HashMap::new(),
                clock: 0,
            }),
        })
    }

    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the value of a key.
    ///
    /// Calls `make` if there is none. The creation runs to its end even if all
    /// callers have gone. An error goes to all waiting callers and is not cached.
    pub(crate) async fn get<F>(
        self: &Arc<Self>,
        key: &str,
        make: impl FnOnce(Room<T>) -> F + Send + 'static,
    ) -> Result<Held<T>>
    where
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let (value, user) = {
            let mut state = self.state();
            state.clock += 1;
            let now = state.clock;
            let entry = state.entries.entry(key.to_owned()).or_insert_with(|| {
                let users = Arc::new(());
                let room = Room(Arc::new(Place {
                    cache: Arc::clone(self),
                    key: key.to_owned(),
                    user: Arc::clone(&users),
                }));
                Entry {
                    value: making(room, make),
                    users,
                    bytes: 0,
                    used: now,
                }
            });
            entry.used = now;
            (entry.value.clone(), Arc::clone(&entry.users))
        };
        Ok(Held {
            value: value.await?,
            user,
        })
    }

    /// Updates the metrics.
    fn count(&self, state: &State<T>) {
        let ready = state.entries.values().filter(|entry| entry.bytes > 0);
        let bytes = ready.clone().map(|entry| entry.bytes).sum();
        self.counters.count.set(ready.count() as u64);
        self.counters.bytes.set(bytes);
    }
}

fn making<T, F>(room: Room<T>, make: impl FnOnce(Room<T>) -> F) -> Making<T>
where
    T: Send + Sync + 'static,
    F: Future<Output = Result<T>> + Send + 'static,
{
    let place = Arc::clone(&room.0);
    let made = make(room);
    let work = tokio::spawn(async move {
        let unfinished = Unfinished(Some(place));
        let value = made.await?;
        unfinished.end();
        Ok(Arc::new(value))
    });
    let made = async move { work.await.map_err(|e| ApiError::internal(&e))? };
    made.boxed().shared()
}

/// Reservation of room in the cache, for the creator of a value.
pub(crate) struct Room<T>(Arc<Place<T>>);

struct Place<T> {
    cache: Arc<Cache<T>>,
    key: String,
    user: Arc<()>,
}

impl<T: Send + Sync + 'static> Room<T> {
    /// Reserves `bytes` for the value being created, and evicts others that are not
    /// in use.
    pub(crate) fn take(&self, bytes: u64) -> Result<()> {
        let Place { cache, key, .. } = &*self.0;
        let (what, limit) = (cache.what, cache.limit);
        if bytes > limit {
            return Err(ApiError::unprocessable(format!(
                "{what}: this one takes {} MiB of memory, and the server allows {} MiB for all: \
                 {}",
                bytes.div_ceil(1 << 20),
                limit >> 20,
                cache.remedy
            )));
        }
        let mut gone = Vec::new();
        {
            let mut state = cache.state();
            let others = |entry: &&Entry<T>| !Arc::ptr_eq(&entry.users, &self.0.user);
            let in_use = state.entries.values().filter(others);
            let in_use: u64 = in_use.filter(|e| !e.is_idle()).map(|e| e.bytes).sum();
            if in_use + bytes > limit {
                return Err(ApiError::busy(format!(
                    "{what}: those in use take {} of {} MiB, and this one needs {} MiB: try again \
                     in a second",
                    in_use.div_ceil(1 << 20),
                    limit >> 20,
                    bytes.div_ceil(1 << 20)
                )));
            }
            loop {
                let all = state.entries.values().filter(others);
                if all.map(|entry| entry.bytes).sum::<u64>() + bytes <= limit {
                    break;
                }
                let idle = state.entries.iter().filter(|(_, entry)| entry.is_idle());
                let oldest = idle.min_by_key(|(_, entry)| entry.used);
                let Some(oldest) = oldest.map(|(key, _)| key.clone()) else {
                    break;
                };
                gone.extend(state.entries.remove(&oldest));
                cache.counters.dropped.inc();
            }
            if let Some(own) = state.entries.get_mut(key) {
                own.bytes = bytes;
            }
            cache.count(&state);
        }
        // Dropped after the lock is released, because freeing gigabytes takes time.
        drop(gone);
        Ok(())
    }
}

impl<T> Entry<T> {
    /// Whether the value exists and has no user. New users appear only under the
    /// cache's lock.
    fn is_idle(&self) -> bool {
        self.bytes > 0 && Arc::strong_count(&self.users) == 1
    }
}

/// Removes the entry of a value whose creation failed or panicked.
struct Unfinished<T: Send + Sync + 'static>(Option<Arc<Place<T>>>);

impl<T: Send + Sync + 'static> Unfinished<T> {
    fn end(mut self) {
        self.0 = None;
    }
}

impl<T: Send + Sync + 'static> Drop for Unfinished<T> {
    fn drop(&mut self) {
        if let Some(place) = self.0.take() {
            let mut state = place.cache.state();
            state.entries.remove(&place.key);
            place.cache.count(&state);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::sync::oneshot;

    use super::*;

    fn cache(limit: u64) -> Arc<Cache<u64>> {
        Cache::new(("models", "ask for more"), limit, CacheCounters::default())
    }

    async fn get(cache: &Arc<Cache<u64>>, key: &str, bytes: u64) -> Result<Held<u64>> {
        let make = move |room: Room<u64>| async move { room.take(bytes).map(|()| bytes) };
        cache.get(key, make).await
    }

    fn there(cache: &Cache<u64>) -> Vec<String> {
        let mut keys: Vec<String> = cache.state().entries.keys().cloned().collect();
        keys.sort();
        keys
    }

    #[tokio::test]
    async fn concurrent_callers_share_one_load_that_survives_cancellation() {
        let cache = cache(100);
        let count = Arc::new(AtomicUsize::new(0));
        let (go_on, wait) = oneshot::channel::<()>();
        let made = Arc::clone(&count);
        let first = cache.get("a", move |room| async move {
            made.fetch_add(1, Ordering::SeqCst);
            let _ = wait.await;
            room.take(10).map(|()| 7)
        });
        // The first caller leaves while it waits.
        assert!(first.now_or_never().is_none());
        let again = Arc::clone(&count);
        let second = cache.get("a", move |_| async move {
            again.fetch_add(1, Ordering::SeqCst);
            Ok(8)
        });
        go_on.send(()).unwrap();
        assert_eq!(*second.await.unwrap(), 7);
        assert_eq!(count.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn the_least_recently_used_is_evicted_unless_in_use() {
        let cache = cache(100);
        let a = get(&cache, "a", 40).await.unwrap();
        drop(get(&cache, "b", 40).await.unwrap());
        drop(get(&cache, "c", 40).await.unwrap());
        assert_eq!(there(&cache), ["a", "c"], "`a` is older, and in use");
        let c = get(&cache, "c", 40).await.unwrap();
        let error = get(&cache, "d", 40).await.map(|_| ()).unwrap_err();
        assert!(error.message().contains("those in use"), "{error:?}");
        assert_eq!(error.retry_after(), Some(1));
        assert_eq!(there(&cache), ["a", "c"], "a refused load evicts nothing");
        assert_eq!(cache.counters.bytes.get(), 80);
        drop((a, c));
        drop(get(&cache, "d", 90).await.unwrap());
        assert_eq!(there(&cache), ["d"]);
        assert_eq!(
            (cache.counters.count.get(), cache.counters.bytes.get()),
            (1, 90)
        );
        assert_eq!(cache.counters.dropped.get(), 3);
        let error = get(&cache, "e", 101).await.map(|_| ()).unwrap_err();
        assert!(error.message().ends_with(": ask for more"), "{error:?}");
        assert_eq!(there(&cache), ["d"]);
    }

    #[tokio::test]
    async fn failures_are_not_cached() {
        let cache = cache(100);
        let fail = |_| async { Err::<u64, _>(ApiError::conflict("no")) };
        let both = tokio::join!(cache.get("a", fail), cache.get("a", fail));
        assert!(both.0.is_err() && both.1.is_err());
        let panicking = cache.get("a", |_| async {
            assert_eq!(1, 2, "a bug");
            Ok(1)
        });
        assert!(panicking.await.is_err());
        assert!(there(&cache).is_empty());
        assert_eq!(*get(&cache, "a", 5).await.unwrap(), 5);
    }
}
