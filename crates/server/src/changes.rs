//! Notification of clients that follow a run.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::watch;

/// Wakes the followers of a run when it has changed. A run without followers
/// takes no memory.
#[derive(Default)]
pub(crate) struct Changes(Arc<Followed>);

type Followed = Mutex<HashMap<i64, watch::Sender<()>>>;

impl Changes {
    /// Follows a run. Changes after this call are not missed.
    pub(crate) fn subscribe(&self, run_id: i64) -> Follow {
        let mut runs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let sender = runs.entry(run_id).or_insert_with(|| watch::channel(()).0);
        Follow {
            run_id,
            changed: Some(sender.subscribe()),
            all: Arc::clone(&self.0),
        }
    }

    /// Returns the number of runs with followers.
    #[cfg(test)]
    pub(crate) fn followed(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    pub(crate) fn notify(&self, run_id: i64) {
        let runs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sender) = runs.get(&run_id) {
            sender.send_replace(());
        }
    }

    /// Wakes the followers of all runs, because some may have lost access.
    pub(crate) fn notify_all(&self) {
        let runs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for sender in runs.values() {
            sender.send_replace(());
        }
    }
}

/// A follower of a run.
pub(crate) struct Follow {
    run_id: i64,
    /// `None` once it is dropped.
    changed: Option<watch::Receiver<()>>,
    all: Arc<Followed>,
}

impl Follow {
    /// Waits for the next change. `None` if there will be none.
    pub(crate) async fn changed(&mut self) -> Option<()> {
        self.changed.as_mut()?.changed().await.ok()
    }
}

impl Drop for Follow {
    fn drop(&mut self) {
        let mut runs = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        // The run has no follower any more once this receiver is dropped.
        self.changed = None;
        if runs.get(&self.run_id).is_some_and(watch::Sender::is_closed) {
            runs.remove(&self.run_id);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn a_run_without_followers_uses_no_memory() {
        let changes = Changes::default();
        let (mut one, two) = (changes.subscribe(1), changes.subscribe(1));
        drop(two);
        changes.notify(1);
        assert_eq!(one.changed().await, Some(()));
        assert_eq!(one.changed().now_or_never(), None, "once for each change");
        drop(one);
        assert_eq!(changes.followed(), 0);
    }
}
