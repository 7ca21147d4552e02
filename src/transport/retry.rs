//! Whether and when a call is repeated.

use std::time::{Duration, SystemTime};

use reqwest::{StatusCode, header::HeaderMap};
use tokio::time::Instant;

use crate::error::{Error, Result, is_passing};

/// When and how often calls are repeated.
///
/// Three separate limits apply: the number of attempts without progress, the sum
/// of the pauses, and, if set, the total time. The time for a single attempt is set
/// with [`Builder::timeout`](crate::Builder::timeout) and
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
    /// Four attempts, with pauses that grow from 0.25 to 8 seconds. If the server
    /// asks for longer ones with `Retry-After`, the pauses may last five minutes in
    /// total.
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
    /// Creates a policy that never repeats a call.
    pub fn never() -> Self {
        Self::default().attempts(1)
    }

    /// Sets the maximum number of attempts, including the first one.
    ///
    /// A download that receives new bytes starts counting again.
    pub fn attempts(mut self, attempts: u32) -> Self {
        self.attempts = attempts.max(1);
        self
    }

    /// Sets the limit for the total time of a call.
    ///
    /// No attempt begins after it. By default, there is none: a transfer may take as
    /// long as it makes progress.
    pub fn time_limit(mut self, limit: Duration) -> Self {
        self.time_limit = Some(limit);
        self
    }

    /// Sets the limit for the sum of a call's pauses; five minutes by default.
    ///
    /// If a server asks for a longer pause (`Retry-After`), the call fails.
    pub fn pause_limit(mut self, limit: Duration) -> Self {
        self.pause_limit = limit;
        self
    }

    /// Sets the pause before the second attempt; the pause doubles each time.
    pub fn first_pause(mut self, pause: Duration) -> Self {
        self.first_pause = pause;
        self
    }

    /// Sets the maximum pause; eight seconds by default.
    pub fn longest_pause(mut self, pause: Duration) -> Self {
        self.longest_pause = pause;
        self
    }

    /// Returns the first and the maximum pause.
    pub(super) fn pauses(&self) -> (Duration, Duration) {
        (self.first_pause, self.longest_pause)
    }
}

/// Returns a pause that doubles with each failure up to `longest`, times a random
/// factor from 0.5 to 1, so that many clients don't call at the same time.
pub(super) fn back_off(failures: u32, first: Duration, longest: Duration) -> Duration {
    let doubled = first.saturating_mul(1 << failures.saturating_sub(1).min(16));
    scaled(doubled.min(longest), 0.5 + 0.5 * rand::random::<f64>())
}

/// Returns a pause times a factor of at most 1.
fn scaled(pause: Duration, factor: f64) -> Duration {
    // As floating point, the longest durations round to more than `Duration::MAX`.
    Duration::try_from_secs_f64(pause.as_secs_f64() * factor).unwrap_or(pause)
}

/// The attempts of one call or of one resuming download. Only this type decides
/// whether there is another attempt.
#[derive(Debug)]
pub(crate) struct Tries {
    policy: RetryPolicy,
    started: Instant,
    /// Failures in a row without progress.
    failures: u32,
    paused: Duration,
    /// Whether a failed attempt may have taken effect.
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

    /// Returns the number of the current attempt, counted from 1.
    pub(crate) fn number(&self) -> u32 {
        self.failures + 1
    }

    /// Records that data arrived: earlier failures no longer count.
    pub(crate) fn progressed(&mut self) {
        self.failures = 0;
        self.paused = Duration::ZERO;
    }

    /// Waits before the next attempt, or returns the error if there is none.
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
        self.paused = self.paused.saturating_add(pause);
        tokio::time::sleep(pause).await;
        Ok(())
    }

    /// Returns the pause after a failure, or `None` if there is no further attempt.
    /// `asked` is the pause that the server asked for.
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

/// Whether a failed call may be repeated. A call that never reached the server
/// always may; one that may have taken effect only if it is `repeatable`.
pub(crate) fn may_repeat(error: &Error, repeatable: bool) -> bool {
    never_done(error) || (repeatable && error.is_retryable())
}

/// Whether the server did not get the call, or refused to process it.
fn never_done(error: &Error) -> bool {
    error.is_connect() || error.status() == Some(StatusCode::TOO_MANY_REQUESTS.as_u16())
}

/// Whether the call may have taken effect although its answer was lost.
fn may_have_worked(error: &Error) -> bool {
    let refused = error.status() == Some(StatusCode::SERVICE_UNAVAILABLE.as_u16());
    error.is_retryable() && !never_done(error) && !refused
}

/// Returns the pause that the server asks for: `Retry-After`, in seconds or as a date.
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
    fn pauses_grow_to_their_limit_until_the_attempts_are_used_up() {
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
    fn the_longest_pauses_do_not_overflow() {
        assert_eq!(scaled(Duration::MAX, 1.0), Duration::MAX);
        let pause = back_off(40, Duration::MAX, Duration::MAX);
        assert!(pause >= Duration::MAX / 4, "{pause:?}");
    }

    #[test]
    fn retry_after_is_honoured_within_the_limit_of_pauses() {
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
    async fn a_retry_after_of_one_minute_is_honoured_by_default() {
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
