//! `/api/v1/experiments/{experiment}/runs`: creation, results, cancellation and
//! deletion of runs.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Path, Query, State},
    http::{HeaderMap, StatusCode, Uri},
    response::Response,
};
use finetuner_protocol::{
    CheckpointInfo, ExamplesInfo, MAX_POINTS, MetricPoint, MetricsInfo, RunTask, Status,
    StatusInfo,
    time::{self, Timestamp},
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    auth::{User, Writer},
    experiments,
    pages::PageQuery,
};
use crate::{
    app::App,
    database::{CheckpointRow, RunFilter, RunRow, StoredEvent},
    error::{ApiError, Result},
    json::JsonObject,
    redaction::shown_config,
    runs::{create_from, examples_of, find_experiment, find_run, status_of, train_data_name},
};

pub(crate) async fn create(
    State(app): State<Arc<App>>,
    Writer(user): Writer,
    Path(experiment): Path<String>,
    headers: HeaderMap,
    JsonObject(body): JsonObject<Value>,
) -> Result<(StatusCode, Json<Value>)> {
    let key = experiments::idempotency_key(&headers)?;
    let (status, run) = create_from(&app, &user, experiment, &body, key).await?;
    Ok((status, Json(info(run))))
}

pub(crate) async fn get(
    State(app): State<Arc<App>>,
    User(user): User,
    Path(path): Path<(String, String)>,
) -> Result<Json<Value>> {
    Ok(Json(info(find_run(&app, user.namespace, path).await?)))
}

pub(crate) async fn list(
    State(app): State<Arc<App>>,
    User(user): User,
    Path(experiment): Path<String>,
    Query(page): Query<PageQuery>,
) -> Result<Response> {
    let experiment = find_experiment(&app, user.namespace.clone(), experiment).await?;
    let filter = RunFilter {
        page: page.bounds(),
        ..RunFilter::default()
    };
    let (rows, total) = app.database.runs(experiment.id, filter).await?;
    Ok(page.answer(rows.into_iter().map(info).collect(), total))
}

pub(crate) async fn status(
    State(app): State<Arc<App>>,
    User(user): User,
    Path(path): Path<(String, String)>,
) -> Result<Json<StatusInfo>> {
    let run = find_run(&app, user.namespace, path).await?;
    Ok(Json(status_of(&app, &run).await?))
}

pub(crate) async fn metrics(
    State(app): State<Arc<App>>,
    User(user): User,
    Path(path): Path<(String, String)>,
) -> Result<Json<MetricsInfo>> {
    let run = find_run(&app, user.namespace, path).await?;
    let metrics = serde_json::from_str(&run.metrics).map_err(|e| ApiError::internal(&e))?;
    Ok(Json(metrics))
}

/// Returns the results of example queries.
pub(crate) async fn examples(
    State(app): State<Arc<App>>,
    User(user): User,
    Path(path): Path<(String, String)>,
) -> Result<Json<ExamplesInfo>> {
    let run = find_run(&app, user.namespace, path).await?;
    Ok(Json(examples_of(&app, run.id).await?))
}

#[derive(Deserialize)]
pub(crate) struct HistoryQuery {
    after: Option<u64>,
}

/// Returns the points of a run's curves.
pub(crate) async fn history(
    State(app): State<Arc<App>>,
    User(user): User,
    Path(path): Path<(String, String)>,
    Query(HistoryQuery { after }): Query<HistoryQuery>,
) -> Result<Json<Vec<MetricPoint>>> {
    let kinds: Option<&[&str]> = Some(&["step", "epoch", "evaluation"]);
    points(&app, user.namespace, path, kinds, after).await
}

async fn points(
    app: &App,
    project: String,
    path: (String, String),
    kinds: Option<&'static [&'static str]>,
    after: Option<u64>,
) -> Result<Json<Vec<MetricPoint>>> {
    let run = find_run(app, project, path).await?;
    let first = after.map_or(0, |number| number.saturating_add(1));
    let events = app
        .database
        .events(run.id, kinds, first, MAX_POINTS)
        .await?;
    let point = |stored: StoredEvent| {
        let at = Timestamp::from_millisecond(stored.at as i64).unwrap_or_default();
        MetricPoint::new(stored.number, at, stored.event)
    };
    Ok(Json(events.into_iter().map(point).collect()))
}

