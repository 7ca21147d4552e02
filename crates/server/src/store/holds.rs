//! Holds protect contents from removal.
//!
//! A content that is being read, or that is about to get a name, is held. It is
//! not removed until its last hold is dropped. No lock is held while waiting
//! for the store.

use std::{
    collections::{HashMap, HashSet, hash_map::Entry},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;

/// The held contents and those being removed. Clones share them.
#[derive(Clone, Default)]
pub(super) struct Holds(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    /// Notified when a removal has ended.
    removed: Notify,
    /// Notified when there are suspects.
    suspected: Notify,
}

#[derive(Default)]
struct State {
    held: HashMap<String, Held>,
    /// Contents being removed. The value says whether to check the content again
    /// afterwards, because its last reference may have been deleted in the
    /// meantime.
    removing: HashMap<String, bool>,
    /// Contents that may have lost their last name.
    suspects: HashSet<String>,
}

#[derive(Default)]
struct Held {
    count: usize,
    /// Whether to check the content when its last hold is dropped.
    suspect: bool,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Holds {
    /// Holds a content. Waits for a removal in progress.
    pub(super) async fn hold(&self, content: &str) -> Hold {
        loop {
            let removed = self.0.removed.notified();
            tokio::pin!(removed);
            // Registered before the check, so that no end of a removal is missed.
            removed.as_mut().enable();
            if let Some(hold) = self.try_hold(content) {
                return hold;
            }
            removed.await;
        }
    }

    fn try_hold(&self, content: &str) -> Option<Hold> {
        let mut state = self.0.state();
        if state.removing.contains_key(content) {
            return None;
        }
        state.held.entry(content.to_owned()).or_default().count += 1;
        Some(Hold(Arc::new(OneHold {
            shared: Arc::clone(&self.0),
            content: content.to_owned(),
        })))
    }

    /// Starts to remove a content. Returns `None` if it is held or already being
    /// removed. In that case it becomes a suspect when the hold or the removal
    /// ends.
    pub(super) fn begin_removal(&self, content: &str) -> Option<Removal> {
        let mut state = self.0.state();
        if let Some(held) = state.held.get_mut(content) {
            held.suspect = true;
            return None;
        }
        match state.removing.entry(content.to_owned()) {
            Entry::Occupied(mut again) => {
                again.insert(true);
                None
            }
            Entry::Vacant(first) => {
                first.insert(false);
                Some(Removal {
                    shared: Arc::clone(&self.0),
                    content: content.to_owned(),
                })
            }
        }
    }

    /// Waits for contents that may have lost their last name, and returns them.
    pub(super) async fn suspects(&self) -> Vec<String> {
        loop {
            let found = self.take_suspects();
            if !found.is_empty() {
                return found;
            }
            // `notify_one` stores a notification that arrives in between.
            self.0.suspected.notified().await;
        }
    }

    pub(super) fn take_suspects(&self) -> Vec<String> {
        self.0.state().suspects.drain().collect()
    }
}

/// Protects a content from removal until the last clone is dropped.
#[derive(Clone)]
pub(crate) struct Hold(Arc<OneHold>);

impl Hold {
    /// Marks the content for a check when its last hold is dropped, because it may
    /// have no name.
    fn suspect(&self) {
        if let Some(held) = self.0.shared.state().held.get_mut(&self.0.content) {
            held.suspect = true;
        }
    }
}

/// A held content without a name. Unless it gets one, it is checked when its
/// last hold is dropped.
pub(crate) struct Unnamed(Option<Hold>);

impl Unnamed {
    pub(crate) fn new(hold: Hold) -> Self {
        Self(Some(hold))
    }

    /// Records that the content has a name now.
    pub(crate) fn named(mut self) {
        self.0 = None;
    }
}

impl Drop for Unnamed {
    fn drop(&mut self) {
        if let Some(hold) = &self.0 {
            hold.suspect();
        }
    }
}

struct OneHold {
    shared: Arc<Shared>,
    content: String,
}

impl Drop for OneHold {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        let Some(held) = state.held.get_mut(&self.content) else {
            return;
        };
        held.count -= 1;
        if held.count == 0 {
            let suspect = held.suspect;
            state.held.remove(&self.content);
            if suspect {
                state.suspects.insert(self.content.clone());
                self.shared.suspected.notify_one();
            }
        }
    }
}

/// A removal in progress. The content can't be held until it ends.
pub(super) struct Removal {
    shared: Arc<Shared>,
    content: String,
}

impl Drop for Removal {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        if state.removing.remove(&self.content) == Some(true) {
            state.suspects.insert(self.content.clone());
            self.shared.suspected.notify_one();
        }
        drop(state);
        self.shared.removed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn held_content_is_not_removed_and_checked_again_later() {
        let holds = Holds::default();
        let (one, two) = (holds.hold("a").await, holds.hold("a").await);
        assert!(holds.begin_removal("a").is_none());
        drop(one);
        assert!(holds.begin_removal("a").is_none());
        assert!(holds.suspects().now_or_never().is_none());
        drop(two);
        assert_eq!(holds.suspects().await, ["a"]);
        assert!(holds.begin_removal("a").is_some());
        // Without a refused removal, dropping a hold creates no suspect.
        drop(holds.hold("a").await);
        assert!(holds.take_suspects().is_empty());
    }

    #[tokio::test]
    async fn a_hold_waits_for_the_end_of_a_removal() {
        let holds = Holds::default();
        let removal = holds.begin_removal("a").unwrap();
        assert!(holds.begin_removal("a").is_none(), "one removal at a time");
        assert!(holds.take_suspects().is_empty(), "not before it has ended");
        let mut waits = std::pin::pin!(holds.hold("a"));
        assert!(waits.as_mut().now_or_never().is_none());
        assert!(holds.hold("b").now_or_never().is_some());
        drop(removal);
        waits.await;
        // The first removal may have missed the reason for the second one.
        assert_eq!(holds.suspects().await, ["a"]);
    }
}
