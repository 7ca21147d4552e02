//! Fields of a Hubble call. Depending on its version, the SDK sends the same call
//! as JSON or as a form, and omits the body of a call without fields.

use axum::{
    Form,
    extract::{FromRequest, Request, rejection::FormRejection},
    http::header,
    response::{IntoResponse, Response},
};
use serde::de::DeserializeOwned;

use crate::{error::ApiError, json::JsonObject};

/// The fields of a call, read from JSON, a form or an empty body.
pub(crate) struct Fields<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Fields<T> {
    type Rejection = Response;

    async fn from_request(request: Request, state: &S) -> Result<Self, Response> {
        let kind = request.headers().get(header::CONTENT_TYPE);
        let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        let is_empty = request
            .headers()
            .get(header::CONTENT_LENGTH)
            .is_none_or(|l| l == "0");
        if kind.starts_with("application/x-www-form-urlencoded") || kind.is_empty() && is_empty {
            let (mut parts, body) = request.into_parts();
            let form = header::HeaderValue::from_static("application/x-www-form-urlencoded");
            parts.headers.insert(header::CONTENT_TYPE, form);
            let form = Form::from_request(Request::from_parts(parts, body), state).await;
            let Form(fields) = form.map_err(FormRejection::into_response)?;
            return Ok(Self(fields));
        }
        let json = JsonObject::from_request(request, state).await;
        let JsonObject(fields) = json.map_err(ApiError::into_response)?;
        Ok(Self(fields))
    }
}
