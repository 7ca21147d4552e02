//! Which contents must stay: a content that somebody reads, or is about to give
//! a name, is held, and not removed until it is let go. Nobody waits for a store
//! while holding a lock here.

use std::{
    collections::{HashMap, HashSet, hash_map::Entry},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;

/// The contents that are held, and those that are being removed. Clones share
/// them.
#[derive(Clone, Default)]
pub(super) struct Holds(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    /// A removal has ended.
    removed: Notify,
    /// There are suspects.
    suspected: Notify,
}

#[derive(Default)]
struct State {
    held: HashMap<String, Held>,
    /// Contents that are being removed, and whether each is to be looked at again:
    /// the last thing that refers to it may have gone meanwhile.
    removing: HashMap<String, bool>,
    /// Contents that may have no name.
    suspects: HashSet<String>,
}

#[derive(Default)]
struct Held {
    count: usize,
    /// Whether the content is to be looked at when it is let go.
    suspect: bool,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Holds {
    /// Holds a content. Waits while it is being removed.
    pub(super) async fn hold(&self, content: &str) -> Hold {
        loop {
            let removed = self.0.removed.notified();
            tokio::pin!(removed);
            // From here on no end of a removal is missed.
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

    /// Begins to remove a content. Returns nothing if it is held or already being
    /// removed; it becomes a suspect then, once that has ended.
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

    /// The contents that may have no name any more, once there are some.
    pub(super) async fn suspects(&self) -> Vec<String> {
        loop {
            let found = self.take_suspects();
            if !found.is_empty() {
                return found;
            }
            // A notification that came in between is kept for this call.
            self.0.suspected.notified().await;
        }
    }

    pub(super) fn take_suspects(&self) -> Vec<String> {
        self.0.state().suspects.drain().collect()
    }
}

/// Keeps a content from being removed until the last clone is dropped.
#[derive(Clone)]
pub(crate) struct Hold(Arc<OneHold>);

impl Hold {
    /// The content may have no name: look at it once it is let go.
    fn suspect(&self) {
        if let Some(held) = self.0.shared.state().held.get_mut(&self.0.content) {
            held.suspect = true;
        }
    }
}

/// A content that has no name yet. Unless it gets one, it is looked at once it
/// is let go.
pub(crate) struct Unnamed(Option<Hold>);

impl Unnamed {
    pub(crate) fn new(hold: Hold) -> Self {
        Self(Some(hold))
    }

    /// The content has a name now.
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

/// A content that is being removed: nobody can hold it meanwhile.
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
    async fn what_is_held_is_not_removed_and_is_looked_at_later() {
        let holds = Holds::default();
        let (one, two) = (holds.hold("a").await, holds.hold("a").await);
        assert!(holds.begin_removal("a").is_none());
        drop(one);
        assert!(holds.begin_removal("a").is_none());
        assert!(holds.suspects().now_or_never().is_none());
        drop(two);
        assert_eq!(holds.suspects().await, ["a"]);
        assert!(holds.begin_removal("a").is_some());
        // Without a reason for it, nothing is looked at.
        drop(holds.hold("a").await);
        assert!(holds.take_suspects().is_empty());
    }

    #[tokio::test]
    async fn who_wants_to_hold_waits_for_the_end_of_a_removal() {
        let holds = Holds::default();
        let removal = holds.begin_removal("a").unwrap();
        assert!(holds.begin_removal("a").is_none(), "once at a time");
        assert!(holds.take_suspects().is_empty(), "not before it has ended");
        let mut waits = std::pin::pin!(holds.hold("a"));
        assert!(waits.as_mut().now_or_never().is_none());
        assert!(holds.hold("b").now_or_never().is_some());
        drop(removal);
        waits.await;
        // The second removal had another reason, which the first did not see.
        assert_eq!(holds.suspects().await, ["a"]);
    }
}
