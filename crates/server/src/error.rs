//! Errors of the API, and errors at the start of a server.

use std::{borrow::Cow, io::ErrorKind};

use axum::{
    Json,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use finetuner_engine::Error as EngineError;
use rusqlite::ErrorCode;
use serde_json::json;

use crate::database::Refusal;

/// Maximum length of a message in an answer, in characters.
const MAX_MESSAGE: usize = 8000;

/// Result of a call.
pub(crate) type Result<T, E = ApiError> = std::result::Result<T, E>;

/// An error answer. Its body has the fields of both APIs: the Finetuner API's
/// `detail`, and Hubble's envelope.
#[derive(Clone, Debug)]
pub(crate) struct ApiError {
    status: StatusCode,
    message: String,
    /// Status in the body of a Hubble answer, if it does not follow from `status`.
    hubble: Option<u16>,
    /// Value of `Retry-After`, in seconds.
    retry_after: Option<u64>,
}

impl ApiError {
    fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self {
            status,
            message: message.into(),
            hubble: None,
            retry_after: None,
        }
    }

    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    /// 401: the request has no valid token.
    pub(crate) fn unauthorized() -> Self {
        Self::new(
            StatusCode::UNAUTHORIZED,
            "Token invalid or expired: log in with a token issued by this server",
        )
    }

    /// 410: the resource has ended for good.
    pub(crate) fn gone(message: impl Into<String>) -> Self {
        Self::new(StatusCode::GONE, message)
    }

    /// 401: other credentials than a token are wrong.
    pub(crate) fn unauthenticated(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, message)
    }

    /// 403: the token does not permit the call.
    pub(crate) fn forbidden(message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, message)
    }

    pub(crate) fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, message)
    }

    /// 404: the server does not have this Hubble call.
    pub(crate) fn no_method(name: &str) -> Self {
        let name: String = name.chars().take(100).collect();
        Self {
            hubble: Some(40402),
            ..Self::not_found(format!(
                "this server has no call `{name}`: it only has calls for accounts, tokens, data and \
                 models"
            ))
        }
    }

    pub(crate) fn method_not_allowed() -> Self {
        Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "this address does not support the method",
        )
    }

    /// Returns the error for a request that could not be parsed.
    pub(crate) fn rejected(status: StatusCode, message: String) -> Self {
        // Both APIs answer 422 to a body that is not valid JSON.
        let status = match status {
            StatusCode::BAD_REQUEST => StatusCode::UNPROCESSABLE_ENTITY,
            other => other,
        };
        Self::new(status, message)
    }

    pub(crate) fn conflict(message: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, message)
    }

    pub(crate) fn too_large(message: impl Into<String>) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, message)
    }

    /// 429: too much at once. The client may retry after `seconds`.
    pub(crate) fn too_many(message: impl Into<String>, seconds: u64) -> Self {
        Self {
            retry_after: Some(seconds),
            ..Self::new(StatusCode::TOO_MANY_REQUESTS, message)
        }
    }

    /// 507: there is no space for it.
    pub(crate) fn full(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INSUFFICIENT_STORAGE, message)
    }

    /// 503: the server is busy. The client may retry after a second.
    pub(crate) fn busy(message: impl Into<String>) -> Self {
        Self {
            retry_after: Some(1),
            ..Self::unavailable(message)
        }
    }

    /// 503: temporarily unavailable.
    pub(crate) fn unavailable(message: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, message)
    }

    pub(crate) fn status(&self) -> StatusCode {
        self.status
    }

    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    /// Returns the number of seconds after which the client may retry.
    pub(crate) fn retry_after(&self) -> Option<u64> {
        self.retry_after
    }

    /// 422: the request is understood but can't be processed.
    pub(crate) fn unprocessable(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, message)
    }

    /// Returns the error for a refusal by a transaction of the database.
    fn refused(error: &rusqlite::Error) -> Self {
        match Refusal::of(error) {
            Some(refusal) => Self::new(
                match refusal {
                    Refusal::NotMember { .. } | Refusal::Missing(_) => StatusCode::NOT_FOUND,
                    Refusal::Role { .. }
                    | Refusal::NotOwn { .. }
                    | Refusal::NoAdmin
                    | Refusal::Disabled(_)
                    | Refusal::Limit(_) => StatusCode::FORBIDDEN,
                    Refusal::Conflict(_) => StatusCode::CONFLICT,
                },
                refusal.to_string(),
            ),
            None => Self::internal(error),
        }
    }

    /// 500: an error of the server. The cause goes to the log and not to the
    /// client.
    pub(crate) fn internal(cause: &dyn std::fmt::Display) -> Self {
        tracing::error!("{cause}");
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "the server failed to process the request; its log has the reason",
        )
    }

    /// Returns the error for data that could not be stored or read.
    fn stored(error: &(dyn std::error::Error + 'static)) -> Self {
        match is_full(error) {
            true => Self::no_room(error),
            false => Self::internal(error),
        }
    }

    /// 507: the disk is full.
    fn no_room(error: &dyn std::fmt::Display) -> Self {
        tracing::error!("The disk is full: {error}");
        Self::full(
            "the server's disk is full: delete data or runs, or ask the operator for more space",
        )
    }

    /// Returns the error for a run configuration or data that the engine refused.
    pub(crate) fn engine(error: &EngineError) -> Self {
        match error {
            EngineError::Config { .. } | EngineError::Model { .. } | EngineError::Data(_) => {
                Self::unprocessable(error.to_string())
            }
            other => Self::internal(other),
        }
    }

    /// Returns the message, cut to [`MAX_MESSAGE`] characters.
    pub(crate) fn shown(&self) -> Cow<'_, str> {
        match self.message.char_indices().nth(MAX_MESSAGE) {
            Some((end, _)) => format!("{}…", &self.message[..end]).into(),
            None => self.message.as_str().into(),
        }
    }

    /// Returns the status in the body of a Hubble answer. The SDK knows these
    /// values and fails on others.
    fn hubble_status(&self) -> u16 {
        if let Some(status) = self.hubble {
            return status;
        }
        match self.status {
            StatusCode::BAD_REQUEST => 40001,
            StatusCode::UNAUTHORIZED => 40103,
            StatusCode::FORBIDDEN => 40301,
            StatusCode::NOT_FOUND => 40403,
            StatusCode::CONFLICT => 40901,
            StatusCode::PAYLOAD_TOO_LARGE => 41301,
            StatusCode::METHOD_NOT_ALLOWED => 40502,
            StatusCode::UNPROCESSABLE_ENTITY => 42203,
            StatusCode::UNSUPPORTED_MEDIA_TYPE => 40001,
            StatusCode::INSUFFICIENT_STORAGE => 50701,
            _ => 50001,
        }
    }
}

