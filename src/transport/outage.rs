//! Tolerance for outages while following a run, such as a restart, an update or a
//! broken network. The run itself lasts for hours and continues meanwhile.

use std::time::Duration;

use tokio::time::Instant;

use super::retry::{RetryPolicy, back_off};
use crate::error::{Error, Result};

/// Default limit of an outage.
pub(crate) const OUTAGE_LIMIT: Duration = Duration::from_secs(30 * 60);

/// Maximum pause between attempts during an outage, unless the retry policy has
/// longer ones.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// Maximum pause that a server may ask for.
const LONGEST_ASKED: Duration = Duration::from_secs(60);
/// Interval of warnings during an outage.
const REPORT_EVERY: Duration = Duration::from_secs(60);

/// State of the backend while a run is followed.
#[derive(Debug)]
pub(crate) struct Outage {
    limit: Duration,
    /// First and longest pause.
    pauses: (Duration, Duration),
    /// Time of the first failure in a row.
    since: Option<Instant>,
    reported: Option<Instant>,
    failures: u32,
}

impl Outage {
    pub(crate) fn new(limit: Duration, policy: &RetryPolicy) -> Self {
        let (first, longest) = policy.pauses();
        Self {
            limit,
            pauses: (first, longest.max(LONGEST_PAUSE)),
            since: None,
            reported: None,
            failures: 0,
        }
    }

    /// Records that the backend answers.
    pub(crate) fn over(&mut self) {
        if let (Some(since), Some(_)) = (self.since, self.reported) {
            tracing::info!(
                seconds = since.elapsed().as_secs(),
                "the backend answers again"
            );
        }
        (self.since, self.reported, self.failures) = (None, None, 0);
    }

    /// Waits before the next attempt, or returns the error if it is permanent or has
    /// lasted too long.
    pub(crate) async fn wait(&mut self, error: Error) -> Result<()> {
        let since = *self.since.get_or_insert_with(Instant::now);
        let elapsed = since.elapsed();
        self.failures += 1;
        if !is_outage(&error) || elapsed >= self.limit {
            return Err(error.after(self.failures, elapsed));
        }
        self.report(&error, elapsed);
        let asked = error.retry_after().unwrap_or_default().min(LONGEST_ASKED);
        let pause = back_off(self.failures, self.pauses.0, self.pauses.1).max(asked);
        // The last attempt is exactly at the limit.
        tokio::time::sleep(pause.min(self.limit - elapsed)).await;
        Ok(())
    }

    /// Logs an outage at its second failure and then every minute. A single broken
    /// connection is not worth a warning.
    fn report(&mut self, error: &Error, elapsed: Duration) {
        let is_due = match self.reported {
            None => self.failures > 1,
            Some(before) => before.elapsed() >= REPORT_EVERY,
        };
        if is_due {
            self.reported = Some(Instant::now());
            tracing::warn!(
                kind = error.kind().as_str(),
                status = error.status(),
                seconds = elapsed.as_secs(),
                limit_seconds = self.limit.as_secs(),
                "the backend does not answer; following the run continues until the limit \
                 (`Builder::outage_limit`)"
            );
        }
    }
}

/// Whether an error may mean that the backend is temporarily unavailable.
fn is_outage(error: &Error) -> bool {
    // 501 and 505 are permanent: the server does not know the call or the version.
    let is_passing_fault = |status| status >= 500 && !matches!(status, 501 | 505);
    error.is_retryable() || error.status().is_some_and(is_passing_fault)
}

#[cfg(test)]
mod tests {
    use reqwest::StatusCode;

    use super::*;

    fn new(limit: Duration) -> Outage {
        Outage::new(limit, &RetryPolicy::default())
    }

    fn away() -> Error {
        Error::status_of(StatusCode::BAD_GATEWAY, b"")
    }

    #[tokio::test(start_paused = true)]
    async fn an_outage_is_tolerated_until_its_limit() {
        let started = Instant::now();
        let mut outage = new(OUTAGE_LIMIT);
        let error = loop {
            if let Err(error) = outage.wait(away()).await {
                break error;
            }
        };
        let elapsed = started.elapsed();
        let slack = Duration::from_secs(1);
        assert!(
            elapsed >= OUTAGE_LIMIT && elapsed < OUTAGE_LIMIT + slack,
            "{elapsed:?}"
        );
        assert!(error.attempts() > 180, "polls at least every ten seconds");
        assert!(error.attempts() < 500, "and no busy loop");
        assert_eq!(error.status(), Some(502));
    }

    #[tokio::test(start_paused = true)]
    async fn every_outage_has_the_full_limit() {
        let mut outage = new(Duration::from_secs(60));
        for _ in 0..5 {
            for _ in 0..6 {
                outage.wait(away()).await.unwrap();
            }
            outage.over();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn permanent_errors_end_the_wait_at_once() {
        for status in [
            StatusCode::NOT_FOUND,
            StatusCode::UNAUTHORIZED,
            StatusCode::NOT_IMPLEMENTED,
        ] {
            let mut outage = new(OUTAGE_LIMIT);
            let error = outage
                .wait(Error::status_of(status, b""))
                .await
                .unwrap_err();
            assert_eq!(error.attempts(), 1);
        }
        let mut outage = new(Duration::ZERO);
        assert!(outage.wait(away()).await.is_err());
    }
}
