//! Pauses before workers are started again. They double from one failure to
//! the next, and a worker that gets to work ends them.

use std::{collections::HashMap, time::Duration};

const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(60);
/// How long after its pause a run is remembered.
const FORGOTTEN: Duration = Duration::from_secs(3600);

/// Failures in a row, and until when nothing is started.
#[derive(Clone, Copy, Debug, Default)]
struct Pause {
    failures: u32,
    until: Duration,
}

impl Pause {
    /// Waits for a part of the usual pause.
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

/// Pauses of the launcher, and of runs whose workers never got to work.
#[derive(Debug, Default)]
pub(super) struct Pauses {
    launcher: Pause,
    runs: HashMap<i64, Pause>,
}

/// A start that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Failed {
    /// How long the next start waits.
    pub(super) pause: Duration,
    /// Whether the log should say it: not each of many failures alike.
    pub(super) is_news: bool,
}

impl Pauses {
    /// The worker of a run did not get to work.
    pub(super) fn failed(&mut self, run_id: i64, now: Duration) -> Failed {
        // Shorter than the run's pause, so that another run comes first.
        self.launcher.failed(now, 2);
        // Runs that were deleted are not heard of again.
        self.runs.retain(|_, pause| now < pause.until + FORGOTTEN);
        let run = self.runs.entry(run_id).or_default();
        let pause = run.failed(now, 1);
        Failed {
            pause,
            is_news: run.failures.is_power_of_two(),
        }
    }

    /// The worker of a run has got to work.
    pub(super) fn worked(&mut self, run_id: i64) {
        if self.runs.remove(&run_id).is_some() || self.launcher.failures > 0 {
            self.launcher = Pause::default();
        }
    }

    /// Whether workers may be started at all.
    pub(super) fn may_start(&self, now: Duration) -> bool {
        now >= self.launcher.until
    }

    /// The runs that have to wait.
    pub(super) fn waiting(&self, now: Duration) -> Vec<i64> {
        let runs = self.runs.iter().filter(|(_, pause)| now < pause.until);
        runs.map(|(id, _)| *id).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_until_a_worker_gets_to_work() {
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
        pauses.worked(2);
        assert!(pauses.may_start(now), "the launcher works again");
        assert_eq!(pauses.waiting(now), [1], "but not for this run");
    }
}
