//! Lines of a run's log.

use std::time::Duration;

use finetuner_protocol::{Event, Level};

use crate::observer::Observer;

/// Minimum time between two progress lines in the log.
pub(super) const PROGRESS_INTERVAL: Duration = Duration::from_secs(10);

pub(super) fn log(observer: &mut dyn Observer, level: Level, message: impl Into<String>) {
    observer.event(Event::Log {
        level,
        message: message.into(),
    });
}
