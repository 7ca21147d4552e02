//! `/api/v1/worker`: what the worker of a run asks for and reports. Its token
//! says which run it is.

use std::sync::Arc;

use axum::{
    Json,
    body::Body,
    extract::{Query, State},
    response::IntoResponse,
};
use finetuner_protocol::{Device, EventBatch, Job, Level, Outcome, Status, WorkerOrders};
use futures_util::StreamExt;
use serde::Deserialize;

use super::auth::WorkerRun;
use crate::{
    app::App,
    error::{ApiError, Result},
};

/// The first call: the run starts.
pub(crate) async fn job(
    State(app): State<Arc<App>>,
    WorkerRun(run): WorkerRun,
) -> Result<Json<Job>> {
    let mut config: finetuner_protocol::RunConfig =
        serde_json::from_str(&run.config).map_err(|e| ApiError::internal(&e))?;
    config.run_name = run.name;
    config.experiment_name = run.experiment;
    app.database
        .set_status(run.id, Status::Started, "Run is being executed".to_owned())
        .await?;
    app.changes.notify(run.id);
    Ok(Json(Job {
        config,
        device: Device::from(run.device),
    }))
}

#[derive(Deserialize)]
pub(crate) struct DataQuery {
    name: String,
}

/// Data of the run's owner.
pub(crate) async fn data(
    State(app): State<Arc<App>>,
    WorkerRun(run): WorkerRun,
    Query(DataQuery { name }): Query<DataQuery>,
) -> Result<impl IntoResponse> {
    let artifact = app
        .database
        .artifact_by_name(run.user_id, name.clone())
        .await?;
    let artifact =
        artifact.ok_or_else(|| ApiError::not_found(format!("there is no data named `{name}`")))?;
    app.store.body(&artifact.content).await
}

pub(crate) async fn events(
    State(app): State<Arc<App>>,
    WorkerRun(run): WorkerRun,
    Json(batch): Json<EventBatch>,
) -> Result<Json<WorkerOrders>> {
    if !batch.events.is_empty() {
        app.add_events(run.id, Some(batch.first), batch.events)
            .await?;
    }
    Ok(Json(WorkerOrders::default()))
}

/// The bytes of the finished model.
pub(crate) async fn artifact(
    State(app): State<Arc<App>>,
    WorkerRun(run): WorkerRun,
    body: Body,
) -> Result<()> {
    let mut upload = app.store.upload();
    let mut bytes = body.into_data_stream();
    while let Some(bytes) = bytes.next().await {
        let bytes = bytes.map_err(|e| ApiError::bad_request(e.to_string()))?;
        upload.write(bytes).await?;
    }
    app.put_model(&run, upload.finish().await?).await
}

pub(crate) async fn outcome(
    State(app): State<Arc<App>>,
    WorkerRun(run): WorkerRun,
    Json(outcome): Json<Outcome>,
) -> Result<()> {
    match outcome {
        Outcome::Finished => {
            let made = app.database.artifact(run.user_id, run.artifact_id.clone());
            let Some(artifact) = made.await? else {
                return Err(ApiError::conflict("the run has no artifact yet"));
            };
            let size = artifact.size as f64 / f64::from(1 << 20);
            for message in [
                format!("Artifact pushed under ID '{}'", run.artifact_id),
                format!("Artifact size is {size:.3} MB"),
                "Finished 🚀".to_owned(),
            ] {
                app.log(run.id, Level::Info, message).await?;
            }
            app.database
                .set_status(run.id, Status::Finished, "Run finished".to_owned())
                .await?;
            app.changes.notify(run.id);
            Ok(())
        }
        Outcome::Failed { reason } => app.fail(run.id, reason).await,
    }
}
