//! When a call is made again, and after how long.

use std::time::{Duration, SystemTime};

use reqwest::{StatusCode, header::HeaderMap};
use tokio::time::Instant;

use crate::error::{Error, Result, is_passing};

/// How hard calls try before they fail. Three limits count, each on its own:
/// the number of tries that bring nothing new, the pauses between them, and,
/// where it is set, the time of the whole.
///
/// How long a single try may take is set by
/// [`Builder::timeout`](crate::Builder::timeout) and
/// [`Builder::idle_timeout`](crate::Builder::idle_timeout).
///
/// ```
/// use std::time::Duration;
/// use finetuner::RetryPolicy;
///
/// let patient = RetryPolicy::default()
///     .attempts(10)
///     .longest_pause(Duration::from_secs(60))
///     .pause_limit(Duration::from_secs(900));
/// # let _ = patient;
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct RetryPolicy {
    attempts: u32,
    time_limit: Option<Duration>,
    pause_limit: Duration,
    first_pause: Duration,
    longest_pause: Duration,
}

impl Default for RetryPolicy {
    /// Four tries. The pauses grow from a quarter of a second to eight seconds;
    /// longer ones, which a server asks for by `Retry-After`, may have five
    /// minutes together.
    fn default() -> Self {
        Self {
            attempts: 4,
            time_limit: None,
            pause_limit: Duration::from_secs(300),
            first_pause: Duration::from_millis(250),
            longest_pause: Duration::from_secs(8),
        }
    }
}

impl RetryPolicy {
    /// Makes every call once.
    pub fn never() -> Self {
        Self::default().attempts(1)
    }

    /// Sets how often a call is made at most, the first time included. A
    /// download that brings new bytes begins to count anew.
    pub fn attempts(mut self, attempts: u32) -> Self {
        self.attempts = attempts.max(1);
        self
    }

    /// Sets the limit of the whole: no try begins later than this after the
    /// first. Without it, a transfer may take as long as it moves.
    pub fn time_limit(mut self, limit: Duration) -> Self {
        self.time_limit = Some(limit);
        self
    }

    /// Sets how long all pauses of a call may be together; five minutes by
    /// default. A server that asks to wait longer (`Retry-After`) is not asked
    /// again.
    pub fn pause_limit(mut self, limit: Duration) -> Self {
        self.pause_limit = limit;
        self
    }

    /// Sets the pause before the second try; each further one is twice as long.
    pub fn first_pause(mut self, pause: Duration) -> Self {
        self.first_pause = pause;
        self
    }

    /// Sets what the pauses grow to; eight seconds by default.
    pub fn longest_pause(mut self, pause: Duration) -> Self {
        self.longest_pause = pause;
        self
    }

    /// The first pause, and what the pauses grow to.
    pub(super) fn pauses(&self) -> (Duration, Duration) {
        (self.first_pause, self.longest_pause)
    }
}

/// A pause that doubles with each failure up to `longest`. It is between half
/// and all of that, so that many clients don't come at once.
pub(super) fn back_off(failures: u32, first: Duration, longest: Duration) -> Duration {
    let doubled = first.saturating_mul(1 << failures.saturating_sub(1).min(16));
    doubled
        .min(longest)
        .mul_f64(0.5 + 0.5 * rand::random::<f64>())
}

/// The tries of one call, or of one download that resumes: the one place that
/// decides whether there is another.
#[derive(Debug)]
pub(crate) struct Tries {
    policy: RetryPolicy,
    started: Instant,
    /// Failures in a row that brought nothing.
    failures: u32,
    paused: Duration,
    /// Whether a try may have had its effect although it failed.
    maybe_done: bool,
}

impl Tries {
    pub(crate) fn new(policy: &RetryPolicy) -> Self {
        Self {
            policy: policy.clone(),
            started: Instant::now(),
            failures: 0,
            paused: Duration::ZERO,
            maybe_done: false,
        }
    }

    /// The number of the current try, counted from 1.
    pub(crate) fn number(&self) -> u32 {
        self.failures + 1
    }

    /// Notes that something arrived: earlier failures count no longer.
    pub(crate) fn progressed(&mut self) {
        self.failures = 0;
        self.paused = Duration::ZERO;
    }

    /// Waits before the next try, or gives the error back if there is none.
    pub(crate) async fn again(&mut self, error: Error, allowed: bool) -> Result<()> {
        self.failures += 1;
        let elapsed = self.started.elapsed();
        let error = error
            .after(self.failures, elapsed)
            .maybe_done(self.maybe_done);
        self.maybe_done |= may_have_worked(&error);
        let Some(pause) = self.pause(elapsed, error.retry_after()).filter(|_| allowed) else {
            return Err(error);
        };
        self.paused += pause;
        tokio::time::sleep(pause).await;
        Ok(())
    }

