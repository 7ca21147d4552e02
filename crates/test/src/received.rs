//! Requests that the backend received.

use axum::http::HeaderMap;
use bytes::Bytes;
use serde_json::Value;

/// A received request.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Received {
    /// The method, such as `POST`.
    pub method: String,
    /// The path, such as `/api/v1/experiments/default/runs`.
    pub path: String,
    /// The query string without `?`; empty if there is none.
    pub query: String,
    /// The headers. The token is marked as sensitive and not shown by `Debug`.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

impl Received {
    /// Returns the value of a header if it is text.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// Returns the body as JSON; `null` if it is not JSON.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}
