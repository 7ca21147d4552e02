//! `/api/v1/worker`: the calls of a run's worker. Its token identifies the run.
//! Every write checks the token again in its own transaction, so a worker that
//! was replaced writes nothing.

use std::sync::Arc;

use axum::{
    Json,
    body::Body,
    extract::{Query, State, rejection::JsonRejection},
    http::{HeaderMap, StatusCode, header},
    response::IntoResponse,
};
use finetuner_protocol::{
    Device, Event, Level, RunTask, Status,
    worker::{EventBatch, Job, LAST_CHECKPOINT, Outcome, WorkContent, WorkRules, WorkerOrders},
};
use futures_util::StreamExt;
use serde::Deserialize;
use serde_json::Value;

use super::auth::{self, WorkerRun};
use crate::{
    app::App,
    database::{CheckpointRow, End, NewArtifact, Release, RunRow},
    error::{ApiError, Result},
    runs::train_data_name,
    secret,
    store::Upload,
    tasks::to_the_end,
};

#[derive(Deserialize)]
pub(crate) struct NewToken {
    /// 64 hex digits.
    token_sha256: String,
}

/// The worker's first call: exchanges the start token for a token that the worker
/// has generated, and begins its lease.
pub(crate) async fn start(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    body: Result<Json<NewToken>, JsonRejection>,
) -> Result<StatusCode> {
    let shown = auth::token(&headers).ok_or_else(ApiError::unauthorized)?;
    let start_token = secret::hash(shown);
    // Authentication comes before the body, so that callers without a token learn
    // nothing about it.
    let is_known = app.database.is_start_token(start_token.clone()).await?;
    let Json(NewToken { token_sha256 }) = match is_known {
        true => body.map_err(|e| ApiError::unprocessable(e.body_text()))?,
        false => return Err(ApiError::unauthorized()),
    };
    let token = hex::decode(token_sha256)
        .ok()
        .filter(|hash| hash.len() == 32)
        .ok_or_else(|| {
            ApiError::unprocessable("`token_sha256` must be the 64 hex digits of a SHA-256")
        })?;
    let held = app.database.exchange(start_token, token).await?;
    app.leases
        .grant(held.ok_or_else(ApiError::unauthorized)?, false);
    Ok(StatusCode::NO_CONTENT)
}

/// Returns the job. The run counts as started from now on.
pub(crate) async fn job(State(app): State<Arc<App>>, worker: WorkerRun) -> Result<Json<Job>> {
    let WorkerRun { run, token } = worker;
    let mut config: Value = match serde_json::from_str(&run.config) {
        Ok(config) => config,
        Err(error) => {
            // Another worker would fail in the same way.
            let reason = format!("the run's configuration can't be read: {error}");
            app.fail(run.id, Some(token), reason.clone()).await?;
            return Err(ApiError::conflict(reason));
        }
    };
    config["run_name"] = run.name.into();
    config["experiment_name"] = run.experiment.into();
    if !app.database.begin(run.id, token).await? {
        return Err(ApiError::unauthorized());
    }
    app.leases.begin((run.id, run.launches));
    app.changes.notify(run.id);
    app.outgoing.notify_one();
    let settings = &app.settings;
    Ok(Json(Job {
        config,
        run: run.artifact_id,
        device: Device::from(run.device),
        attempt: run.attempts,
        has_checkpoint: app.database.last_checkpoint(run.id).await?.is_some(),
        rules: WorkRules {
            local_models: settings.local_models.clone(),
            max_hub_download: settings.max_hub_download,
            private_addresses: settings.private_addresses,
            checkpoint_seconds: settings.checkpoint_every.as_secs_f64(),
            // A worker counts as lost only after several missed heartbeats.
            heartbeat_seconds: (settings.lease.as_secs_f64() / 10.0).min(2.0),
            max_memory: settings.max_run_memory,
            max_disk: settings.max_run_disk,
        },
    }))
}

