//! `/api/v1/experiments/{experiment}/runs`

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    Json,
    extract::{Path, Query, State},
    http::{HeaderMap, StatusCode},
    response::Response,
};
use finetuner_engine::plan::Plan;
use finetuner_protocol::{
    Config, Event, ExamplesInfo, MAX_POINTS, MetricPoint, MetricsInfo, NewRun, RunTask, Stage,
    StatusInfo, check_name,
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{auth::User, experiments, pages::PageQuery};
use crate::{
    app::App,
    database::{ExperimentRow, NewRunRow, RunRow, StoredEvent, is_duplicate},
    error::{ApiError, Result},
    secret, submission,
};

/// What a new run's status says.
const WAITS: &str = "Run submitted and awaits execution";

pub(crate) async fn create(
    State(app): State<Arc<App>>,
    User(user): User,
    Path(experiment): Path<String>,
    headers: HeaderMap,
    Json(body): Json<Value>,
) -> Result<(StatusCode, Json<Value>)> {
    let experiment = experiments::find(&app, user.id.clone(), experiment).await?;
    let sent_config = body.get("config").map(ToString::to_string);
    if body["task"] == RunTask::Generation.as_str() {
        return Err(ApiError::unprocessable(
            "`task`: making training data is not possible on this server; `training` is",
        ));
    }
    let mut new: NewRun =
        serde_json::from_value(body).map_err(|e| ApiError::unprocessable(e.to_string()))?;
    check_name("run_name", &new.name).map_err(|e| ApiError::unprocessable(e.to_string()))?;
    let Config::Training(config) = &mut new.config else {
        return Err(ApiError::unprocessable(
            "`config` is not that of a training run: it needs a `model` and `data`",
        ));
    };
    // The address and the name beside the configuration decide.
    config.run_name.clone_from(&new.name);
    config.experiment_name.clone_from(&experiment.name);
    let config = config.clone();

    let idempotency_key = experiments::idempotency_key(&headers);
    let existing = app.database.run(experiment.id, new.name.clone()).await?;
    if let Some(run) = existing {
        return same_request(run, &experiment, idempotency_key.as_deref());
    }
    let plan = Plan::new(&config, app.local_models).map_err(|e| ApiError::engine(&e))?;
    submission::check_data(&app, &user.id, plan, &config).await?;

    let row = NewRunRow {
        experiment_id: experiment.id,
        name: new.name.clone(),
        description: new.description.unwrap_or_default(),
        config: sent_config.unwrap_or_default(),
        device: new.device.to_string(),
        task: RunTask::Training.to_string(),
        details: WAITS.to_owned(),
        artifact_id: secret::new_id(),
        idempotency_key: idempotency_key.clone(),
    };
    let created = app.database.create_run(row).await;
    let run = app.database.run(experiment.id, new.name.clone()).await?;
    let run = run.ok_or_else(|| ApiError::internal(&"a new run is not there"))?;
    match created {
        Ok(()) => {
            app.submitted.notify_one();
            Ok((StatusCode::CREATED, Json(info(run))))
        }
        Err(error) if is_duplicate(&error) => {
            same_request(run, &experiment, idempotency_key.as_deref())
        }
        Err(error) => Err(error.into()),
    }
}

/// Answers for a name that is taken: a repeated request gets its run, any
/// other is refused.
fn same_request(
    run: RunRow,
    experiment: &ExperimentRow,
    key: Option<&str>,
) -> Result<(StatusCode, Json<Value>)> {
    if key.is_some() && run.idempotency_key.as_deref() == key {
        return Ok((StatusCode::OK, Json(info(run))));
    }
    Err(ApiError::conflict(format!(
        "`run_name`: experiment `{}` has a run `{}` already; choose another name",
        experiment.name, run.name
    )))
}

pub(crate) async fn get(
    State(app): State<Arc<App>>,
    User(user): User,
    Path(path): Path<(String, String)>,
) -> Result<Json<Value>> {
    Ok(Json(info(find(&app, user.id, path).await?)))
}

pub(crate) async fn list(
    State(app): State<Arc<App>>,
    User(user): User,
    Path(experiment): Path<String>,
    Query(page): Query<PageQuery>,
) -> Result<Response> {
    let experiment = experiments::find(&app, user.id, experiment).await?;
    let (rows, total) = app.database.runs(experiment.id, page.bounds()).await?;
    Ok(page.answer(rows.into_iter().map(info).collect(), total))
}

pub(crate) async fn status(
    State(app): State<Arc<App>>,
    User(user): User,
    Path(path): Path<(String, String)>,
) -> Result<Json<StatusInfo>> {
    let run = find(&app, user.id, path).await?;
    Ok(Json(StatusInfo {
        status: run.status(),
        details: run.details,
    }))
}

pub(crate) async fn metrics(
    State(app): State<Arc<App>>,
    User(user): User,
    Path(path): Path<(String, String)>,
) -> Result<Json<MetricsInfo>> {
    let run = find(&app, user.id, path).await?;
    let mut metrics = MetricsInfo::default();
    let merge = |into: &mut BTreeMap<String, f64>, from| into.extend::<BTreeMap<_, _>>(from);
    for stored in app.database.events(run.id, 0, u64::MAX >> 1).await? {
        if let Event::Evaluation {
            stage,
            metrics: values,
        } = stored.event
        {
            match stage {
                Stage::Before => merge(&mut metrics.before, values),
                Stage::After => merge(&mut metrics.after, values),
            }
        }
    }
    Ok(Json(metrics))
}

/// What example queries found.
pub(crate) async fn examples(
    State(app): State<Arc<App>>,
    User(user): User,
    Path(path): Path<(String, String)>,
) -> Result<Json<ExamplesInfo>> {
    let run = find(&app, user.id, path).await?;
    let mut all = ExamplesInfo::default();
    for stored in app.database.events(run.id, 0, u64::MAX >> 1).await? {
        if let Event::Examples { stage, examples } = stored.event {
            match stage {
                Stage::Before => all.before.extend(examples),
                Stage::After => all.after.extend(examples),
            }
        }
    }
    Ok(Json(all))
}

#[derive(Deserialize)]
pub(crate) struct HistoryQuery {
    after: Option<u64>,
}

/// The points of a run's curves.
pub(crate) async fn history(
    State(app): State<Arc<App>>,
    User(user): User,
    Path(path): Path<(String, String)>,
    Query(HistoryQuery { after }): Query<HistoryQuery>,
) -> Result<Json<Vec<MetricPoint>>> {
    let run = find(&app, user.id, path).await?;
    let points = app.database.points(run.id, after, MAX_POINTS).await?;
    let point = |stored: StoredEvent| MetricPoint {
        number: stored.number,
        at: stored.at,
        event: stored.event,
    };
    Ok(Json(points.into_iter().map(point).collect()))
}

/// Ends a run. One that has ended stays as it is.
pub(crate) async fn cancel(
    State(app): State<Arc<App>>,
    User(user): User,
    Path(path): Path<(String, String)>,
) -> Result<Json<StatusInfo>> {
    let run = find(&app, user.id.clone(), path.clone()).await?;
    let reason = format!("Run cancelled by {}", user.name);
    app.fail(run.id, reason).await?;
    let run = find(&app, user.id, path).await?;
    Ok(Json(StatusInfo {
        status: run.status(),
        details: run.details,
    }))
}

/// Deletes a run and its model, and answers what it was.
pub(crate) async fn delete(
    State(app): State<Arc<App>>,
    User(user): User,
    Path(path): Path<(String, String)>,
) -> Result<Json<Value>> {
    let run = find(&app, user.id, path).await?;
    app.delete_run(run.clone()).await?;
    Ok(Json(info(run)))
}

/// Deletes all runs of an experiment, and answers what they were.
pub(crate) async fn delete_all(
    State(app): State<Arc<App>>,
    User(user): User,
    Path(experiment): Path<String>,
) -> Result<Json<Vec<Value>>> {
    let experiment = experiments::find(&app, user.id, experiment).await?;
    let (runs, _) = app.database.runs(experiment.id, None).await?;
    for run in &runs {
        app.delete_run(run.clone()).await?;
    }
    Ok(Json(runs.into_iter().map(info).collect()))
}

/// The user's run of that experiment and name.
pub(super) async fn find(
    app: &App,
    user_id: String,
    (experiment, name): (String, String),
) -> Result<RunRow> {
    let experiment = experiments::find(app, user_id, experiment).await?;
    let found = app.database.run(experiment.id, name.clone()).await?;
    found.ok_or_else(|| {
        ApiError::not_found(format!(
            "there is no run `{name}` in experiment `{}`",
            experiment.name
        ))
    })
}

/// A run with all that any generation of the client reads. The configuration
/// goes back as it came.
fn info(run: RunRow) -> Value {
    let config: Value = serde_json::from_str(&run.config).unwrap_or_default();
    json!({
        "name": run.name,
        "description": run.description,
        "config": config,
        "created_at": run.created_at,
        "task": run.task,
        "train_data": null,
        "artifact_id": run.artifact_id,
        "model_ids": json!([run.artifact_id]).to_string(),
    })
}
