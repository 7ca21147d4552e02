//! Decides what to do about a job, from the engine's state and the worker's
//! signs of life.

use std::time::Duration;

use super::{engine::Engine, sightings::Sightings};
use crate::{app::App, database::Launched, launcher::JobState};

/// Verdict on a run's job.
pub(super) enum Fate {
    /// There is nothing to do.
    Good,
    /// The worker is lost.
    Lost {
        reason: String,
        /// Whether the verdict relies on silence, so that a sign of life disproves it.
        is_silent: bool,
        /// Whether the loss counts as an attempt of the run.
        counts: bool,
    },
}

/// Decides about a run's job.
pub(super) fn fate(
    app: &App,
    engine: &Engine,
    sightings: &mut Sightings,
    run: &Launched,
    state: Option<&JobState>,
) -> Fate {
    let url = &engine.url;
    let launcher = &engine.launcher;
    let engine = launcher.engine();
    let settings = &app.settings;
    let (held, now) = (run.held(), app.clock.now());
    let has_lease = run.has_worker && !app.leases.is_over(held);
    let silent_for = |seconds: f64| format!("it has given no sign of life for {seconds} seconds");
    let lost = |reason: String, is_silent, counts| Fate::Lost {
        reason,
        is_silent,
        counts,
    };
    match state {
        Some(JobState::Ended(how)) => lost(how.clone(), false, true),
        Some(_) if has_lease => Fate::Good,
        Some(JobState::Pending(_)) if !run.has_worker => {
            sightings.waits(&run.job);
            Fate::Good
        }
        Some(JobState::Pending(_)) => lost(
            format!("{engine} suspended its job or put it back into the queue"),
            true,
            false,
        ),
        Some(JobState::Running) if run.has_worker => {
            lost(silent_for(settings.lease.as_secs_f64()), true, true)
        }
        Some(JobState::Running) => {
            let limit = settings.first_call;
            if sightings.silent(&run.job, now) <= limit {
                return Fate::Good;
            }
            let reason = format!(
                "its job runs on {engine}, but its worker has not called {} for {} seconds: \
                 check that its machine can reach this address",
                url,
                limit.as_secs_f64()
            );
            lost(reason, false, false)
        }
        None if !launcher.outlives_the_server() => {
            lost("it ended with the server".to_owned(), false, true)
        }
        // A job of this machine that was listed before and is not listed now is
        // gone.
        None if !launcher.is_remote() && sightings.has_seen(&run.job) => {
            lost("its process is gone".to_owned(), false, true)
        }
        None => {
            let missing = sightings.missing(&run.job, now);
            let grace = match launcher.is_remote() {
                true => settings.job_grace,
                false => Duration::ZERO,
            };
            if has_lease || missing < grace {
                return Fate::Good;
            }
            let reason = format!("{engine} knows no job with the name {}", run.job);
            // Without an earlier sighting, nobody knows what happened while no
            // server was running.
            let counts = sightings.has_seen(&run.job) || !launcher.is_remote();
            lost(reason, run.has_worker, counts)
        }
    }
}
