//! Errors in the form of OpenAI's API.

use std::borrow::Cow;

use axum::{
    Json,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::json;

use crate::error::ApiError;

/// An error answer: `{"error": {...}}`.
#[derive(Debug)]
pub(crate) struct OpenAiError {
    pub(super) error: ApiError,
    /// Name of the wrong member of the request.
    pub(super) param: Option<Cow<'static, str>>,
    /// Code by which programs distinguish errors.
    code: Option<&'static str>,
}

pub(super) type Result<T, E = OpenAiError> = std::result::Result<T, E>;

impl OpenAiError {
    /// Returns the error for an invalid member.
    pub(super) fn invalid(
        param: impl Into<Cow<'static, str>>,
        reason: impl std::fmt::Display,
    ) -> Self {
        let param = param.into();
        Self {
            error: ApiError::bad_request(format!("`{param}`: {reason}")),
            param: Some(param),
            code: None,
        }
    }

    /// Returns the error for a model that can't be used.
    pub(super) fn model(error: ApiError, code: Option<&'static str>) -> Self {
        Self {
            error,
            param: Some("model".into()),
            code,
        }
    }
}

impl From<ApiError> for OpenAiError {
    fn from(error: ApiError) -> Self {
        let code = match error.status() {
            StatusCode::UNAUTHORIZED => Some("invalid_api_key"),
            StatusCode::TOO_MANY_REQUESTS => Some("rate_limit_exceeded"),
            _ => None,
        };
        Self {
            error,
            param: None,
            code,
        }
    }
}

impl IntoResponse for OpenAiError {
    fn into_response(self) -> Response {
        let status = match self.error.status() {
            // OpenAI's clients only know this code.
            StatusCode::UNPROCESSABLE_ENTITY => StatusCode::BAD_REQUEST,
            other => other,
        };
        let kind = match status {
            StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
            status if status.is_server_error() => "server_error",
            _ => "invalid_request_error",
        };
        let body = json!({"error": {
            "message": self.error.shown(),
            "type": kind,
            "param": self.param,
            "code": self.code,
        }});
        let mut answer = (status, Json(body)).into_response();
        let headers = answer.headers_mut();
        if let Some(seconds) = self.error.retry_after() {
            headers.insert(header::RETRY_AFTER, header::HeaderValue::from(seconds));
        }
        if status == StatusCode::UNAUTHORIZED {
            let scheme = header::HeaderValue::from_static("Bearer");
            headers.insert(header::WWW_AUTHENTICATE, scheme);
        }
        answer
    }
}

/// Answers an address below `/v1/` that does not exist.
pub(crate) fn nothing_here() -> Response {
    let error = ApiError::not_found(
        "of OpenAI's API, this server has only `/v1/embeddings` and `/v1/models`",
    );
    OpenAiError::from(error).into_response()
}
