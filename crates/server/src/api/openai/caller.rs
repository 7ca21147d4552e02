//! Authentication of a request of OpenAI's API.

use std::sync::Arc;

use axum::{extract::FromRequestParts, http::request::Parts};

use super::error::{OpenAiError, Result};
use crate::{api::auth::User, app::App, database::Identity};

/// User of a request: `Authorization: Bearer <TOKEN>`, with a token of any scope.
pub(crate) struct Caller(pub(super) Identity);

impl FromRequestParts<Arc<App>> for Caller {
    type Rejection = OpenAiError;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self> {
        let User(user) = User::from_request_parts(parts, app).await?;
        Ok(Self(user))
    }
}
