//! Status texts of runs whose jobs are pending in the engine's queue. Kept in memory,
//! because each list of the engine's jobs replaces them.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use finetuner_protocol::text::cut;

/// Longest reason of an engine, in bytes.
const MAX_REASON: usize = 200;

/// Status texts of pending jobs, by run.
#[derive(Default)]
pub(crate) struct Waits(Mutex<HashMap<i64, String>>);

impl Waits {
    fn all(&self) -> std::sync::MutexGuard<'_, HashMap<i64, String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the status text of a run, if its job is pending.
    pub(crate) fn of(&self, run_id: i64) -> Option<String> {
        self.all().get(&run_id).cloned()
    }

    /// Replaces all texts by those of a new list. Returns the runs whose text
    /// changed.
    pub(crate) fn replace(&self, new: HashMap<i64, String>) -> Vec<i64> {
        let mut all = self.all();
        let ids = all.keys().chain(new.keys());
        let mut news: Vec<i64> = ids
            .filter(|id| all.get(id) != new.get(id))
            .copied()
            .collect();
        news.sort_unstable();
        news.dedup();
        *all = new;
        news
    }
}

/// Returns the status text of a pending job.
pub(crate) fn waiting(engine: &str, reason: &str) -> String {
    let reason = reason.replace(|c: char| c.is_control(), " ");
    let reason = cut(reason.trim(), MAX_REASON);
    match reason.is_empty() {
        true => format!("waiting in {engine}'s queue"),
        false => format!("waiting in {engine}'s queue, {reason}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_changed_reasons_are_reported() {
        let waits = Waits::default();
        let list = |runs: &[(i64, &str)]| {
            let told = runs.iter().map(|(id, why)| (*id, waiting("Slurm", why)));
            told.collect::<HashMap<_, _>>()
        };
        let news = waits.replace(list(&[(1, "job 812"), (2, "")]));
        assert_eq!(news, [1, 2]);
        let first = waits.of(1).unwrap();
        assert_eq!(first, "waiting in Slurm's queue, job 812");
        assert_eq!(waits.of(2).unwrap(), "waiting in Slurm's queue");
        let news = waits.replace(list(&[(1, "job 812"), (3, "a\nb")]));
        assert_eq!(news, [2, 3]);
        assert_eq!(waits.of(2), None);
        assert!(waits.of(3).unwrap().ends_with("queue, a b"));
    }
}
