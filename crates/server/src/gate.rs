//! Gates limit how much expensive work runs or waits at the same time. Each
//! user has a share of the turns and of the waiting places, so that one user
//! can't block the others.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::error::{ApiError, Result};

/// Limits of a gate.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Name of the work, for error messages.
    pub(crate) what: &'static str,
    /// Number of pieces that run at the same time, of all users and of one user.
    pub(crate) at_once: (usize, usize),
    /// Number of pieces that run or wait, of all users and of one user.
    pub(crate) places: (usize, usize),
}

/// A gate for one kind of work.
pub(crate) struct Gate {
    limits: Limits,
    turns: Arc<Semaphore>,
    users: Mutex<HashMap<String, Waiting>>,
}

/// The work of one user at a gate.
struct Waiting {
    places: usize,
    turns: Arc<Semaphore>,
}

impl Gate {
    pub(crate) fn new(limits: Limits) -> Arc<Self> {
        Arc::new(Self {
            limits,
            turns: Arc::new(Semaphore::new(limits.at_once.0)),
            users: Mutex::default(),
        })
    }

    fn users(&self) -> MutexGuard<'_, HashMap<String, Waiting>> {
        self.users.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a turn of this user.
    ///
    /// # Errors
    /// 429 if too many are waiting already.
    pub(crate) async fn enter(self: &Arc<Self>, user: &str) -> Result<Turn> {
        let (place, own) = self.place(user)?;
        // The user's own turn is acquired first, so that a waiting user holds no turn
        // of the others.
        let own = own.acquire_owned().await;
        let turn = Arc::clone(&self.turns).acquire_owned().await;
        // Semaphores of a gate are never closed.
        let closed = |_| ApiError::internal(&"a gate is closed");
        Ok(Turn {
            _permits: [own.map_err(closed)?, turn.map_err(closed)?],
            _place: place,
        })
    }

    fn place(self: &Arc<Self>, user: &str) -> Result<(Place, Arc<Semaphore>)> {
        let Limits {
            what,
            at_once,
            places,
        } = self.limits;
        let mut users = self.users();
        let all: usize = users.values().map(|waiting| waiting.places).sum();
        let own = users.get(user).map_or(0, |waiting| waiting.places);
        if all >= places.0 || own >= places.1 {
            let count = own.max(places.1.min(all));
            let message = format!("{what}: {count} are in progress already: try again in a second");
            return Err(ApiError::too_many(message, 1));
        }
        let waiting = users.entry(user.to_owned()).or_insert_with(|| Waiting {
            places: 0,
            turns: Arc::new(Semaphore::new(at_once.1)),
        });
        waiting.places += 1;
        let place = Place {
            gate: Arc::clone(self),
            user: user.to_owned(),
        };
        Ok((place, Arc::clone(&waiting.turns)))
    }

    /// Waits for a turn and runs `work` on a blocking thread.
    ///
    /// # Errors
    /// 429 if too many are waiting already.
    pub(crate) async fn run<T: Send + 'static>(
        self: &Arc<Self>,
        user: &str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T> {
        let turn = self.enter(user).await?;
        let done = tokio::task::spawn_blocking(move || {
            let result = work();
            // Held until the work ends, because the thread continues when the client
            // disconnects.
            drop(turn);
            result
        });
        done.await.map_err(|e| ApiError::internal(&e))
    }
}

/// A turn. It ends when it is dropped.
#[must_use]
pub(crate) struct Turn {
    _permits: [OwnedSemaphorePermit; 2],
    _place: Place,
}

struct Place {
    gate: Arc<Gate>,
    user: String,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut users = self.gate.users();
        if let Some(waiting) = users.get_mut(&self.user) {
            waiting.places -= 1;
            if waiting.places == 0 {
                users.remove(&self.user);
            }
        }
    }
}

