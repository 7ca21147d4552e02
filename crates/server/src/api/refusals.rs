//! Error answers for requests that no handler accepts.

use axum::{
    body::Body,
    http::{Request, Uri, header},
    middleware::Next,
    response::{IntoResponse, Response},
};

use super::openai;
use crate::error::ApiError;

/// Answers an address that does not exist. Hubble also had services for packages
/// and payments, which an SDK may still call; those are refused by their name.
pub(crate) async fn nothing_here(address: Uri) -> Response {
    if address.path().starts_with("/v1/") {
        return openai::nothing_here();
    }
    let error = match address.path().strip_prefix("/v2/rpc/") {
        Some(method) => ApiError::no_method(method.trim_end_matches('/')),
        None => ApiError::not_found("there is nothing at this address"),
    };
    error.into_response()
}

/// Converts the framework's own rejections, which are plain text, to the JSON
/// errors of both APIs.
pub(crate) async fn refusals_as_json(request: Request<Body>, next: Next) -> Response {
    let answer = next.run(request).await;
    let kind = answer.headers().get(header::CONTENT_TYPE);
    let is_text = kind.is_none_or(|kind| kind.as_bytes().starts_with(b"text/plain"));
    if !answer.status().is_client_error() || !is_text {
        return answer;
    }
    let status = answer.status();
    let text = axum::body::to_bytes(answer.into_body(), 4096).await;
    let text = text.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    ApiError::rejected(status, text.unwrap_or_default()).into_response()
}
