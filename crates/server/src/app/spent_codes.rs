//! Used sign-in codes.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use crate::database::now_ms;

/// Used codes, each with the time at which it expires.
#[derive(Default)]
pub(crate) struct SpentCodes(Mutex<HashMap<String, i64>>);

impl SpentCodes {
    /// Marks an unexpired code as used. Returns whether it was unused until now.
    pub(crate) fn spend(&self, code: &str, until: i64) -> bool {
        let mut spent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Expired codes are forgotten. The caller refuses them before this call.
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
