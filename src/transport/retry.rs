//! When a call is made again, and after how long.

use std::time::{Duration, SystemTime};

use reqwest::{StatusCode, header::HeaderMap};

use crate::{Error, error::is_passing};

/// The longest that a server may ask us to wait.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(60);

/// How hard calls try before they fail.
///
/// ```
/// use std::time::Duration;
/// use finetuner::RetryPolicy;
///
/// let patient = RetryPolicy::default()
///     .attempts(10)
///     .time_limit(Duration::from_secs(300));
/// # let _ = patient;
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct RetryPolicy {
    attempts: u32,
    time_limit: Duration,
    first_pause: Duration,
    longest_pause: Duration,
}

impl Default for RetryPolicy {
    /// Four tries within a minute, the pauses from a quarter of a second to
    /// eight seconds.
    fn default() -> Self {
        Self {
            attempts: 4,
            time_limit: Duration::from_secs(60),
            first_pause: Duration::from_millis(250),
            longest_pause: Duration::from_secs(8),
        }
    }
}

impl RetryPolicy {
    /// Calls are made once.
    ///
    /// ```no_run
    /// # fn example(builder: finetuner::Builder) {
    /// use finetuner::RetryPolicy;
    ///
    /// let builder = builder.retry(RetryPolicy::never());
    /// # }
    /// ```
    pub fn never() -> Self {
        Self::default().attempts(1)
    }

    /// How often a call is made at most, the first time included.
    ///
    /// ```no_run
    /// # fn example(builder: finetuner::Builder) {
    /// use finetuner::RetryPolicy;
    ///
    /// let builder = builder.retry(RetryPolicy::default().attempts(2));
    /// # }
    /// ```
    pub fn attempts(mut self, attempts: u32) -> Self {
        self.attempts = attempts.max(1);
        self
    }

    /// No try begins later than this after the first.
    ///
    /// ```no_run
    /// # fn example(builder: finetuner::Builder) {
    /// use std::time::Duration;
    ///
    /// use finetuner::RetryPolicy;
    ///
    /// let policy = RetryPolicy::default().time_limit(Duration::from_secs(20));
    /// let builder = builder.retry(policy);
    /// # }
    /// ```
    pub fn time_limit(mut self, limit: Duration) -> Self {
        self.time_limit = limit;
        self
    }

    /// The pause before the second try; each further one is twice as long.
    ///
    /// ```no_run
    /// # fn example(builder: finetuner::Builder) {
    /// use std::time::Duration;
    ///
    /// use finetuner::RetryPolicy;
    ///
    /// let policy = RetryPolicy::default().first_pause(Duration::from_millis(50));
    /// let builder = builder.retry(policy);
    /// # }
    /// ```
    pub fn first_pause(mut self, pause: Duration) -> Self {
        self.first_pause = pause;
        self
    }

    /// How long to wait before try number `attempt + 1`, if there is to be one.
    /// `asked` is what the server asked for.
    pub(crate) fn pause(
        &self,
        attempt: u32,
        elapsed: Duration,
        asked: Option<Duration>,
    ) -> Option<Duration> {
        if attempt >= self.attempts {
            return None;
        }
        let doubled = self.first_pause.saturating_mul(1 << (attempt - 1).min(16));
        // Between half and all of it, so that many clients don't come at once.
        let jittered = doubled
            .min(self.longest_pause)
            .mul_f64(0.5 + 0.5 * rand::random::<f64>());
        let pause = jittered.max(asked.unwrap_or_default().min(MAX_RETRY_AFTER));
        (elapsed + pause <= self.time_limit).then_some(pause)
    }
}

/// Whether a failed call may be made again. A call that never reached the
/// server always may; one that may have had its effect only if it is
/// `repeatable`.
pub(crate) fn may_repeat(error: &Error, repeatable: bool) -> bool {
    let never_done =
        error.is_connect() || error.status() == Some(StatusCode::TOO_MANY_REQUESTS.as_u16());
    never_done || (repeatable && error.is_retryable())
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

    #[test]
    fn pauses_grow_to_their_limit_and_end_with_attempts_or_time() {
        let policy = RetryPolicy::default();
        for (attempt, longest) in [(1, 250), (2, 500), (3, 1000)] {
            let pause = policy.pause(attempt, Duration::ZERO, None).unwrap();
            let longest = Duration::from_millis(longest);
            assert!(pause <= longest && pause >= longest / 2, "{pause:?}");
        }
        assert_eq!(policy.pause(4, Duration::ZERO, None), None);
        assert_eq!(policy.pause(1, Duration::from_secs(60), None), None);
        assert_eq!(RetryPolicy::never().pause(1, Duration::ZERO, None), None);
        let asked = Some(Duration::from_secs(5));
        assert_eq!(policy.pause(1, Duration::ZERO, asked), asked);
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