/// Whether a full disk caused an error.
fn is_full(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut causes = std::iter::successors(Some(error), |error| error.source());
    causes.any(|cause| {
        let io = cause.downcast_ref::<std::io::Error>();
        // An I/O error does not report its inner error as the source.
        io.is_some_and(|io| {
            matches!(io.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
                || io.get_ref().is_some_and(|inner| is_full(inner))
        })
    })
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let message = self.shown();
        let body = json!({
            "detail": message,
            "code": self.status.as_u16(),
            "status": self.hubble_status(),
            "message": message,
            "readableMessage": message,
            "data": null,
        });
        let mut response = (self.status, Json(body)).into_response();
        if let Some(seconds) = self.retry_after {
            let seconds = header::HeaderValue::from(seconds);
            response.headers_mut().insert(header::RETRY_AFTER, seconds);
        }
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
        match error {
            rusqlite::Error::QueryReturnedNoRows => Self::not_found("it does not exist"),
            error if Refusal::of(&error).is_some() => Self::refused(&error),
            error => match error.sqlite_error_code() {
                Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
                    tracing::warn!("The database is busy: {error}");
                    Self::busy("the server's database is busy: try again")
                }
                Some(ErrorCode::OperationAborted) => {
                    Self::busy("the server is shutting down: try again")
                }
                Some(ErrorCode::DiskFull) => Self::no_room(&error),
                _ => Self::internal(&error),
            },
        }
    }
}

impl From<object_store::Error> for ApiError {
    fn from(error: object_store::Error) -> Self {
        match error {
            object_store::Error::NotFound { path, .. } => {
                tracing::warn!("There is no content {path}");
                Self::not_found("the content does not exist any more")
            }
            error => Self::stored(&error),
        }
    }
}

impl From<std::io::Error> for ApiError {
    fn from(error: std::io::Error) -> Self {
        Self::stored(&error)
    }
}

/// Reason why a server can't start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The address is in use or does not belong to this machine.
    #[error("can't listen on {address}: {source}. Choose another address with `--address`")]
    Listen {
        /// The address.
        address: String,
        /// The error of the operating system.
        source: std::io::Error,
    },
    /// A setting can't be used.
    #[error("`{setting}`: {reason}")]
    Setting {
        /// Key of the setting.
        setting: &'static str,
        /// The problem and its remedy.
        reason: String,
    },
    /// The data folder can't be used.
    #[error("the data folder {folder} can't be used: {reason}")]
    Folder {
        /// Path of the folder.
        folder: String,
        /// The problem.
        reason: String,
    },
}

impl StartError {
    /// Returns the error for an unusable setting.
    pub(crate) fn setting(setting: &'static str, reason: impl Into<String>) -> Self {
        Self::Setting {
            setting,
            reason: reason.into(),
        }
    }
}
