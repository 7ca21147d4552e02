//! `/api/v1/experiments/{experiment}/runs/{run}/shares`: links with which anybody
//! can read a run's page until they expire.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Path, State},
    http::{HeaderMap, StatusCode},
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::auth::{User, Writer};
use crate::{
    app::App,
    database::ShareRow,
    error::{ApiError, Result},
    json::JsonObject,
    runs::{create_share, find_run, share_address},
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
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
    let run = find_run(&app, user.namespace.clone(), place).await?;
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
    let run = find_run(&app, user.namespace, place).await?;
    let rows = app.database.shares(run.id).await?;
    Ok(Json(rows.iter().map(info).collect()))
}

pub(crate) async fn delete(
    State(app): State<Arc<App>>,
    Writer(user): Writer,
    Path((experiment, name, share)): Path<(String, String, String)>,
) -> Result<Json<Value>> {
    let run = find_run(&app, user.namespace.clone(), (experiment, name)).await?;
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
