//! Authentication of a request and its project: `Authorization: token <TOKEN>`
//! and `x-finetuner-project: <NAME>`. Each extractor states the access that a
//! handler requires.

use std::sync::Arc;

use axum::{
    extract::FromRequestParts,
    http::{HeaderMap, HeaderValue, header, request::Parts},
};

use crate::{
    accounts::by_token,
    app::App,
    database::{Identity, Role, RunRow, Scope, Wanted},
    error::ApiError,
    peer::Peer,
    secret,
};

/// Header that names the project. Without it, the user's personal project is
/// used.
const PROJECT: &str = "x-finetuner-project";

/// A user with read access to the project.
pub(crate) struct User(pub(crate) Identity);

/// A user with write access to the project and a token of scope `all`.
pub(crate) struct Writer(pub(crate) Identity);

/// A user in the personal project, whatever the header says. For the user's own
/// resources and for the management of projects.
pub(crate) struct Person(pub(crate) Identity);

/// Like [`Person`], with a token of scope `all`.
pub(crate) struct PersonWriter(pub(crate) Identity);

/// An admin of the server.
pub(crate) struct Admin(pub(crate) Identity);

impl FromRequestParts<Arc<App>> for User {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, ApiError> {
        let wanted = match parts.headers.get(PROJECT) {
            None => Wanted::Personal,
            Some(name) => Wanted::Named(project_name(name)?),
        };
        identify(parts, app, wanted).await.map(Self)
    }
}

async fn identify(parts: &Parts, app: &App, wanted: Wanted) -> Result<Identity, ApiError> {
    let token = token(&parts.headers).ok_or_else(ApiError::unauthorized)?;
    let peer = parts.extensions.get::<Peer>().and_then(|peer| peer.0);
    by_token(app, token, wanted, peer).await
}

impl FromRequestParts<Arc<App>> for Person {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, ApiError> {
        identify(parts, app, Wanted::Personal).await.map(Self)
    }
}

/// Refuses a token of scope `read`.
fn check_scope(user: Identity) -> Result<Identity, ApiError> {
    match user.scope {
        Scope::All => Ok(user),
        Scope::Read => Err(ApiError::forbidden(
            "this token has scope `read`, which permits reading only: use one of scope `all`",
        )),
    }
}

/// Reads the name of a project from a header.
fn project_name(value: &HeaderValue) -> Result<String, ApiError> {
    let name = std::str::from_utf8(value.as_bytes()).map_err(|_| {
        ApiError::bad_request(format!(
            "the header `{PROJECT}` is not valid UTF-8: give the name of a project"
        ))
    })?;
    Ok(name.trim().to_owned())
}

impl FromRequestParts<Arc<App>> for PersonWriter {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, ApiError> {
        let Person(user) = Person::from_request_parts(parts, app).await?;
        check_scope(user).map(Self)
    }
}

impl FromRequestParts<Arc<App>> for Writer {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, ApiError> {
        let User(user) = User::from_request_parts(parts, app).await?;
        let user = check_scope(user)?;
        user.may(Role::Member)?;
        Ok(Self(user))
    }
}

impl FromRequestParts<Arc<App>> for Admin {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, ApiError> {
        let PersonWriter(user) = PersonWriter::from_request_parts(parts, app).await?;
        match user.is_admin {
            true => Ok(Self(user)),
            false => Err(ApiError::forbidden(
                "only admins of the server may do this: ask one of them",
            )),
        }
    }
}

/// A worker's run, and the hash of the worker's token.
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
            true => Err(ApiError::gone("the run has ended")),
            false => Ok(Self { run, token }),
        }
    }
}

/// Returns the token of a request's `Authorization` header.
pub(super) fn token(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    let known = scheme.eq_ignore_ascii_case("token") || scheme.eq_ignore_ascii_case("bearer");
    known.then(|| token.trim())
}
