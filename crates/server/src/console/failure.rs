//! The error type of pages.

use axum::{
    http::{HeaderValue, header},
    response::{IntoResponse, Response},
};
use maud::Markup;

use crate::error::ApiError;

/// The error of a page. It answers plain text, which `frame::refusal` turns into
/// a page.
pub(crate) struct Failure(ApiError);

impl<E: Into<ApiError>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

impl Failure {
    pub(super) fn error(&self) -> &ApiError {
        &self.0
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let mut answer = (self.0.status(), self.0.message().to_owned()).into_response();
        if let Some(seconds) = self.0.retry_after() {
            let seconds = HeaderValue::from(seconds);
            answer.headers_mut().insert(header::RETRY_AFTER, seconds);
        }
        answer
    }
}

pub(crate) type Page<T = Markup> = Result<T, Failure>;