/// All gates of a server.
pub(crate) struct Gates {
    /// Checks of passwords. Hashing takes one core and 19 MiB for some hundredths
    /// of a second. The user is not known yet, so all requests share one user.
    pub(crate) passwords: Arc<Gate>,
    /// Previews of stored data, which read and unpack it.
    pub(crate) previews: Arc<Gate>,
    /// Checks of new runs, which read all of their data.
    pub(crate) submissions: Arc<Gate>,
    /// Parts of uploads, which are in memory until they are complete.
    pub(crate) parts: Arc<Gate>,
    /// Uploads of files by a browser, which take disk space until they are read.
    pub(crate) spools: Arc<Gate>,
    /// Reading of such files, which takes one core and memory for the largest rows.
    pub(crate) imports: Arc<Gate>,
    /// Requests for embeddings, which are in memory with their images.
    pub(crate) embeddings: Arc<Gate>,
    /// Embedding of data sets, which takes a while.
    pub(crate) indexes: Arc<Gate>,
}

impl Default for Gates {
    fn default() -> Self {
        let gate = |what, at_once, places| {
            Gate::new(Limits {
                what,
                at_once,
                places,
            })
        };
        Self {
            passwords: gate("checks of passwords", (2, 2), (34, 34)),
            previews: gate("previews of data", (4, 2), (1024, 256)),
            submissions: gate("checks of new runs", (4, 2), (1024, 256)),
            parts: gate("parts of uploads", (32, 4), (1024, 64)),
            spools: gate("uploads of files", (16, 2), (16, 2)),
            imports: gate("files that are read", (2, 1), (64, 4)),
            embeddings: gate("requests for embeddings", (64, 32), (2048, 512)),
            indexes: gate("data sets that are embedded", (2, 1), (16, 4)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    fn gate(at_once: (usize, usize), places: (usize, usize)) -> Arc<Gate> {
        Gate::new(Limits {
            what: "tests",
            at_once,
            places,
        })
    }

    #[tokio::test]
    async fn concurrent_work_is_limited_and_a_full_queue_refuses_more() {
        let gate = gate((2, 2), (8, 8));
        let (started, mut running) = tokio::sync::mpsc::unbounded_channel();
        let (go_on, wait) = mpsc::channel::<()>();
        let wait = Arc::new(Mutex::new(wait));
        let tasks: Vec<_> = (0..8)
            .map(|_| {
                let (gate, started, wait) = (Arc::clone(&gate), started.clone(), Arc::clone(&wait));
                tokio::spawn(async move {
                    let work = move || {
                        started.send(()).unwrap();
                        wait.lock().unwrap().recv().unwrap();
                    };
                    gate.run("ada", work).await.unwrap();
                })
            })
            .collect();
        for _ in 0..2 {
            running.recv().await.unwrap();
        }
        while gate.users()["ada"].places < 8 {
            tokio::task::yield_now().await;
        }
        assert!(running.try_recv().is_err(), "the third waits");
        let error = gate.run("ada", || ()).await.unwrap_err();
        assert!(error.message().contains("tests: 8 are in progress"));
        for _ in 0..8 {
            go_on.send(()).unwrap();
        }
        for task in tasks {
            task.await.unwrap();
        }
        assert!(gate.users().is_empty());
        gate.run("ada", || ()).await.unwrap();
    }

    #[tokio::test]
    async fn one_user_can_not_use_all_slots() {
        let gate = gate((2, 1), (4, 2));
        let first = gate.enter("ada").await.unwrap();
        let second = tokio::spawn({
            let gate = Arc::clone(&gate);
            async move { gate.enter("ada").await.map(drop) }
        });
        while gate.users()["ada"].places < 2 {
            tokio::task::yield_now().await;
        }
        assert!(
            gate.enter("ada").await.is_err(),
            "two of ada's jobs are inside"
        );
        drop(gate.enter("bob").await.unwrap());
        drop(first);
        second.await.unwrap().unwrap();
        // A cancelled wait frees its place.
        let held = gate.enter("ada").await.unwrap();
        let gone = tokio::time::timeout(std::time::Duration::ZERO, gate.enter("ada"));
        assert!(gone.await.is_err());
        assert_eq!(gate.users()["ada"].places, 1);
        drop(held);
    }
}
