//! Pauses after failed starts. They double with each failure until a worker
//! starts its run.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(60);
/// Time after its pause for which a run is remembered.
const FORGOTTEN: Duration = Duration::from_secs(3600);

/// Consecutive failures, and the time until which nothing is started.
#[derive(Clone, Copy, Debug, Default)]
struct Pause {
    failures: u32,
    until: Duration,
}

impl Pause {
    /// Records a failure. The pause is the usual one divided by `part`.
    fn failed(&mut self, now: Duration, part: u32) -> Duration {
        let pause = FIRST
            .saturating_mul(1 << self.failures.min(16))
            .min(LONGEST)
            / part;
        self.failures = self.failures.saturating_add(1);
        self.until = now + pause;
        pause
    }
}

/// Pauses of the launcher, and of runs whose workers never started.
#[derive(Debug, Default)]
pub(super) struct Pauses {
    launcher: Pause,
    runs: HashMap<i64, Pause>,
    /// Run and launch of each worker that has started its run.
    at_work: HashSet<(i64, u64)>,
}

/// Result of a failed start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Failed {
    /// Pause before the next start.
    pub(super) pause: Duration,
    /// Whether the run's log should report it. Not every repetition is reported.
    pub(super) is_news: bool,
}

impl Pauses {
    /// Records that the worker of a run did not start.
    pub(super) fn failed(&mut self, run_id: i64, now: Duration) -> Failed {
        // Shorter than the run's pause, so that another run goes first.
        self.launcher.failed(now, 2);
        // Deleted runs never report success, so old entries are dropped.
        self.runs.retain(|_, pause| now < pause.until + FORGOTTEN);
        let run = self.runs.entry(run_id).or_default();
        let pause = run.failed(now, 1);
        Failed {
            pause,
            is_news: run.failures.is_power_of_two(),
        }
    }

    /// Records that the worker of a launch is at work. Only the first time shows that
    /// the launcher works: a worker may be at work for days after the launcher broke.
    pub(super) fn worked(&mut self, held: (i64, u64)) {
        if self.at_work.insert(held) {
            self.runs.remove(&held.0);
            self.launcher = Pause::default();
        }
    }

    /// Forgets all workers except the wanted ones.
    pub(super) fn retain(&mut self, wanted: &HashSet<(i64, u64)>) {
        self.at_work.retain(|held| wanted.contains(held));
    }

    /// Whether the launcher's pause is over.
    pub(super) fn may_start(&self, now: Duration) -> bool {
        now >= self.launcher.until
    }

    /// Returns the runs whose pause is not over.
    pub(super) fn waiting(&self, now: Duration) -> Vec<i64> {
        let runs = self.runs.iter().filter(|(_, pause)| now < pause.until);
        runs.map(|(id, _)| *id).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_until_a_worker_starts_work() {
        let mut pauses = Pauses::default();
        let mut now = Duration::ZERO;
        let mut seconds = Vec::new();
        let mut told = 0;
        for _ in 0..9 {
            let failed = pauses.failed(1, now);
            assert!(!pauses.may_start(now));
            assert_eq!(pauses.waiting(now), [1]);
            now += failed.pause;
            assert!(pauses.may_start(now) && pauses.waiting(now).is_empty());
            seconds.push(failed.pause.as_secs());
            told += u32::from(failed.is_news);
        }
        assert_eq!(seconds, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        assert_eq!(told, 4);
        pauses.failed(1, now);
        pauses.worked((2, 1));
        assert!(pauses.may_start(now), "the launcher works again");
        assert_eq!(pauses.waiting(now), [1], "but not for this run");
        pauses.failed(3, now);
        pauses.worked((2, 1));
        assert!(!pauses.may_start(now), "it was started before the failure");
        pauses.retain(&HashSet::new());
        assert!(pauses.at_work.is_empty());
    }
}
