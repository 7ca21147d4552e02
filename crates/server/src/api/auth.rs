//! Who is asking: `Authorization: token <TOKEN>`.

use std::sync::Arc;

use axum::{
    extract::FromRequestParts,
    http::{HeaderMap, header, request::Parts},
};

use crate::{
    app::App,
    database::{RunRow, Scope, UserRow},
    error::ApiError,
    secret,
};

/// A user whose token is good for looking at things.
pub(crate) struct User(pub(crate) UserRow);

/// A user whose token is good for changing things.
pub(crate) struct Writer(pub(crate) UserRow);

impl FromRequestParts<Arc<App>> for User {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, ApiError> {
        let token = token(&parts.headers).ok_or_else(ApiError::unauthorized)?;
        by_token(app, token).await.map(Self)
    }
}

impl FromRequestParts<Arc<App>> for Writer {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, ApiError> {
        let User(user) = User::from_request_parts(parts, app).await?;
        match user.scope {
            Scope::All => Ok(Self(user)),
            Scope::Read => Err(ApiError::forbidden(
                "this token is good for reading alone: use one of scope `all`",
            )),
        }
    }
}

/// Whose token this is.
pub(crate) async fn by_token(app: &App, token: &str) -> Result<UserRow, ApiError> {
    let hash = secret::hash(token);
    let user = app.database.user_of_token(hash.clone()).await?;
    let user = user.ok_or_else(ApiError::unauthorized)?;
    app.note_use(hash);
    Ok(user)
}

/// The run that a worker's token is good for, and the token's hash.
pub(crate) struct WorkerRun {
    pub(crate) run: RunRow,
    pub(crate) token: Vec<u8>,
}

impl FromRequestParts<Arc<App>> for WorkerRun {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, ApiError> {
        let token = secret::hash(token(&parts.headers).ok_or_else(ApiError::unauthorized)?);
        let run = app.database.run_of_worker(token.clone()).await?;
        let run = run.ok_or_else(ApiError::unauthorized)?;
        match run.status().is_final() {
            true => Err(ApiError::gone("the run is over")),
            false => Ok(Self { run, token }),
        }
    }
}

/// The token that a request shows.
pub(super) fn token(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    let known = scheme.eq_ignore_ascii_case("token") || scheme.eq_ignore_ascii_case("bearer");
    known.then(|| token.trim())
}
