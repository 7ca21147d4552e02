//! `/api/v1/experiments/{experiment}/runs`

use std::sync::Arc;

use axum::{
    Json,
    extract::{Path, Query, State},
    http::{HeaderMap, StatusCode, Uri},
    response::Response,
};
use finetuner_protocol::{
    Callback, CheckpointInfo, Config, Data, Event, ExamplesInfo, HyperParameters, MAX_POINTS,
    MetricPoint, MetricsInfo, Model, NewRun, RunConfig, RunTask, Stage, Status, StatusInfo,
    SynthesisConfig, check_name,
    text::cut,
    time::{self, Timestamp},
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    annotations::invalid,
    auth::{User, Writer},
    experiments::{self, MAX_DESCRIPTION, check_length},
    json::{self, JsonObject},
    pages::PageQuery,
};
use crate::{
    app::{App, over_quota},
    database::{
        CheckpointRow, Created, ExperimentRow, Identity, NewRunRow, RunFilter, RunRow, StoredEvent,
        is_duplicate,
    },
    error::{ApiError, Result},
    redaction::shown_config,
    secret,
    store::Hold,
    submission,
};

/// Details of a new run's status.
pub(super) const WAITS: &str = "Run submitted and awaits execution";

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

/// Checks a submission and makes a run of it, or finds the one that an earlier
/// attempt with this key has made.
pub(crate) async fn create_from(
    app: &App,
    user: &Identity,
    experiment: String,
    body: &Value,
    idempotency_key: Option<String>,
) -> Result<(StatusCode, RunRow)> {
    let experiment = experiments::find(app, user.namespace.clone(), experiment).await?;
    let sent_config = body.get("config").map(ToString::to_string);
    let new = read(body, &experiment.name)?;

    let existing = app.database.run(experiment.id, new.name.clone()).await?;
    if let Some(run) = existing {
        return same_request(run, &experiment, idempotency_key.as_deref());
    }
    check_quota(app, user).await?;
    let (checked, task) = match &new.config {
        Config::Synthesis(config) => {
            let checked = submission::check_synthesis(app, user, config).await?;
            (checked, RunTask::Generation)
        }
        config => {
            let config = config
                .training()
                .ok_or_else(|| not_a_training(&body["config"]))?;
            let checked = submission::check(app, user, config).await?;
            (checked, RunTask::Training)
        }
    };

    let row = NewRunRow {
        experiment_id: experiment.id,
        annotations: new.annotations().map_err(|e| invalid(&e))?,
        name: new.name.clone(),
        description: new.description.unwrap_or_default(),
        config: sent_config.unwrap_or_default(),
        device: new.device.to_string(),
        cpus: new.cpus.map(number),
        gpus: new.gpus.map(number),
        task: task.to_string(),
        details: WAITS.to_owned(),
        artifact_id: secret::new_id(),
        idempotency_key,
        keep_checkpoints: checked.keep_checkpoints,
        first_checkpoint: None,
        data: json!(checked.contents).to_string(),
    };
    submit(app, user, &experiment, row, checked.holds).await
}

/// A number of cores or graphics processors. No machine has more than fit.
fn number(asked: u64) -> u32 {
    u32::try_from(asked).unwrap_or(u32::MAX)
}

/// Reads a submission for an experiment: a training or a synthesis run.
pub(super) fn read(body: &Value, experiment: &str) -> Result<NewRun> {
    let sent_config = body.get("config").map(ToString::to_string);
    check_length("config", sent_config.as_deref(), MAX_CONFIG)?;
    let mut new: NewRun = json::from_value(body, "")?;
    check_name("run_name", &new.name).map_err(|e| ApiError::unprocessable(e.to_string()))?;
    check_length("description", new.description.as_deref(), MAX_DESCRIPTION)?;
    new.annotations().map_err(|e| invalid(&e))?;
    let makes_data = new.task == Some(RunTask::Generation);
    // The address and the name beside the configuration decide.
    match &mut new.config {
        Config::Training(config) if !makes_data => {
            refuse(&config.unknown_members())?;
            config.run_name.clone_from(&new.name);
            experiment.clone_into(&mut config.experiment_name);
        }
        Config::Synthesis(config) if new.task != Some(RunTask::Training) => {
            refuse(&config.unknown_members())?;
            config.run_name.clone_from(&new.name);
            experiment.clone_into(&mut config.experiment_name);
        }
        _ if makes_data => return Err(not_a_synthesis(&body["config"])),
        _ => return Err(not_a_training(&body["config"])),
    }
    Ok(new)
}

/// Refuses members of a configuration that mean nothing here.
fn refuse(unknown: &[String]) -> Result<()> {
    if unknown.is_empty() {
        return Ok(());
    }
    let names: Vec<String> = unknown
        .iter()
        .map(|name| format!("`config.{name}`"))
        .collect();
    Err(ApiError::unprocessable(format!(
        "{}: this backend knows no such member; check its name and its place",
        names.join(", ")
    )))
}

