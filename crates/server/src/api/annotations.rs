//! `/api/v1/experiments/{experiment}/runs/{run}/annotations`: tags and note of a
//! run. `artifact.update` changes those of an artifact.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Path, State},
};
use finetuner_protocol::{AnnotationChange, Annotations};

use super::auth::{User, Writer};
use crate::{
    app::App,
    error::Result,
    json::JsonObject,
    runs::{annotate, find_run},
};

pub(crate) async fn get(
    State(app): State<Arc<App>>,
    User(user): User,
    Path(path): Path<(String, String)>,
) -> Result<Json<Annotations>> {
    let run = find_run(&app, user.namespace, path).await?;
    Ok(Json(run.annotations))
}

/// Changes the fields that the body contains. Answers with all of them.
pub(crate) async fn put(
    State(app): State<Arc<App>>,
    Writer(user): Writer,
    Path(path): Path<(String, String)>,
    JsonObject(change): JsonObject<AnnotationChange>,
) -> Result<Json<Annotations>> {
    let run = find_run(&app, user.namespace.clone(), path).await?;
    let changed = annotate(&app, user, vec![run.id], change).await?;
    Ok(Json(changed.into_iter().next().unwrap_or_default()))
}
