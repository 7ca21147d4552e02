//! Records which jobs the engine's lists contained, and since when jobs are missing or
//! silent.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

/// Jobs that were seen, and since when others are missing or silent.
#[derive(Debug, Default)]
pub(super) struct Sightings {
    /// Jobs that this queue submitted or saw in a list.
    seen: HashSet<String>,
    /// Time since when a job is not listed.
    missing: HashMap<String, Duration>,
    /// Time since when a job runs without a call of its worker.
    silent: HashMap<String, Duration>,
}

impl Sightings {
    /// Records that a job is listed or was submitted.
    pub(super) fn seen(&mut self, job: &str) {
        self.missing.remove(job);
        if !self.seen.contains(job) {
            self.seen.insert(job.to_owned());
        }
    }

    /// Records that a job is not listed. Returns for how long.
    pub(super) fn missing(&mut self, job: &str, now: Duration) -> Duration {
        now.saturating_sub(*self.missing.entry(job.to_owned()).or_insert(now))
    }

    /// Records that a job is pending, perhaps for a second time.
    pub(super) fn waits(&mut self, job: &str) {
        self.silent.remove(job);
    }

    /// Records that a job runs without a call of its worker. Returns for how long.
    pub(super) fn silent(&mut self, job: &str, now: Duration) -> Duration {
        now.saturating_sub(*self.silent.entry(job.to_owned()).or_insert(now))
    }

    /// Whether this queue knows that the engine had the job.
    pub(super) fn has_seen(&self, job: &str) -> bool {
        self.seen.contains(job)
    }

    /// Restarts all times, because the engine could not be observed until now.
    pub(super) fn begin_anew(&mut self) {
        self.missing.clear();
        self.silent.clear();
    }

    /// Forgets all jobs except the wanted ones.
    pub(super) fn retain(&mut self, wanted: impl Fn(&str) -> bool) {
        self.seen.retain(|job| wanted(job));
        self.missing.retain(|job, _| wanted(job));
        self.silent.retain(|job, _| wanted(job));
    }
}
