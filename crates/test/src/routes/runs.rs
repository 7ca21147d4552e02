//! `/api/v1/experiments/{experiment}/runs`

use std::{collections::BTreeSet, sync::Arc};

use axum::{
    Json,
    extract::{Path, Query, State},
    http::{HeaderMap, StatusCode},
    response::Response,
};
use bytes::Bytes;
use finetuner_protocol::{
    AnnotationChange, Annotations, CheckpointInfo, Config, Event, ExamplesInfo, MAX_POINTS,
    MetricPoint, MetricsInfo, Status, StatusInfo, Task, listed_task, time::Timestamp,
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    page::PageQuery,
    request::{key, read},
};
use crate::{
    Submission,
    answer::{Refusal, Result},
    record::RunRecord,
    run::CANCELLED,
    state::{Shared, State as Backend},
};

/// Names of an experiment and a run.
type Names = Path<(String, String)>;

/// Checks whether a run would be accepted, and returns the task of its model.
/// `pushing` names data that will be pushed before the run is created.
pub(super) async fn check(
    State(shared): State<Arc<Shared>>,
    Path(experiment): Path<String>,
    body: Bytes,
) -> Result<Json<Value>> {
    let body: Value = read(&body)?;
    let pushing: BTreeSet<String> = match body.get("pushing") {
        None | Some(Value::Null) => BTreeSet::new(),
        Some(names) => serde_json::from_value(names.clone())
            .map_err(|e| Refusal::unprocessable(format!("`pushing`: {e}")))?,
    };
    let run = Submission::read(&experiment, body)?;
    shared.look(|state| -> Result<Json<Value>> {
        if state.submitted_run(&experiment, &run.name).is_ok() {
            return Err(Refusal::conflict(format!(
                "`run_name`: experiment `{experiment}` has a run `{}` already; choose another name",
                run.name
            )));
        }
        state.check_data(&run, &pushing)?;
        let task = match &run.config {
            Config::Training(config) => {
                let model = config.model.name.as_deref();
                model.and_then(|model| task_of(state, model))
            }
            _ => Some(Task::TextToText),
        };
        Ok(Json(json!({"accepted": true, "task": task})))
    })
}

fn task_of(state: &Backend, model: &str) -> Option<Task> {
    listed_task(model).or_else(|| state.models.get(model).cloned())
}

#[derive(Deserialize)]
pub(super) struct ModelName {
    name: String,
}

/// Returns the task of a model.
pub(super) async fn model(
    State(shared): State<Arc<Shared>>,
    Query(ModelName { name }): Query<ModelName>,
) -> Result<Json<Value>> {
    let task = shared.look(|state| task_of(state, &name));
    let unknown = || {
        Refusal::unprocessable(format!(
            "`name`: the test backend does not know the model `{name}`: `add_model` adds it"
        ))
    };
    let task = task.ok_or_else(unknown)?;
    Ok(Json(json!({"name": name, "task": task})))
}

fn created((run, is_new): (Value, bool)) -> (StatusCode, Json<Value>) {
    let status = match is_new {
        true => StatusCode::CREATED,
        false => StatusCode::OK,
    };
    (status, Json(run))
}

