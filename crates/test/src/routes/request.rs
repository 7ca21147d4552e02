//! Reads requests.

use axum::http::HeaderMap;
use serde::de::DeserializeOwned;

use crate::answer::{Refusal, Result};

/// Parses the JSON of a request.
pub(super) fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T> {
    serde_json::from_slice(body).map_err(|e| Refusal::unprocessable(e.to_string()))
}

/// Returns the idempotency key of a creating request.
pub(super) fn key(headers: &HeaderMap) -> Option<String> {
    let key = headers.get("idempotency-key")?.to_str().ok()?;
    Some(key.to_owned())
}
