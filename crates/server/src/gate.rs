//! Work that takes much memory or time, a few pieces at a time. Each user has
//! a part of the turns and of the places to wait, so that one can't keep all
//! others waiting.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::error::{ApiError, Result};

/// What may go on at once, and what may wait.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// What is done, for the refusal.
    pub(crate) what: &'static str,
    /// Pieces that are worked on at a time, and those of one user.
    pub(crate) at_once: (usize, usize),
    /// Pieces that are worked on or wait, and those of one user.
    pub(crate) places: (usize, usize),
}

/// Lets pieces of work through, a few at a time.
pub(crate) struct Gate {
    limits: Limits,
    turns: Arc<Semaphore>,
    users: Mutex<HashMap<String, Waiting>>,
}

/// What one user has at a gate.
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

    /// Waits for a turn of this user's.
    ///
    /// # Errors
    /// 429 if too many wait already.
    pub(crate) async fn enter(self: &Arc<Self>, user: &str) -> Result<Turn> {
        let (place, own) = self.place(user)?;
        // The user's turns first, so that who waits for one holds no other's.
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

    /// Runs `work` in a thread that may block, when it is its turn.
    ///
    /// # Errors
    /// 429 if too many wait already.
    pub(crate) async fn run<T: Send + 'static>(
        self: &Arc<Self>,
        user: &str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T> {
        let turn = self.enter(user).await?;
        let done = tokio::task::spawn_blocking(move || {
            let result = work();
            // Held here: a client that has gone does not stop the thread.
            drop(turn);
            result
        });
        done.await.map_err(|e| ApiError::internal(&e))
    }
}

/// A turn, which ends when it is dropped.
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
    /// Hashing takes a core and 19 MiB for some hundredths of a second. Nobody
    /// is known yet: all are one user.
    pub(crate) passwords: Arc<Gate>,
    /// Looking into stored data reads and unpacks it.
    pub(crate) previews: Arc<Gate>,
    /// Checking the data of a new run reads all of it.
    pub(crate) submissions: Arc<Gate>,
    /// A part of an upload is in memory until it is whole.
    pub(crate) parts: Arc<Gate>,
    /// A file that a browser sends takes room on the disk until it is read.
    pub(crate) spools: Arc<Gate>,
    /// Reading such a file takes a core, and memory for its largest rows.
    pub(crate) imports: Arc<Gate>,
    /// A request for embeddings is in memory with its pictures.
    pub(crate) embeddings: Arc<Gate>,
    /// Embedding a data set takes a while.
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
    async fn work_is_done_a_few_at_a_time_and_too_much_is_refused() {
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
    async fn one_user_leaves_turns_and_places_to_the_others() {
        let gate = gate((2, 1), (4, 2));
        let first = gate.enter("ada").await.unwrap();
        let second = tokio::spawn({
            let gate = Arc::clone(&gate);
            async move { gate.enter("ada").await.map(drop) }
        });
        while gate.users()["ada"].places < 2 {
            tokio::task::yield_now().await;
        }
        assert!(gate.enter("ada").await.is_err(), "two of ada's are there");
        drop(gate.enter("bob").await.unwrap());
        drop(first);
        second.await.unwrap().unwrap();
        // One who gives up waiting leaves the place.
        let held = gate.enter("ada").await.unwrap();
        let gone = tokio::time::timeout(std::time::Duration::ZERO, gate.enter("ada"));
        assert!(gone.await.is_err());
        assert_eq!(gate.users()["ada"].places, 1);
        drop(held);
    }
}
