//! Answers in the formats of both APIs.

use axum::{
    Json,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};

/// Time of everything, constant for reproducible tests.
pub(crate) const CREATED_AT: &str = "2026-01-01T00:00:00";

/// Answer to a call.
pub(crate) type Result<T> = std::result::Result<T, Refusal>;

/// Answer that is not a success.
#[derive(Debug)]
pub(crate) struct Refusal {
    status: StatusCode,
    message: String,
}

impl Refusal {
    pub(crate) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { status, message }
    }

    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    pub(crate) fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, message)
    }

    pub(crate) fn conflict(message: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, message)
    }

    pub(crate) fn unprocessable(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, message)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.status, Json(refusal(self.status, &self.message))).into_response()
    }
}

/// Returns the body of a refusal: the Finetuner API's `detail` and Hubble's envelope.
pub(crate) fn refusal(status: StatusCode, message: &str) -> Value {
    let status = status.as_u16();
    json!({
        "detail": message,
        "code": status,
        "status": u32::from(status) * 100 + 1,
        "message": message,
        "readableMessage": message,
        "data": null,
    })
}

/// Returns a successful Hubble answer.
pub(crate) fn success(data: Value) -> Json<Value> {
    Json(json!({"code": 200, "status": 20000, "data": data}))
}
