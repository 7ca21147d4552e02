//! Errors that a program creates itself, to test its error handling.

use std::{io, time::Duration};

use reqwest::StatusCode;

use super::Error;

impl Error {
    /// Creates the error of an answer with this status and body, for tests of code
    /// that handles errors.
    ///
    /// ```
    /// use finetuner::Error;
    ///
    /// let error = Error::from_response(409, r#"{"detail": "there is such a run"}"#);
    /// assert!(error.is_conflict());
    /// assert_eq!(error.server_message(), Some("there is such a run"));
    /// ```
    #[must_use]
    pub fn from_response(status: u16, body: impl AsRef<[u8]>) -> Self {
        let body = body.as_ref();
        match StatusCode::from_u16(status) {
            Ok(status) => Self::status_of(status, body),
            Err(_) => Self::decode(format_args!("`{status}` is not an HTTP status"), body),
        }
    }

    /// Creates the error of a call whose connection failed, for tests of code that
    /// handles errors.
    ///
    /// The kind `ConnectionRefused` gives an error with [`Error::is_connect`], the
    /// kind `TimedOut` one with [`Error::is_timeout`].
    ///
    /// ```
    /// use std::io::{self, ErrorKind};
    ///
    /// use finetuner::Error;
    ///
    /// let error = Error::from_connection(io::Error::from(ErrorKind::ConnectionRefused));
    /// assert!(error.is_connect() && error.is_retryable());
    /// ```
    #[must_use]
    pub fn from_connection(error: io::Error) -> Self {
        Self::service(error.into(), Duration::ZERO)
    }

    /// Creates the error of waiting for a run that failed, for tests of code that
    /// handles errors.
    ///
    /// ```
    /// let error = finetuner::Error::from_failed_run("shoes", "out of memory");
    /// assert!(error.is_run_failed());
    /// ```
    #[must_use]
    pub fn from_failed_run(name: &str, details: &str) -> Self {
        Self::run_failed(name, details)
    }
}
