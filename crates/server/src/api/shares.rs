//! `/api/v1/experiments/{experiment}/runs/{run}/shares`: links by which anybody may
//! read a run's page for a while.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Path, State},
    http::{HeaderMap, StatusCode},
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    address,
    auth::{User, Writer},
    json::JsonObject,
    runs::find,
};
use crate::{
    app::App,
    database::{Identity, NewShare, RunRow, ShareRow},
    error::{ApiError, Result},
};

/// The longest that a link may be good.
pub(crate) const MAX_DAYS: u32 = 90;
/// Links to a run at a time.
const MAX_SHARES: u64 = 20;

/// Makes a link to a run. Returns it with the key of its address.
pub(crate) async fn create_share(
    app: &App,
    user: &Identity,
    run: &RunRow,
    days: u32,
    with_artifact: bool,
) -> Result<(ShareRow, String)> {
    if !(1..=MAX_DAYS).contains(&days) {
        return Err(ApiError::unprocessable(format!(
            "`days` is {days}: 1 to {MAX_DAYS} are allowed"
        )));
    }
    let new = NewShare {
        days,
        with_artifact,
    };
    let made = app
        .database
        .add_share(user.clone(), run.id, new, MAX_SHARES)
        .await?;
    made.ok_or_else(|| {
        ApiError::forbidden(format!(
            "there are {MAX_SHARES} links to this run already, the most that are allowed: revoke \
             one first"
        ))
    })
}

/// The address of a link's page. `headers` are those of the request.
pub(crate) fn share_address(app: &App, headers: &HeaderMap, key: &str) -> Result<String> {
    let base = match &app.settings.public_url {
        Some(url) => url.trim_end_matches('/').to_owned(),
        None => address(headers)?,
    };
    Ok(format!("{base}/share/{key}"))
}

#[derive(Deserialize)]
pub(crate) struct Wanted {
    days: u32,
    #[serde(default)]
    artifact: bool,
}

pub(crate) async fn create(
    State(app): State<Arc<App>>,
    Writer(user): Writer,
    Path(place): Path<(String, String)>,
    headers: HeaderMap,
    JsonObject(wanted): JsonObject<Wanted>,
) -> Result<(StatusCode, Json<Value>)> {
    let run = find(&app, user.namespace.clone(), place).await?;
    let (made, key) = create_share(&app, &user, &run, wanted.days, wanted.artifact).await?;
    let mut answer = info(&made);
    answer["url"] = share_address(&app, &headers, &key)?.into();
    Ok((StatusCode::CREATED, Json(answer)))
}

pub(crate) async fn list(
    State(app): State<Arc<App>>,
    User(user): User,
    Path(place): Path<(String, String)>,
) -> Result<Json<Value>> {
    let run = find(&app, user.namespace, place).await?;
    let rows = app.database.shares(run.id).await?;
    Ok(Json(rows.iter().map(info).collect()))
}

pub(crate) async fn delete(
    State(app): State<Arc<App>>,
    Writer(user): Writer,
    Path((experiment, name, share)): Path<(String, String, String)>,
) -> Result<Json<Value>> {
    let run = find(&app, user.namespace.clone(), (experiment, name)).await?;
    let gone = app
        .database
        .delete_share(user, run.id, share.clone())
        .await?;
    let gone =
        gone.ok_or_else(|| ApiError::not_found(format!("there is no link `{share}` to this run")))?;
    Ok(Json(info(&gone)))
}

fn info(row: &ShareRow) -> Value {
    json!({
        "id": row.id,
        "created_by": row.created_by,
        "artifact": row.with_artifact,
        "created_at": row.created_at,
        "expires_at": row.expires_at,
        "opened": row.opened,
        "opened_at": row.opened_at,
    })
}
