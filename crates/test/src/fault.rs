//! Faults that a test injects into calls: error statuses, pauses, broken connections.

use std::{io, time::Duration};

use axum::{
    body::Body,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures_util::{StreamExt, stream};

use crate::answer::refusal;

/// A fault to inject into calls with [`TestBackend::fault`](crate::TestBackend::fault).
///
/// It occurs once, in the first matching call, unless [`Fault::times`] or
/// [`Fault::always`] is set. If several faults match, the one that was added first occurs.
///
/// ```
/// use std::time::Duration;
///
/// use finetuner_test::Fault;
///
/// let busy = Fault::status(429).retry_after(Duration::from_secs(2)).times(3).on("/runs");
/// # drop(busy);
/// ```
#[derive(Clone, Debug)]
#[must_use = "a fault occurs only after `TestBackend::fault`"]
pub struct Fault {
    kind: Kind,
    /// Text that the path must contain.
    on: String,
    method: Option<String>,
    /// Remaining number of occurrences; unlimited if `None`.
    left: Option<u32>,
    headers: HeaderMap,
    body: Option<Bytes>,
}

#[derive(Clone, Debug)]
enum Kind {
    Status(StatusCode),
    Garbage,
    Slow(Duration),
    Cut(usize),
    Dropped,
    Lost,
}

/// Effect of a fault before the call is executed.
pub(crate) enum Before {
    Answer(Response),
    Break,
    Nothing,
}

impl Fault {
    fn new(kind: Kind) -> Self {
        Self {
            kind,
            on: String::new(),
            method: None,
            left: Some(1),
            headers: HeaderMap::new(),
            body: None,
        }
    }

    /// Answers with this status instead of executing the call.
    ///
    /// An invalid HTTP status becomes 500.
    pub fn status(status: u16) -> Self {
        let status = StatusCode::from_u16(status);
        Self::new(Kind::Status(
            status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
        ))
    }

    /// Answers with 200 and this body instead of executing the call.
    ///
    /// Examples are broken JSON and a web page.
    pub fn garbage(body: impl Into<Bytes>) -> Self {
        Self::new(Kind::Garbage).body(body)
    }

    /// Executes the call after this pause; never, for `Duration::MAX`.
    pub fn slow(pause: Duration) -> Self {
        Self::new(Kind::Slow(pause))
    }

    /// Executes the call, and breaks the connection after the first `bytes` bytes of the
    /// answer's body.
    ///
    /// A shorter body is sent completely.
    pub fn cut_after(bytes: usize) -> Self {
        Self::new(Kind::Cut(bytes))
    }

    /// Breaks the connection instead of executing the call.
    pub fn dropped() -> Self {
        Self::new(Kind::Dropped)
    }

    /// Executes the call, and breaks the connection instead of answering.
    pub fn lost() -> Self {
        Self::new(Kind::Lost)
    }

    /// Adds a `Retry-After` header, rounded up to whole seconds.
    pub fn retry_after(mut self, pause: Duration) -> Self {
        let seconds = pause.as_secs() + u64::from(pause.subsec_nanos() > 0);
        self.headers
            .insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        self
    }

    /// Adds a header to the answer of a fault with a status.
    ///
    /// An invalid header is ignored.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
            self.headers.insert(name, value);
        }
        self
    }

    /// Sets the body of the answer of a fault with a status.
    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = Some(body.into());
        self
    }

    /// Sets how often the fault occurs; once by default.
    pub fn times(mut self, times: u32) -> Self {
        self.left = Some(times);
        self
    }

    /// Repeats the fault until
    /// [`TestBackend::clear_faults`](crate::TestBackend::clear_faults).
    pub fn always(mut self) -> Self {
        self.left = None;
        self
    }

    /// Restricts the fault to paths that contain this text.
    pub fn on(mut self, path: impl Into<String>) -> Self {
        self.on = path.into();
        self
    }

    /// Restricts the fault to calls with this method, such as `POST`.
    pub fn method(mut self, method: impl Into<String>) -> Self {
        self.method = Some(method.into());
        self
    }

    /// Returns the first fault that matches a call, and counts its occurrence.
    pub(crate) fn take(faults: &mut Vec<Self>, method: &str, path: &str) -> Option<Self> {
        let is_meant = |fault: &Self| {
            let same = |wanted: &String| wanted.eq_ignore_ascii_case(method);
            fault.left != Some(0)
                && path.contains(&fault.on)
                && fault.method.as_ref().is_none_or(same)
        };
        let fault = faults.iter_mut().find(|fault| is_meant(fault))?;
        let found = fault.clone();
        fault.left = fault.left.map(|left| left - 1);
        faults.retain(|fault| fault.left != Some(0));
        Some(found)
    }

    /// Applies the fault before the call is executed.
    pub(crate) async fn before(&self) -> Before {
        match self.kind {
            Kind::Status(status) => {
                let default = || Bytes::from(refusal(status, "a fault of the test").to_string());
                let body = self.body.clone().unwrap_or_else(default);
                let kind = content_type(&body);
                let mut answer = (status, [(header::CONTENT_TYPE, kind)], body).into_response();
                answer.headers_mut().extend(self.headers.clone());
                Before::Answer(answer)
            }
            Kind::Garbage => {
                let body = self.body.clone().unwrap_or_default();
                let kind = content_type(&body);
                Before::Answer(([(header::CONTENT_TYPE, kind)], body).into_response())
            }
            Kind::Slow(pause) => {
                tokio::time::sleep(pause).await;
                Before::Nothing
            }
            Kind::Dropped => Before::Break,
            Kind::Cut(_) | Kind::Lost => Before::Nothing,
        }
    }

    /// Applies the fault to the answer; `None` if the connection breaks.
    pub(crate) fn after(&self, answer: Response) -> Option<Response> {
        match self.kind {
            Kind::Lost => None,
            Kind::Cut(bytes) => Some(answer.map(|body| cut(body, bytes))),
            _ => Some(answer),
        }
    }
}

fn content_type(body: &[u8]) -> &'static str {
    match body.trim_ascii_start().first() {
        Some(b'<') => "text/html",
        _ => "application/json",
    }
}

/// Returns a body that ends with an error after `left` bytes.
fn cut(body: Body, left: usize) -> Body {
    let pieces = stream::unfold(Some((body.into_data_stream(), left)), |state| async move {
        let (mut body, left) = state?;
        if left == 0 {
            // Lets the server send its data before the connection breaks.
            tokio::task::yield_now().await;
            let error = io::Error::from(io::ErrorKind::ConnectionReset);
            return Some((Err(axum::Error::new(error)), None));
        }
        let mut bytes = match body.next().await? {
            Ok(bytes) => bytes,
            Err(error) => return Some((Err(error), None)),
        };
        bytes.truncate(left);
        let left = left - bytes.len();
        Some((Ok(bytes), Some((body, left))))
    });
    Body::from_stream(pieces)
}
