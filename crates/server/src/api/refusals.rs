//! Answers for requests that no handler takes.

use axum::{
    body::Body,
    http::{Request, Uri, header},
    middleware::Next,
    response::{IntoResponse, Response},
};

use super::openai;
use crate::error::ApiError;

/// Answers for an address that is none of the server's. Hubble had services for
/// packages and payments too, whose calls an SDK may still make.
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

/// Turns the framework's own refusals, which are plain text, into the JSON that both
/// APIs promise.
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
