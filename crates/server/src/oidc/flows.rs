//! In-memory storage of pending sign-ins. Each has a random key and expires after
//! ten minutes. Their number is limited, in total and per network.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use crate::{
    attempts::network,
    error::{ApiError, Result},
    secret,
};

/// Time limit of a sign-in.
const TIME_LIMIT: Duration = Duration::from_secs(600);
/// Maximum number of pending sign-ins, in total and per network.
const MAX_PENDING: usize = 4096;
const MAX_PENDING_OF_NETWORK: usize = 64;

/// A sign-in for which the provider has not answered yet.
#[derive(Clone)]
pub(super) struct Begun {
    /// The PKCE code verifier.
    pub(super) verifier: String,
    pub(super) nonce: String,
    pub(super) next: String,
    pub(super) links: bool,
}

/// Pending sign-ins by key.
pub(super) struct Flows<T>(Mutex<HashMap<String, Flow<T>>>);

struct Flow<T> {
    value: T,
    until: Instant,
    network: Option<IpAddr>,
}

impl<T> Default for Flows<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T: Clone> Flows<T> {
    fn flows(&self) -> MutexGuard<'_, HashMap<String, Flow<T>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stores a sign-in. Returns its key.
    ///
    /// # Errors
    /// 429 if there are too many pending sign-ins.
    pub(super) fn put(&self, value: T, from: Option<IpAddr>) -> Result<String> {
        let (network, now) = (from.map(network), Instant::now());
        let mut flows = self.flows();
        flows.retain(|_, flow| flow.until > now);
        let own = flows.values().filter(|flow| flow.network == network);
        if own.count() >= MAX_PENDING_OF_NETWORK || flows.len() >= MAX_PENDING {
            let message = "too many sign-ins are in progress: try again in ten minutes";
            return Err(ApiError::too_many(message, TIME_LIMIT.as_secs()));
        }
        let key = secret::new_key();
        let flow = Flow {
            value,
            until: now + TIME_LIMIT,
            network,
        };
        flows.insert(key.clone(), flow);
        Ok(key)
    }

    /// Removes and returns the sign-in with this key. A key can be used only
    /// once.
    pub(super) fn take(&self, key: &str) -> Option<T> {
        let flow = self.flows().remove(key)?;
        (flow.until > Instant::now()).then_some(flow.value)
    }

    /// Returns a copy of the sign-in with this key.
    pub(super) fn look(&self, key: &str) -> Option<T> {
        self.change(key, |_| true)
    }

    /// Changes a sign-in and returns it. If `change` returns false, the sign-in
    /// is removed.
    pub(super) fn change(&self, key: &str, change: impl FnOnce(&mut T) -> bool) -> Option<T> {
        let mut flows = self.flows();
        let flow = flows
            .get_mut(key)
            .filter(|flow| flow.until > Instant::now());
        if let Some(flow) = flow
            && change(&mut flow.value)
        {
            return Some(flow.value.clone());
        }
        flows.remove(key);
        None
    }

    /// Removes expired sign-ins.
    pub(super) fn forget(&self) {
        let now = Instant::now();
        self.flows().retain(|_, flow| flow.until > now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sign_in_can_be_completed_once() {
        let flows = Flows::default();
        let key = flows.put(1, None).unwrap();
        assert_eq!(flows.look(&key), Some(1));
        assert_eq!(flows.look("other"), None);
        assert_eq!((flows.take(&key), flows.take(&key)), (Some(1), None));
    }

    #[test]
    fn one_network_can_not_use_up_all_sign_ins() {
        let flows = Flows::default();
        let from = |n: u16| Some(format!("2001:db8::{n:x}").parse().unwrap());
        for n in 0..64 {
            flows.put(n, from(n)).unwrap();
        }
        let error = flows.put(64, from(64)).unwrap_err();
        assert_eq!(error.status(), 429);
        let other = Some("192.0.2.1".parse().unwrap());
        assert!(flows.put(65, other).is_ok());
    }
}
