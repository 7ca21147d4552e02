//! Who is asking: `Authorization: token <TOKEN>`.

use std::sync::Arc;

use axum::{
    extract::FromRequestParts,
    http::{header, request::Parts},
};

use crate::{
    app::App,
    database::{RunRow, UserRow},
    error::ApiError,
    secret,
};

/// A user whose token is good.
pub(crate) struct User(pub(crate) UserRow);

impl FromRequestParts<Arc<App>> for User {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, ApiError> {
        let token = token(parts).ok_or_else(ApiError::unauthorized)?;
        let user = app.database.user_of_token(token).await?;
        user.map(Self).ok_or_else(ApiError::unauthorized)
    }
}

/// The run that a worker's token is good for.
pub(crate) struct WorkerRun(pub(crate) RunRow);

impl FromRequestParts<Arc<App>> for WorkerRun {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, ApiError> {
        let token = token(parts).ok_or_else(ApiError::unauthorized)?;
        let run = app.database.run_of_worker(secret::hash(token)).await?;
        // Ended runs are over for their workers too.
        run.filter(|run| !run.status().is_final())
            .map(Self)
            .ok_or_else(ApiError::unauthorized)
    }
}

fn token(parts: &Parts) -> Option<&str> {
    let value = parts.headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    let known = scheme.eq_ignore_ascii_case("token") || scheme.eq_ignore_ascii_case("bearer");
    known.then(|| token.trim())
}
