//! Health of the queue, for `/readyz`.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use crate::clock::Clock;

/// A round that takes longer than this hangs. It may ask a slow engine several
/// times, for up to half a minute each.
const LONGEST_ROUND: Duration = Duration::from_secs(300);

/// The queue's latest report.
pub(crate) struct Health {
    clock: Clock,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    finished_at: Duration,
    failure: Option<String>,
    /// The engine that does not answer, and since when.
    away: Option<(&'static str, Duration)>,
}

impl Health {
    pub(crate) fn new(clock: Clock) -> Self {
        let state = State {
            finished_at: clock.now(),
            ..State::default()
        };
        Self {
            clock,
            state: Mutex::new(state),
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records a round without an error.
    pub(crate) fn good(&self) {
        let mut state = self.state();
        state.finished_at = self.clock.now();
        state.failure = None;
    }

    /// Records whether the engine has answered.
    pub(crate) fn engine(&self, engine: &'static str, answers: bool) {
        let mut state = self.state();
        state.away = match answers {
            true => None,
            false => state.away.or(Some((engine, self.clock.now()))),
        };
    }

    /// Returns a note for the operator about a working queue. Anybody may read it.
    pub(crate) fn note(&self) -> Option<String> {
        let (engine, since) = self.state().away?;
        let seconds = self.clock.now().saturating_sub(since).as_secs();
        Some(format!(
            "{engine} has not answered for {seconds} seconds; no run is started until it answers; \
             the server's log has the reason"
        ))
    }

    /// Records that a round failed. Returns whether the reason is new.
    pub(crate) fn failed(&self, reason: String) -> bool {
        let mut state = self.state();
        let is_new = state.failure.as_ref() != Some(&reason);
        state.failure = Some(reason);
        is_new
    }

    /// Returns the problem of the queue, if there is one.
    pub(crate) fn problem(&self) -> Option<String> {
        let state = self.state();
        let silent = self.clock.now().saturating_sub(state.finished_at);
        match &state.failure {
            Some(reason) => Some(format!("the queue does not work: {reason}")),
            None if silent > LONGEST_ROUND => Some(format!(
                "the queue has not checked its runs for {} seconds",
                silent.as_secs()
            )),
            None => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_engine_outage_is_reported_and_leaves_the_queue_healthy() {
        let clock = Clock::default();
        let health = Health::new(clock.clone());
        assert_eq!(health.note(), None);
        health.engine("Slurm", false);
        clock.advance(Duration::from_secs(70));
        health.engine("Slurm", false);
        health.good();
        let note = health.note().unwrap();
        assert!(
            note.starts_with("Slurm has not answered for 70 s"),
            "{note}"
        );
        assert_eq!(health.problem(), None);
        health.engine("Slurm", true);
        assert_eq!(health.note(), None);
    }

    #[test]
    fn a_queue_that_fails_or_hangs_is_reported() {
        let clock = Clock::default();
        let health = Health::new(clock.clone());
        assert_eq!(health.problem(), None);
        assert!(health.failed("the disk is full".into()));
        assert!(!health.failed("the disk is full".into()));
        let problem = health.problem().unwrap();
        assert_eq!(problem, "the queue does not work: the disk is full");
        health.good();
        assert_eq!(health.problem(), None);
        clock.advance(LONGEST_ROUND + Duration::from_secs(1));
        let problem = health.problem().unwrap();
        assert!(problem.contains("for 301 seconds"), "{problem}");
    }
}
