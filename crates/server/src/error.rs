//! What the API answers when it can't do what was asked.

use axum::{
    Json,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use finetuner_engine::Error as EngineError;
use serde_json::json;

/// The result of a call.
pub(crate) type Result<T, E = ApiError> = std::result::Result<T, E>;

/// An answer that is not a success. Its body is what both APIs promise: the
/// Finetuner API's `detail`, and the envelope of Hubble.
#[derive(Debug)]
pub(crate) struct ApiError {
    status: StatusCode,
    message: String,
}

impl ApiError {
    fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self {
            status,
            message: message.into(),
        }
    }

    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    /// Without a valid token.
    pub(crate) fn unauthorized() -> Self {
        Self::new(
            StatusCode::UNAUTHORIZED,
            "Token invalid or expired: log in with a token that this server gave",
        )
    }

    pub(crate) fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, message)
    }

    pub(crate) fn conflict(message: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, message)
    }

    pub(crate) fn too_large(message: impl Into<String>) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, message)
    }

    pub(crate) fn too_many(message: impl Into<String>) -> Self {
        Self::new(StatusCode::TOO_MANY_REQUESTS, message)
    }

    /// Understood, but impossible.
    pub(crate) fn unprocessable(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, message)
    }

    /// The server's own fault: the cause goes to its log, not to the client.
    pub(crate) fn internal(cause: &dyn std::fmt::Display) -> Self {
        tracing::error!("{cause}");
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "the server could not do this; its log says why",
        )
    }

    /// What is wrong with a run configuration or its data.
    pub(crate) fn engine(error: &EngineError) -> Self {
        match error {
            EngineError::Config { .. } | EngineError::Model { .. } | EngineError::Data(_) => {
                Self::unprocessable(error.to_string())
            }
            other => Self::internal(other),
        }
    }

    /// The status in the body of a Hubble answer.
    fn hubble_status(&self) -> u16 {
        match self.status {
            StatusCode::BAD_REQUEST => 40001,
            StatusCode::UNAUTHORIZED => 40103,
            StatusCode::FORBIDDEN => 40301,
            StatusCode::NOT_FOUND => 40403,
            StatusCode::CONFLICT => 40901,
            StatusCode::PAYLOAD_TOO_LARGE => 41301,
            StatusCode::UNPROCESSABLE_ENTITY => 42203,
            _ => 50001,
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let body = json!({
            "detail": self.message,
            "code": self.status.as_u16(),
            "status": self.hubble_status(),
            "message": self.message,
            "readableMessage": self.message,
            "data": null,
        });
        let mut response = (self.status, Json(body)).into_response();
        if self.status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(
                header::WWW_AUTHENTICATE,
                header::HeaderValue::from_static("token"),
            );
        }
        response
    }
}

impl From<rusqlite::Error> for ApiError {
    fn from(error: rusqlite::Error) -> Self {
        Self::internal(&error)
    }
}

impl From<object_store::Error> for ApiError {
    fn from(error: object_store::Error) -> Self {
        Self::internal(&error)
    }
}

/// Why a server can't start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The address is taken or not one of this machine.
    #[error("can't listen on {address}: {source}. Choose another address with `--address`")]
    Listen {
        /// The address.
        address: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The data folder can't be used.
    #[error("the data folder {folder} can't be used: {reason}")]
    Folder {
        /// The folder.
        folder: String,
        /// What is wrong with it.
        reason: String,
    },
}
