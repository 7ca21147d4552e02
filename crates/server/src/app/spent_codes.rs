//! Codes that have signed somebody in.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use crate::database::now_ms;

/// Codes that have signed somebody in, and when each would have ended.
#[derive(Default)]
pub(crate) struct SpentCodes(Mutex<HashMap<String, i64>>);

impl SpentCodes {
    /// Spends a code. Returns whether it was good until now.
    pub(crate) fn spend(&self, code: &str, until: i64) -> bool {
        let mut spent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // One that has ended is refused without being remembered.
        spent.retain(|_, until| *until > now_ms());
        spent.insert(code.to_owned(), until).is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_used_once_and_remembered_until_it_expires() {
        let spent = SpentCodes::default();
        let until = now_ms() + 3_600_000;
        assert!(spent.spend("a", until));
        assert!(!spent.spend("a", until));
        assert!(spent.spend("ended", 0));
        assert!(spent.spend("b", until));
        assert_eq!(spent.0.lock().unwrap().len(), 2);
    }
}