#[derive(Deserialize)]
pub(crate) struct DataQuery {
    name: String,
}

/// Streams the bytes of one of the run's contents.
pub(crate) async fn data(
    State(app): State<Arc<App>>,
    WorkerRun { run, .. }: WorkerRun,
    Query(DataQuery { name }): Query<DataQuery>,
) -> Result<impl IntoResponse> {
    let content = content_named(&app, &run, &name).await?;
    let (size, body) = app.store.body(&content).await?;
    Ok(([(header::CONTENT_LENGTH, size.to_string())], body))
}

/// Describes a content, so that the worker can take it from its own cache or
/// directly from the store.
pub(crate) async fn content(
    State(app): State<Arc<App>>,
    WorkerRun { run, .. }: WorkerRun,
    Query(DataQuery { name }): Query<DataQuery>,
) -> Result<Json<WorkContent>> {
    let sha256 = content_named(&app, &run, &name).await?;
    let size = app.store.size(&sha256).await?;
    let url = match app.settings.presigned {
        false => None,
        true => app.store.presigned(&sha256).await.unwrap_or_else(|error| {
            tracing::warn!(
                "The store can't sign addresses. Workers fetch through the server: {error}"
            );
            None
        }),
    };
    Ok(Json(WorkContent { sha256, size, url }))
}

/// Returns the run's content with this name: its data as of the submission, or
/// the checkpoint that it continues from.
async fn content_named(app: &App, run: &RunRow, name: &str) -> Result<String> {
    if name == LAST_CHECKPOINT {
        let content = app.database.last_checkpoint(run.id).await?;
        return content.ok_or_else(|| ApiError::not_found("the run has no checkpoint"));
    }
    let data: Value = serde_json::from_str(&run.data).map_err(|e| ApiError::internal(&e))?;
    let content = data[name].as_str().map(str::to_owned);
    content.ok_or_else(|| ApiError::not_found(format!("the run has no data `{name}`")))
}

#[derive(Deserialize)]
pub(crate) struct Position {
    epoch: u64,
    step: u64,
}

/// Receives a new checkpoint.
pub(crate) async fn checkpoint(
    State(app): State<Arc<App>>,
    WorkerRun { run, token }: WorkerRun,
    Query(Position { epoch, step }): Query<Position>,
    body: Body,
) -> Result<()> {
    let upload = receive(&app, body).await?;
    let run_id = run.id;
    let kept = Arc::clone(&app);
    to_the_end(async move {
        kept.keep(upload, async |stored| {
            let row = CheckpointRow {
                epoch,
                step,
                content: stored.content.clone(),
                size: stored.size,
                ..CheckpointRow::default()
            };
            let orphans = kept.database.add_checkpoint(run_id, token, row).await?;
            Ok(((), orphans.ok_or_else(ApiError::unauthorized)?))
        })
        .await
    })
    .await?;
    app.changes.notify(run_id);
    Ok(())
}

async fn receive(app: &App, body: Body) -> Result<Upload> {
    let mut upload = app.store.upload();
    let mut bytes = body.into_data_stream();
    while let Some(bytes) = bytes.next().await {
        let bytes = bytes.map_err(|e| ApiError::bad_request(e.to_string()))?;
        upload.write(bytes).await?;
    }
    Ok(upload)
}

