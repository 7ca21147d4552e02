//! Errors in the form of OpenAI's API.

use std::borrow::Cow;

use axum::{
    Json,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::json;

use crate::error::ApiError;

/// An answer that is not a success: `{"error": {...}}`.
#[derive(Debug)]
pub(crate) struct OpenAiError {
    pub(super) error: ApiError,
    /// The member of the request that is at fault.
    pub(super) param: Option<Cow<'static, str>>,
    /// What programs tell errors apart by.
    code: Option<&'static str>,
}

pub(super) type Result<T, E = OpenAiError> = std::result::Result<T, E>;

impl OpenAiError {
    /// A member that can't be used.
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

    /// A model that can't be used.
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
            // OpenAI's clients know this one alone.
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

/// Answers for an address below `/v1/` that is none of the server's.
pub(crate) fn nothing_here() -> Response {
    let error = ApiError::not_found(
        "this server has `/v1/embeddings` and `/v1/models` of OpenAI's API, and no others",
    );
    OpenAiError::from(error).into_response()
}