pub(super) async fn create(
    State(shared): State<Arc<Shared>>,
    Path(experiment): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<(StatusCode, Json<Value>)> {
    // Reports a missing experiment first: clients create it and try again.
    shared.look(|state| state.experiment(&experiment).map(drop))?;
    let run = Submission::read(&experiment, read(&body)?)?;
    let key = key(&headers);
    shared.change(|state| state.submit(run, key)).map(created)
}

/// Request for a run that continues from another run's checkpoint.
#[derive(Deserialize)]
struct Continuation {
    name: String,
    #[serde(default)]
    epochs: Option<u64>,
}

pub(super) async fn go_on(
    State(shared): State<Arc<Shared>>,
    Path((experiment, run, number)): Path<(String, String, u64)>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<(StatusCode, Json<Value>)> {
    let new: Continuation = read(&body)?;
    let key = key(&headers);
    shared
        .change(|state| {
            let from = state.submitted_run(&experiment, &run)?;
            if !from.checkpoints.iter().any(|c| c.number == number) {
                return Err(Refusal::not_found(format!(
                    "run `{run}` has no checkpoint {number}"
                )));
            }
            let mut body = from
                .submission
                .as_ref()
                .map_or(Value::Null, |submission| submission.body.clone());
            body["name"] = new.name.clone().into();
            body["config"]["run_name"] = new.name.into();
            if let Some(epochs) = new.epochs {
                body["config"]["hyper_parameters"]["epochs"] = epochs.into();
            }
            state.submit(Submission::read(&experiment, body)?, key)
        })
        .map(created)
}

fn with_run<T>(
    shared: &Shared,
    (experiment, run): &(String, String),
    look: impl FnOnce(&RunRecord) -> T,
) -> Result<Json<T>> {
    shared.look(|state| -> Result<Json<T>> {
        let run = state.submitted_run(experiment, run)?;
        Ok(Json(look(run)))
    })
}

pub(super) async fn get(
    State(shared): State<Arc<Shared>>,
    Path(names): Names,
) -> Result<Json<Value>> {
    with_run(&shared, &names, RunRecord::info)
}

pub(super) async fn list(
    State(shared): State<Arc<Shared>>,
    Path(experiment): Path<String>,
    Query(page): Query<PageQuery>,
) -> Result<Response> {
    let infos = shared.look(|state| -> Result<Vec<Value>> {
        state.experiment(&experiment)?;
        let runs = state.submitted_runs(&experiment);
        Ok(runs.into_iter().map(RunRecord::info).collect())
    })?;
    Ok(page.answer(infos))
}

fn status_of(run: &RunRecord) -> StatusInfo {
    StatusInfo::new(run.status.clone(), run.details.clone())
}

pub(super) async fn status(
    State(shared): State<Arc<Shared>>,
    Path(names): Names,
) -> Result<Json<StatusInfo>> {
    with_run(&shared, &names, status_of)
}

pub(super) async fn metrics(
    State(shared): State<Arc<Shared>>,
    Path(names): Names,
) -> Result<Json<MetricsInfo>> {
    with_run(&shared, &names, |run| run.metrics.clone())
}

pub(super) async fn examples(
    State(shared): State<Arc<Shared>>,
    Path(names): Names,
) -> Result<Json<ExamplesInfo>> {
    with_run(&shared, &names, |run| run.examples.clone())
}

#[derive(Deserialize)]
pub(super) struct After {
    after: Option<u64>,
}

/// Returns the metric points of a run.
pub(super) async fn history(
    State(shared): State<Arc<Shared>>,
    Path(names): Names,
    Query(After { after }): Query<After>,
) -> Result<Json<Vec<MetricPoint>>> {
    let is_point = |event: &Event| {
        matches!(
            event,
            Event::Step { .. } | Event::Epoch { .. } | Event::Evaluation { .. }
        )
    };
    with_run(&shared, &names, |run| {
        let events = (0..).zip(&run.events);
        let new = events
            .filter(|(number, event)| is_point(event) && after.is_none_or(|after| *number > after));
        let point = |(number, event): (u64, &Event)| {
            let at = Timestamp::from_second(number as i64).unwrap_or_default();
            MetricPoint::new(number, at, event.clone())
        };
        new.map(point).take(MAX_POINTS).collect()
    })
}

pub(super) async fn checkpoints(
    State(shared): State<Arc<Shared>>,
    Path(names): Names,
) -> Result<Json<Vec<CheckpointInfo>>> {
    with_run(&shared, &names, |run| run.checkpoints.clone())
}

pub(super) async fn cancel(
    State(shared): State<Arc<Shared>>,
    Path(names): Names,
) -> Result<Json<StatusInfo>> {
    shared.change(|state| -> Result<Json<StatusInfo>> {
        state.submitted_run(&names.0, &names.1)?;
        let run = state.prepared(&names.0, &names.1);
        run.set_status(Status::Failed, CANCELLED);
        Ok(Json(status_of(run)))
    })
}

pub(super) async fn annotations(
    State(shared): State<Arc<Shared>>,
    Path(names): Names,
) -> Result<Json<Annotations>> {
    with_run(&shared, &names, |run| run.annotations.clone())
}

/// Changes tags and note.
pub(super) async fn annotate(
    State(shared): State<Arc<Shared>>,
    Path(names): Names,
    body: Bytes,
) -> Result<Json<Annotations>> {
    let change: AnnotationChange = read(&body)?;
    shared.change(|state| {
        state.submitted_run(&names.0, &names.1)?;
        let run = state.prepared(&names.0, &names.1);
        let changed = change.apply(&mut run.annotations);
        changed.map_err(|e| Refusal::unprocessable(e.to_string()))?;
        Ok(Json(run.annotations.clone()))
    })
}

pub(super) async fn delete(
    State(shared): State<Arc<Shared>>,
    Path((experiment, run)): Names,
) -> Result<Json<Value>> {
    shared
        .change(|state| state.delete_run(&experiment, &run))
        .map(Json)
}

/// Deletes all runs of an experiment, and returns them.
pub(super) fn delete_all_of(state: &mut Backend, experiment: &str) -> Result<Vec<Value>> {
    let runs = state.submitted_runs(experiment);
    let names: Vec<String> = runs.iter().map(|run| run.name.clone()).collect();
    names
        .iter()
        .map(|name| state.delete_run(experiment, name))
        .collect()
}

pub(super) async fn delete_all(
    State(shared): State<Arc<Shared>>,
    Path(experiment): Path<String>,
) -> Result<Json<Vec<Value>>> {
    shared
        .change(|state| {
            state.experiment(&experiment)?;
            delete_all_of(state, &experiment)
        })
        .map(Json)
}
