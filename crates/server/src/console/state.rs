//! The state of a run for display.

use finetuner_protocol::Status;
use maud::{Markup, html};

use super::metrics;
use crate::database::{CANCELLED, Outline, RunRow};

/// State of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Waiting for its first worker, or for another one.
    Waiting,
    Running,
    Finished,
    /// Finished, but at least half of the judged metrics got worse.
    Worse,
    Failed,
    /// Cancelled by a user.
    Cancelled,
}

impl State {
    /// The states that a list can be filtered by.
    pub(super) const ALL: [Self; 5] = [
        Self::Waiting,
        Self::Running,
        Self::Finished,
        Self::Failed,
        Self::Cancelled,
    ];

    pub(super) fn of(run: &RunRow) -> Self {
        let is_worse = || metrics::got_worse(&metrics::of(run));
        Self::of_parts(run.status(), &run.noted, run.has_worker, is_worse)
    }

    pub(super) fn of_outline(run: &Outline) -> Self {
        let is_worse = || metrics::got_worse(&metrics::named(&run.metrics, &run.config));
        let status = Status::from(run.status.as_str());
        Self::of_parts(status, &run.noted, run.has_worker, is_worse)
    }

    fn of_parts(
        status: Status,
        noted: &str,
        has_worker: bool,
        is_worse: impl FnOnce() -> bool,
    ) -> Self {
        match status {
            Status::Finished if is_worse() => Self::Worse,
            Status::Finished => Self::Finished,
            Status::Failed if noted.starts_with(CANCELLED) => Self::Cancelled,
            Status::Failed => Self::Failed,
            Status::Started if has_worker => Self::Running,
            _ => Self::Waiting,
        }
    }

    /// Returns the CSS class, which is also the value in URLs.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Running => "running",
            Self::Finished => "finished",
            Self::Worse => "worse",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Waiting => "Waiting",
            Self::Running => "Running",
            Self::Finished => "Finished",
            Self::Worse => "Finished, worse",
            Self::Failed => "Failed",
            Self::Cancelled => "Cancelled",
        }
    }

    /// Renders the state as a coloured label.
    pub(super) fn badge(self) -> Markup {
        html! { span class={ "status " (self.word()) } { (self.label()) } }
    }
}

/// Renders the state of a run as a coloured label.
pub(super) fn badge(run: &RunRow) -> Markup {
    State::of(run).badge()
}

/// Renders the progress of a run.
pub(super) fn progress(run: &RunRow) -> Markup {
    let share = match run.status() {
        Status::Finished => 1.0,
        _ => run.progress.share(),
    };
    let percent = (share * 100.0).floor();
    html! { progress max="100" value=(percent) aria-label="Progress" { (percent) "%" } }
}

/// Returns the duration of a run in milliseconds; until `now` if it is still
/// running.
pub(super) fn duration(run: &RunRow, now: i64) -> Option<i64> {
    let started = run.started_at?;
    Some(run.ended_at.unwrap_or(now).saturating_sub(started).max(0))
}
