//! What the lists of the engine have said about jobs over time.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

/// When jobs were seen, and since when they are not.
#[derive(Debug, Default)]
pub(super) struct Sightings {
    /// Jobs that this queue has submitted, or has seen in a list.
    seen: HashSet<String>,
    /// Since when jobs are not listed.
    missing: HashMap<String, Duration>,
    /// Since when jobs run without a call of their workers.
    silent: HashMap<String, Duration>,
}

impl Sightings {
    /// A job is listed, or was submitted.
    pub(super) fn seen(&mut self, job: &str) {
        self.missing.remove(job);
        if !self.seen.contains(job) {
            self.seen.insert(job.to_owned());
        }
    }

    /// A job is not listed. Returns for how long.
    pub(super) fn missing(&mut self, job: &str, now: Duration) -> Duration {
        now.saturating_sub(*self.missing.entry(job.to_owned()).or_insert(now))
    }

    /// A job waits, perhaps for a second time.
    pub(super) fn waits(&mut self, job: &str) {
        self.silent.remove(job);
    }

    /// A job runs, and its worker has not called. Returns for how long.
    pub(super) fn silent(&mut self, job: &str, now: Duration) -> Duration {
        now.saturating_sub(*self.silent.entry(job.to_owned()).or_insert(now))
    }

    /// Whether this queue knows that the engine has had the job.
    pub(super) fn has_seen(&self, job: &str) -> bool {
        self.seen.contains(job)
    }

    /// Nothing is known of the time up to now: all of it is counted anew.
    pub(super) fn begin_anew(&mut self) {
        self.missing.clear();
        self.silent.clear();
    }

    /// Forgets all jobs but these.
    pub(super) fn retain(&mut self, wanted: impl Fn(&str) -> bool) {
        self.seen.retain(|job| wanted(job));
        self.missing.retain(|job, _| wanted(job));
        self.silent.retain(|job, _| wanted(job));
    }
}