/// Returns the error for a configuration that is not one of a synthesis run.
fn not_a_synthesis(config: &Value) -> ApiError {
    let needed = "`config` is not that of a synthesis run, which `task` announces: it needs `data`, \
                  `relation_mining` and `cross_encoder`";
    if config.get("relation_mining").is_none() {
        return ApiError::unprocessable(needed);
    }
    let read = json::from_value::<SynthesisConfig>(config, "config");
    read.err()
        .unwrap_or_else(|| ApiError::unprocessable(needed))
}

/// Returns the name of the data that a synthesis run makes. It ends with the id of
/// the run's artifact, so that no two runs make data of one name.
pub(super) fn train_data_name(run: &RunRow) -> String {
    let (experiment, name) = (cut(&run.experiment, MAX_NAME), cut(&run.name, MAX_NAME));
    format!(
        "finetuner-synthesis-{experiment}-{name}-{}",
        run.artifact_id
    )
}

/// The most bytes of the experiment's and of the run's name in the name of data.
const MAX_NAME: usize = 80;

/// The most bytes of a run's configuration.
const MAX_CONFIG: usize = 256 << 10;

/// Returns the error of a configuration that is not one of a training run.
fn not_a_training(config: &Value) -> ApiError {
    let needed = "`config` is not that of a training run: it needs a `model` and `data`";
    if config.get("model").is_none() || config.get("data").is_none() {
        return ApiError::unprocessable(needed);
    }
    let check = || {
        json::from_value::<Model>(&config["model"], "config.model")?;
        json::from_value::<Data>(&config["data"], "config.data")?;
        if let Some(parameters) = config.get("hyper_parameters") {
            json::from_value::<HyperParameters>(parameters, "config.hyper_parameters")?;
        }
        if let Some(callbacks) = config.get("callbacks") {
            let callbacks = json::from_value::<Vec<Value>>(callbacks, "config.callbacks")?;
            for (i, callback) in callbacks.into_iter().enumerate() {
                Callback::from_json(callback).map_err(|e| {
                    ApiError::unprocessable(format!("`config.callbacks[{i}]`: {e}"))
                })?;
            }
        }
        json::from_value::<RunConfig>(config, "config").map(drop)
    };
    match check() {
        Err(error) => error,
        Ok(()) => ApiError::unprocessable(needed),
    }
}

/// Stores a run and tells the queue; a name that is taken is answered for as
/// [`same_request`] does.
pub(super) async fn submit(
    app: &App,
    user: &Identity,
    experiment: &ExperimentRow,
    row: NewRunRow,
    // Its contents stay at least until the row names them.
    _holds: Vec<Hold>,
) -> Result<(StatusCode, RunRow)> {
    let (name, key) = (row.name.clone(), row.idempotency_key.clone());
    let most = app.settings.max_open_runs;
    let is_new = match app.database.create_run(user.clone(), row, most).await {
        Ok(Created::TooManyOpen(open, most)) => return Err(too_many_open(open, most)),
        Ok(_) => true,
        Err(error) if is_duplicate(&error) => false,
        Err(error) => return Err(error.into()),
    };
    let run = app.database.run(experiment.id, name).await?;
    let run = run.ok_or_else(|| ApiError::internal(&"a new run is not there"))?;
    if !is_new {
        return same_request(run, experiment, key.as_deref());
    }
    app.submitted.notify_one();
    Ok((StatusCode::CREATED, run))
}

/// Refuses a run of a user who has too many already, before its data is checked.
pub(super) async fn check_quota(app: &App, user: &Identity) -> Result<()> {
    app.space.check("run", 0)?;
    let used = app.usage(user).await?;
    let (runs, bytes) = (used.max_open_runs, used.max_stored);
    if let Some(most) = runs.filter(|&most| used.open_runs >= most) {
        return Err(too_many_open(used.open_runs, most));
    }
    match bytes.filter(|&most| used.stored > most) {
        Some(most) => Err(over_quota(used.stored, most)),
        None => Ok(()),
    }
}

fn too_many_open(open: u64, most: u64) -> ApiError {
    ApiError::forbidden(format!(
        "open runs: you have {open} that wait or train, and the limit is {most}: wait for one \
         to end, cancel or delete one, or ask the operator for a higher `--max-open-runs`"
    ))
}

/// Answers for a name that is taken: a repeated request gets its run, any
/// other is refused.
pub(super) fn same_request(
    run: RunRow,
    experiment: &ExperimentRow,
    key: Option<&str>,
) -> Result<(StatusCode, RunRow)> {
    if key.is_some() && run.idempotency_key.as_deref() == key {
        return Ok((StatusCode::OK, run));
    }
    Err(name_is_taken(&run, experiment))
}

pub(super) fn name_is_taken(run: &RunRow, experiment: &ExperimentRow) -> ApiError {
    ApiError::conflict(format!(
        "`run_name`: experiment `{}` has a run `{}` already; choose another name",
        experiment.name, run.name
    ))
}

pub(crate) async fn get(
    State(app): State<Arc<App>>,
    User(user): User,
    Path(path): Path<(String, String)>,
) -> Result<Json<Value>> {
    Ok(Json(info(find(&app, user.namespace, path).await?)))
}

