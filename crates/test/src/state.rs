//! The backend's state, behind one lock.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use finetuner_protocol::{ExperimentInfo, Task};
use tokio::sync::watch;

use crate::{
    Fault, Received,
    artifact::{Artifact, Upload},
    record::RunRecord,
};

/// State of the backend.
#[derive(Default)]
pub(crate) struct State {
    pub(crate) experiments: Vec<Experiment>,
    pub(crate) runs: Vec<RunRecord>,
    pub(crate) artifacts: Vec<Artifact>,
    pub(crate) uploads: BTreeMap<String, Upload>,
    /// Tokens by name.
    pub(crate) tokens: BTreeMap<String, String>,
    /// Models that are not in the list of backbones.
    pub(crate) models: BTreeMap<String, Task>,
    pub(crate) faults: Vec<Fault>,
    pub(crate) received: Vec<Received>,
    /// Whether new runs wait for the test.
    pub(crate) holds_runs: bool,
    /// Whether runs may name data that was never pushed.
    pub(crate) accepts_any_data: bool,
    ids: u64,
}

pub(crate) struct Experiment {
    pub(crate) info: ExperimentInfo,
    /// Idempotency key of the creating request.
    pub(crate) key: Option<String>,
}

impl State {
    /// Returns a unique id of 24 hex digits.
    pub(crate) fn new_id(&mut self) -> String {
        self.ids += 1;
        format!("{:024x}", self.ids)
    }
}

/// The state, with a notification of changes.
pub(crate) struct Shared {
    state: Mutex<State>,
    /// Counts changes.
    changes: watch::Sender<u64>,
    is_away: AtomicBool,
}

impl Shared {
    pub(crate) fn new() -> Self {
        Self {
            state: Mutex::default(),
            changes: watch::Sender::new(0),
            is_away: AtomicBool::new(false),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn look<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.lock())
    }

    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let changed = change(&mut self.lock());
        self.changes.send_modify(|count| *count += 1);
        changed
    }

    /// Waits until `look` returns a value.
    pub(crate) async fn until<T>(&self, look: impl Fn(&State) -> Option<T>) -> T {
        let mut changes = self.changes.subscribe();
        loop {
            if let Some(found) = self.look(&look) {
                return found;
            }
            // The sender lives as long as `self`, so waiting never fails.
            let _ = changes.changed().await;
        }
    }

    pub(crate) fn is_away(&self) -> bool {
        self.is_away.load(Ordering::SeqCst)
    }

    pub(crate) fn set_away(&self, is_away: bool) {
        self.is_away.store(is_away, Ordering::SeqCst);
    }
}