pub(crate) async fn events(
    State(app): State<Arc<App>>,
    WorkerRun { run, token }: WorkerRun,
    Json(batch): Json<EventBatch>,
) -> Result<Json<WorkerOrders>> {
    // The sender is alive, whatever happens to its events.
    let held = (run.id, run.launches);
    app.leases.renew(held);
    // A heartbeat without events needs no write. The extractor has just checked
    // its token.
    let is_current = if batch.events.is_empty() {
        true
    } else {
        app.counters.events(batch.events.len() as u64);
        let EventBatch { first, events } = batch;
        let has_lines = events
            .iter()
            .any(|event| matches!(event, Event::Log { .. }));
        let added = app.database.add_worker_events(
            run.id,
            token,
            app.leases.take_worked(held),
            first,
            events,
        );
        let added = added.await?;
        // The write may have taken long.
        app.leases.renew(held);
        // Followers wait for log lines, which are much rarer than events.
        if has_lines {
            app.changes.notify(run.id);
        }
        added
    };
    if !is_current {
        return Err(ApiError::unauthorized());
    }
    Ok(Json(match app.is_stopping() {
        true => WorkerOrders::Pause,
        false => WorkerOrders::GoOn,
    }))
}

/// Receives the finished model, or the data that a synthesis run has created.
pub(crate) async fn artifact(
    State(app): State<Arc<App>>,
    WorkerRun { run, token }: WorkerRun,
    body: Body,
) -> Result<()> {
    let upload = receive(&app, body).await?;
    to_the_end(async move {
        app.keep(upload, async |stored| {
            let (name, kind) = match run.task == RunTask::Generation.as_str() {
                true => (Some(train_data_name(&run)), "documentArray"),
                false => (None, "model"),
            };
            let model = NewArtifact {
                id: run.artifact_id,
                project_id: run.project_id,
                created_by: run.created_by,
                name,
                kind: kind.to_owned(),
                public: is_public(&run.config),
                meta_data: "{}".to_owned(),
                content: stored.content.clone(),
                size: stored.size,
            };
            let put = app.database.put_model(run.id, token, model).await?;
            let orphan = put.ok_or_else(ApiError::unauthorized)?;
            Ok(((), orphan.into_iter().collect()))
        })
        .await
    })
    .await
}

/// Whether the run's configuration makes its artifact public.
fn is_public(config: &str) -> bool {
    let config: Value = serde_json::from_str(config).unwrap_or_default();
    config["public"] == true
}

pub(crate) async fn outcome(
    State(app): State<Arc<App>>,
    WorkerRun { run, token }: WorkerRun,
    Json(outcome): Json<Outcome>,
) -> Result<()> {
    match outcome {
        Outcome::Finished => {
            let made = app
                .database
                .artifact(run.project_id, run.artifact_id.clone());
            let Some(artifact) = made.await? else {
                return Err(ApiError::conflict("the run has no artifact yet"));
            };
            let size = artifact.size as f64 / f64::from(1 << 20);
            let mut lines = vec![
                format!("Artifact pushed under ID '{}'", run.artifact_id),
                format!("Artifact size is {size:.3} MB"),
            ];
            if let Some(name) = &artifact.name {
                lines.push(format!("Training data pushed as '{name}'"));
            }
            if artifact.public {
                let line = "The artifact is public: every user of this server who knows its ID can \
                            download it and go on from it";
                lines.push(line.to_owned());
            }
            lines.push("Finished 🚀".to_owned());
            let end = End {
                status: Status::Finished,
                details: "Run finished".to_owned(),
                lines: lines.into_iter().map(|line| (Level::Info, line)).collect(),
            };
            app.end(run.id, Some(token), end).await.map(drop)
        }
        Outcome::Failed { reason } => app.fail(run.id, Some(token), reason).await.map(drop),
        Outcome::Paused => {
            let held = (run.id, run.launches);
            let message = match app.is_stopping() {
                true => "The run has paused. It continues when the server starts again",
                // Stopped by somebody else, for example by an engine that needs
                // the machine.
                false => {
                    "The run has paused because its worker was told to stop. It continues in \
                          another one"
                }
            };
            let release = Release {
                counts: false,
                worked: app.leases.take_worked(held),
                line: Some((Level::Info, message.to_owned())),
            };
            app.database.release(held, release, || true).await?;
            app.changes.notify(run.id);
            app.submitted.notify_one();
            Ok(())
        }
    }
}