pub(crate) async fn list(
    State(app): State<Arc<App>>,
    User(user): User,
    Path(experiment): Path<String>,
    Query(page): Query<PageQuery>,
) -> Result<Response> {
    let experiment = experiments::find(&app, user.namespace.clone(), experiment).await?;
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
    let run = find(&app, user.namespace, path).await?;
    Ok(Json(status_of(&app, &run).await?))
}

/// Returns the status of a run with its details.
pub(crate) async fn status_of(app: &App, run: &RunRow) -> Result<StatusInfo> {
    let status = run.status();
    let ahead = match status {
        Status::Created if !run.has_job => app.database.ahead(run.id).await?,
        _ => 0,
    };
    let waits = app.waits.of(run.id);
    let details = run.details(ahead, waits.as_deref());
    Ok(StatusInfo::new(status, details))
}

pub(crate) async fn metrics(
    State(app): State<Arc<App>>,
    User(user): User,
    Path(path): Path<(String, String)>,
) -> Result<Json<MetricsInfo>> {
    let run = find(&app, user.namespace, path).await?;
    let metrics = serde_json::from_str(&run.metrics).map_err(|e| ApiError::internal(&e))?;
    Ok(Json(metrics))
}

/// Returns the results of example queries.
pub(crate) async fn examples(
    State(app): State<Arc<App>>,
    User(user): User,
    Path(path): Path<(String, String)>,
) -> Result<Json<ExamplesInfo>> {
    let run = find(&app, user.namespace, path).await?;
    Ok(Json(examples_of(&app, run.id).await?))
}

/// Returns the results of a run's example queries.
pub(crate) async fn examples_of(app: &App, run_id: i64) -> Result<ExamplesInfo> {
    let mut all = ExamplesInfo::default();
    let kinds: Option<&[&str]> = Some(&["examples"]);
    for stored in app.database.events(run_id, kinds, 0, usize::MAX).await? {
        if let Event::Examples {
            stage, examples, ..
        } = stored.event
        {
            match stage {
                Stage::Before => all.before.extend(examples),
                Stage::After => all.after.extend(examples),
            }
        }
    }
    Ok(all)
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
    let run = find(app, project, path).await?;
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

/// Everything that happened in a run, in order: what the log, the curves, the
/// metrics and the examples are made of.
pub(crate) async fn events(
    State(app): State<Arc<App>>,
    User(user): User,
    Path(path): Path<(String, String)>,
    Query(HistoryQuery { after }): Query<HistoryQuery>,
) -> Result<Json<Vec<MetricPoint>>> {
    points(&app, user.namespace, path, None, after).await
}

/// The states that a run can be gone on from.
pub(crate) async fn checkpoints(
    State(app): State<Arc<App>>,
    User(user): User,
    Path(path): Path<(String, String)>,
) -> Result<Json<Vec<CheckpointInfo>>> {
    let run = find(&app, user.namespace, path).await?;
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

/// Ends a run. One that has ended stays as it is.
pub(crate) async fn cancel(
    State(app): State<Arc<App>>,
    Writer(user): Writer,
    Path(path): Path<(String, String)>,
) -> Result<Json<StatusInfo>> {
    let run = find(&app, user.namespace.clone(), path.clone()).await?;
    app.cancel(run.id, user.clone()).await?;
    let run = find(&app, user.namespace, path).await?;
    Ok(Json(status_of(&app, &run).await?))
}

/// Deletes a run and its model, and answers what it was.
pub(crate) async fn delete(
    State(app): State<Arc<App>>,
    Writer(user): Writer,
    Path(path): Path<(String, String)>,
) -> Result<Json<Value>> {
    let run = find(&app, user.namespace.clone(), path).await?;
    app.delete_run(user, run.clone()).await?;
    Ok(Json(info(run)))
}

/// Deletes all runs of an experiment, and answers what they were. An address
/// with a slash at its end comes of the deletion of one run whose name is
/// missing: no client deletes all runs in this way.
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
    let experiment = experiments::find(&app, user.namespace.clone(), experiment).await?;
    app.database
        .check_delete(user.clone(), experiment.id)
        .await?;
    let (runs, _) = app
        .database
        .runs(experiment.id, RunFilter::default())
        .await?;
    for run in &runs {
        app.delete_run(user.clone(), run.clone()).await?;
    }
    Ok(Json(runs.into_iter().map(info).collect()))
}

/// The project's run of that experiment and name.
pub(crate) async fn find(
    app: &App,
    project: String,
    (experiment, name): (String, String),
) -> Result<RunRow> {
    let experiment = experiments::find(app, project, experiment).await?;
    let found = app.database.run(experiment.id, name.clone()).await?;
    found.ok_or_else(|| {
        ApiError::not_found(format!(
            "there is no run `{name}` in experiment `{}`",
            experiment.name
        ))
    })
}

/// Returns a run with the fields that any generation of the client reads. The
/// configuration is the one that was sent, without the keys of trackers.
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