    /// How long to wait after a failure, if there is to be another try. `asked`
    /// is what the server asked for.
    fn pause(&self, elapsed: Duration, asked: Option<Duration>) -> Option<Duration> {
        let policy = &self.policy;
        if self.failures >= policy.attempts {
            return None;
        }
        let pause = back_off(self.failures, policy.first_pause, policy.longest_pause)
            .max(asked.unwrap_or_default());
        let in_time = |limit| elapsed.saturating_add(pause) <= limit;
        let allowed = self.paused.saturating_add(pause) <= policy.pause_limit
            && policy.time_limit.is_none_or(in_time);
        allowed.then_some(pause)
    }
}

/// Whether a failed call may be made again. A call that never reached the
/// server always may; one that may have had its effect only if it is
/// `repeatable`.
pub(crate) fn may_repeat(error: &Error, repeatable: bool) -> bool {
    never_done(error) || (repeatable && error.is_retryable())
}

/// Whether the server has not seen the call, or has refused to look at it.
fn never_done(error: &Error) -> bool {
    error.is_connect() || error.status() == Some(StatusCode::TOO_MANY_REQUESTS.as_u16())
}

/// Whether the call may have had its effect, and the answer was lost.
fn may_have_worked(error: &Error) -> bool {
    let refused = error.status() == Some(StatusCode::SERVICE_UNAVAILABLE.as_u16());
    error.is_retryable() && !never_done(error) && !refused
}

/// How long the server asks us to wait: `Retry-After` in seconds or as a date.
pub(crate) fn retry_after(status: StatusCode, headers: &HeaderMap) -> Option<Duration> {
    if !is_passing(status) {
        return None;
    }
    let value = headers.get(reqwest::header::RETRY_AFTER)?.to_str().ok()?;
    if let Ok(seconds) = value.trim().parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(value).ok()?;
    Some(date.duration_since(SystemTime::now()).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use reqwest::header::{HeaderValue, RETRY_AFTER};

    use super::*;

    fn after(failures: u32, policy: RetryPolicy) -> Tries {
        let mut tries = Tries::new(&policy);
        tries.failures = failures;
        tries
    }

    #[test]
    fn pauses_grow_to_their_limit_and_end_with_the_attempts() {
        for (failures, longest) in [(1, 250), (2, 500), (3, 1000)] {
            let tries = after(failures, RetryPolicy::default());
            let pause = tries.pause(Duration::ZERO, None).unwrap();
            let longest = Duration::from_millis(longest);
            assert!(pause <= longest && pause >= longest / 2, "{pause:?}");
        }
        let ended = after(4, RetryPolicy::default());
        assert_eq!(ended.pause(Duration::ZERO, None), None);
        let never = after(1, RetryPolicy::never());
        assert_eq!(never.pause(Duration::ZERO, None), None);
        let many = RetryPolicy::default().attempts(40);
        let eighth = after(8, many.clone()).pause(Duration::ZERO, None).unwrap();
        assert!(eighth <= Duration::from_secs(8), "{eighth:?}");
        let raised = after(12, many.longest_pause(Duration::from_secs(100)));
        let pause = raised.pause(Duration::ZERO, None).unwrap();
        assert!(pause >= Duration::from_secs(50), "{pause:?}");
    }

    #[test]
    fn what_a_server_asks_for_is_waited_for_within_the_limit_of_pauses() {
        let minute = Some(Duration::from_secs(60));
        let mut tries = after(1, RetryPolicy::default());
        // However long the transfer took before.
        assert_eq!(tries.pause(Duration::from_secs(3600), minute), minute);
        tries.paused = Duration::from_secs(270);
        assert_eq!(tries.pause(Duration::ZERO, minute), None);
        tries.progressed();
        tries.failures = 1;
        assert_eq!(tries.pause(Duration::ZERO, minute), minute);
        assert_eq!(tries.pause(Duration::ZERO, Some(Duration::MAX)), None);
        let whole = RetryPolicy::default().time_limit(Duration::from_secs(90));
        let tries = after(1, whole);
        assert_eq!(tries.pause(Duration::from_secs(20), minute), minute);
        assert_eq!(tries.pause(Duration::from_secs(40), minute), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_minute_that_a_server_asks_for_is_waited_by_default() {
        let busy = || {
            Error::status_of(StatusCode::SERVICE_UNAVAILABLE, b"")
                .asking_to_wait(Some(Duration::from_secs(60)))
        };
        let mut tries = Tries::new(&RetryPolicy::default());
        for _ in 0..3 {
            tries.again(busy(), true).await.unwrap();
        }
        assert_eq!(tries.started.elapsed().as_secs(), 180);
        let error = tries.again(busy(), true).await.unwrap_err();
        assert_eq!(error.attempts(), 4);
        assert!(error.to_string().contains("wait 60s"), "{error}");
    }

    #[test]
    fn both_forms_of_retry_after_are_read() {
        let read = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, HeaderValue::from_str(value).unwrap());
            retry_after(StatusCode::TOO_MANY_REQUESTS, &headers)
        };
        assert_eq!(read("7"), Some(Duration::from_secs(7)));
        assert_eq!(read("soon"), None);
        assert_eq!(read("Sun, 06 Nov 1994 08:49:37 GMT"), Some(Duration::ZERO));
        let soon = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(20));
        let wait = read(&soon).unwrap();
        assert!(wait > Duration::from_secs(10) && wait <= Duration::from_secs(20));
    }
}
