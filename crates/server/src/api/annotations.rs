//! `/api/v1/experiments/{experiment}/runs/{run}/annotations`: tags and note of a
//! run. Those of an artifact are changed by `artifact.update`.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Path, State},
};
use finetuner_protocol::{AnnotationChange, Annotations, InvalidField};

use super::{
    auth::{User, Writer},
    json::JsonObject,
    runs,
};
use crate::{
    app::App,
    database::{Annotated, Identity, RunRow},
    error::{ApiError, Result},
};

pub(crate) async fn get(
    State(app): State<Arc<App>>,
    User(user): User,
    Path(path): Path<(String, String)>,
) -> Result<Json<Annotations>> {
    let run = runs::find(&app, user.namespace, path).await?;
    Ok(Json(run.annotations))
}

/// Changes what the body names, and answers with what is there now.
pub(crate) async fn put(
    State(app): State<Arc<App>>,
    Writer(user): Writer,
    Path(path): Path<(String, String)>,
    JsonObject(change): JsonObject<AnnotationChange>,
) -> Result<Json<Annotations>> {
    let run = runs::find(&app, user.namespace.clone(), path).await?;
    let changed = annotate(&app, user, &[run], change).await?;
    Ok(Json(changed.into_iter().next().unwrap_or_default()))
}

/// Changes tags and note of runs of a project: of all of them or of none.
pub(crate) async fn annotate(
    app: &App,
    by: Identity,
    runs: &[RunRow],
    change: AnnotationChange,
) -> Result<Vec<Annotations>> {
    let ids = runs.iter().map(|run| run.id).collect();
    match app.database.annotate_runs(by, ids, change).await? {
        Annotated::Done(changed) => Ok(changed),
        Annotated::Missing => Err(ApiError::not_found("one of the runs was deleted meanwhile")),
        Annotated::Invalid(error) => Err(invalid(&error)),
    }
}

/// Refuses tags or a note that are not allowed.
pub(crate) fn invalid(error: &InvalidField) -> ApiError {
    ApiError::unprocessable(error.to_string())
}
