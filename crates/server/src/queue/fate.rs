//! Decides what becomes of a job, by the state that the engine tells and by its
//! worker's signs of life.

use std::time::Duration;

use super::Queue;
use crate::{database::Launched, launcher::JobState};

/// What has become of a run's job.
pub(super) enum Fate {
    /// There is nothing to do.
    Good,
    /// Its worker is gone.
    Lost {
        reason: String,
        /// Whether a sign of life shows that this is wrong.
        is_silent: bool,
        /// Whether it costs the run an attempt.
        counts: bool,
    },
}

impl Queue {
    /// What has become of a run's job, by what the engine says and by the
    /// worker's signs of life.
    pub(super) fn fate(&mut self, run: &Launched, state: Option<&JobState>) -> Fate {
        let launcher = &self.engine.launcher;
        let engine = launcher.engine();
        let settings = &self.app.settings;
        let (held, now) = (run.held(), self.app.clock.now());
        let has_lease = run.has_worker && !self.app.leases.is_over(held);
        let silent_for =
            |seconds: f64| format!("it has given no sign of life for {seconds} seconds");
        let lost = |reason: String, is_silent, counts| Fate::Lost {
            reason,
            is_silent,
            counts,
        };
        match state {
            Some(JobState::Ended(how)) => lost(how.clone(), false, true),
            Some(_) if has_lease => Fate::Good,
            Some(JobState::Pending(_)) if !run.has_worker => {
                self.sightings.waits(&run.job);
                Fate::Good
            }
            Some(JobState::Pending(_)) => lost(
                format!("{engine} has put its job back into the queue"),
                true,
                false,
            ),
            Some(JobState::Running) if run.has_worker => {
                lost(silent_for(settings.lease.as_secs_f64()), true, true)
            }
            Some(JobState::Running) => {
                let limit = settings.first_call;
                if self.sightings.silent(&run.job, now) <= limit {
                    return Fate::Good;
                }
                let reason = format!(
                    "its job runs on {engine}, and has not called {} for {} seconds: check that \
                     its machine reaches this address",
                    self.engine.url,
                    limit.as_secs_f64()
                );
                lost(reason, false, false)
            }
            None if !launcher.outlives_the_server() => {
                lost("it ended with the server".to_owned(), false, true)
            }
            // What this machine has listed, and lists no more, is gone.
            None if !launcher.is_remote() && self.sightings.has_seen(&run.job) => {
                lost("it is gone".to_owned(), false, true)
            }
            None => {
                let missing = self.sightings.missing(&run.job, now);
                let grace = match launcher.is_remote() {
                    true => settings.job_grace,
                    false => Duration::ZERO,
                };
                if has_lease || missing < grace {
                    return Fate::Good;
                }
                let reason = format!("{engine} knows no job of the name {}", run.job);
                // What became of it while no server looked can't be known.
                let counts = self.sightings.has_seen(&run.job) || !launcher.is_remote();
                lost(reason, run.has_worker, counts)
            }
        }
    }
}