/// Returns all events of a run in order. Log, curves, metrics and examples are
/// derived from them.
pub(crate) async fn events(
    State(app): State<Arc<App>>,
    User(user): User,
    Path(path): Path<(String, String)>,
    Query(HistoryQuery { after }): Query<HistoryQuery>,
) -> Result<Json<Vec<MetricPoint>>> {
    points(&app, user.namespace, path, None, after).await
}

/// Lists the checkpoints from which a run can be continued.
pub(crate) async fn checkpoints(
    State(app): State<Arc<App>>,
    User(user): User,
    Path(path): Path<(String, String)>,
) -> Result<Json<Vec<CheckpointInfo>>> {
    let run = find_run(&app, user.namespace, path).await?;
    let checkpoints = app.database.checkpoints(run.id).await?;
    let info = |row: CheckpointRow| {
        let created_at = time::parse(&row.created_at);
        CheckpointInfo::new(
            row.number,
            (row.epoch, row.step),
            row.size,
            row.content,
            created_at,
        )
    };
    Ok(Json(checkpoints.into_iter().map(info).collect()))
}

/// Cancels a run. A run that has ended is left unchanged.
pub(crate) async fn cancel(
    State(app): State<Arc<App>>,
    Writer(user): Writer,
    Path(path): Path<(String, String)>,
) -> Result<Json<StatusInfo>> {
    let run = find_run(&app, user.namespace.clone(), path.clone()).await?;
    app.cancel(run.id, user.clone()).await?;
    let run = find_run(&app, user.namespace, path).await?;
    Ok(Json(status_of(&app, &run).await?))
}

/// Deletes a run and its model. Answers with the deleted run.
pub(crate) async fn delete(
    State(app): State<Arc<App>>,
    Writer(user): Writer,
    Path(path): Path<(String, String)>,
) -> Result<Json<Value>> {
    let run = find_run(&app, user.namespace.clone(), path).await?;
    app.delete_run(user, run.id).await?;
    Ok(Json(info(run)))
}

/// Deletes all runs of an experiment. Answers with the deleted runs. An address
/// with a slash at its end is refused: it results from deleting one run whose
/// name is empty, and no client deletes all runs with it.
pub(crate) async fn delete_all(
    State(app): State<Arc<App>>,
    Writer(user): Writer,
    Path(experiment): Path<String>,
    address: Uri,
) -> Result<Json<Vec<Value>>> {
    if address.path().ends_with('/') {
        return Err(ApiError::bad_request(
            "the run's name is empty: give it, or leave out the slash at the end to delete all \
             runs of the experiment",
        ));
    }
    let experiment = find_experiment(&app, user.namespace.clone(), experiment).await?;
    app.database
        .check_delete(user.clone(), experiment.id)
        .await?;
    let (runs, _) = app
        .database
        .runs(experiment.id, RunFilter::default())
        .await?;
    for run in &runs {
        app.delete_run(user.clone(), run.id).await?;
    }
    Ok(Json(runs.into_iter().map(info).collect()))
}

/// Returns a run with the fields of all client generations. The configuration is
/// the submitted one without the keys of trackers.
pub(super) fn info(run: RunRow) -> Value {
    let makes_data = run.task == RunTask::Generation.as_str();
    let is_made = makes_data && run.status() == Status::Finished;
    let config = shown_config(&run.config);
    json!({
        "name": run.name,
        "description": run.description,
        "tags": run.annotations.tags,
        "note": run.annotations.note,
        "config": config,
        "created_at": run.created_at,
        "started_by": run.starter,
        "task": run.task,
        "train_data": is_made.then(|| train_data_name(&run)),
        "artifact_id": run.artifact_id,
        "model_ids": json!([run.artifact_id]).to_string(),
    })
}
