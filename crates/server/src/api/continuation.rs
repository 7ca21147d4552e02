//! `/api/v1/experiments/{experiment}/runs/{run}/checkpoints`: creates runs that
//! continue from a checkpoint of another run.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Path, State},
    http::{HeaderMap, StatusCode},
};
use serde_json::Value;

use super::{auth::Writer, experiments, runs::info};
use crate::{
    app::App,
    error::Result,
    json::JsonObject,
    runs::{Continuation, continue_from, find_run},
};

pub(crate) async fn create(
    State(app): State<Arc<App>>,
    Writer(user): Writer,
    Path((experiment, run, number)): Path<(String, String, u64)>,
    headers: HeaderMap,
    JsonObject(new): JsonObject<Continuation>,
) -> Result<(StatusCode, Json<Value>)> {
    let key = experiments::idempotency_key(&headers)?;
    let run = find_run(&app, user.namespace.clone(), (experiment, run)).await?;
    let (status, run) = continue_from(&app, &user, run, number, new, key).await?;
    Ok((status, Json(info(run))))
}
