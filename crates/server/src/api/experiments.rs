//! `/api/v1/experiments`: creation, lists and deletion of experiments.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Path, Query, State},
    http::{HeaderMap, StatusCode},
    response::Response,
};
use finetuner_protocol::{ExperimentInfo, check_name};
use serde::Deserialize;

use super::{
    auth::{User, Writer},
    pages::PageQuery,
};
use crate::{
    app::App,
    checks::{MAX_DESCRIPTION, check_length},
    database::{ExperimentRow, Identity, RunFilter, is_duplicate},
    error::{ApiError, Result},
    json::JsonObject,
    runs::find_experiment,
};

#[derive(Deserialize)]
pub(crate) struct NewExperiment {
    name: String,
    #[serde(default)]
    description: Option<String>,
}

pub(crate) async fn create(
    State(app): State<Arc<App>>,
    Writer(user): Writer,
    headers: HeaderMap,
    JsonObject(new): JsonObject<NewExperiment>,
) -> Result<(StatusCode, Json<ExperimentInfo>)> {
    check_name("name", &new.name).map_err(|e| ApiError::unprocessable(e.to_string()))?;
    check_length("description", new.description.as_deref(), MAX_DESCRIPTION)?;
    let (name, description) = (new.name.clone(), new.description.unwrap_or_default());
    let key = idempotency_key(&headers)?;
    let created = app
        .database
        .create_experiment(user.clone(), name, description, key.clone())
        .await;
    match created {
        Ok(created) => Ok((StatusCode::CREATED, Json(info(created)))),
        Err(error) if is_duplicate(&error) => {
            // A repeated request gets the experiment that the first one created.
            let existing = find_experiment(&app, user.namespace, new.name.clone()).await?;
            if key.is_some() && existing.idempotency_key == key {
                return Ok((StatusCode::OK, Json(info(existing))));
            }
            let reason = format!("there is an experiment `{}` already", new.name);
            Err(ApiError::conflict(reason))
        }
        Err(error) => Err(error.into()),
    }
}

/// Maximum length of an idempotency key, in bytes.
const MAX_KEY: usize = 255;

/// Returns the idempotency key of a creating request, if it has one.
pub(super) fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>> {
    let Some(key) = headers.get("idempotency-key") else {
        return Ok(None);
    };
    let plain = key
        .to_str()
        .ok()
        .filter(|key| (1..=MAX_KEY).contains(&key.len()));
    let key = plain.ok_or_else(|| {
        ApiError::bad_request(format!(
            "the header `Idempotency-Key` must have 1 to {MAX_KEY} ASCII characters"
        ))
    })?;
    Ok(Some(key.to_owned()))
}

/// Deletes an experiment with its runs. Answers with the deleted experiment.
pub(crate) async fn delete(
    State(app): State<Arc<App>>,
    Writer(user): Writer,
    Path(name): Path<String>,
) -> Result<Json<ExperimentInfo>> {
    let experiment = find_experiment(&app, user.namespace.clone(), name).await?;
    app.database
        .check_delete(user.clone(), experiment.id)
        .await?;
    delete_one(&app, &user, &experiment).await?;
    Ok(Json(info(experiment)))
}

/// Deletes all experiments with their runs. Answers with the deleted experiments.
/// The Python clients send this request with (0.8.1) and without (0.2.2) a slash
/// at the end of the address, so the server can't distinguish it from the
/// deletion of an experiment with an empty name. The Rust client refuses an empty
/// name before it sends anything.
pub(crate) async fn delete_all(
    State(app): State<Arc<App>>,
    Writer(user): Writer,
) -> Result<Json<Vec<ExperimentInfo>>> {
    let project = user.namespace.clone();
    let (experiments, _) = app.database.experiments(project, None).await?;
    for experiment in &experiments {
        app.database
            .check_delete(user.clone(), experiment.id)
            .await?;
    }
    for experiment in &experiments {
        delete_one(&app, &user, experiment).await?;
    }
    Ok(Json(experiments.into_iter().map(info).collect()))
}

/// Deletes an experiment run by run. Repeats for runs that are submitted in the
/// meantime.
async fn delete_one(app: &Arc<App>, user: &Identity, experiment: &ExperimentRow) -> Result<()> {
    loop {
        let runs = app
            .database
            .runs(experiment.id, RunFilter::default())
            .await?;
        for run in runs.0 {
            app.delete_run(user.clone(), run.id).await?;
        }
        let gone = app.database.delete_experiment(user.clone(), experiment.id);
        if gone.await? {
            return Ok(());
        }
    }
}

pub(crate) async fn get(
    State(app): State<Arc<App>>,
    User(user): User,
    Path(name): Path<String>,
) -> Result<Json<ExperimentInfo>> {
    Ok(Json(info(
        find_experiment(&app, user.namespace, name).await?,
    )))
}

pub(crate) async fn list(
    State(app): State<Arc<App>>,
    User(user): User,
    Query(page): Query<PageQuery>,
) -> Result<Response> {
    let (rows, total) = app
        .database
        .experiments(user.namespace, page.bounds())
        .await?;
    Ok(page.answer(rows.into_iter().map(info).collect(), total))
}

fn info(row: ExperimentRow) -> ExperimentInfo {
    let mut info = ExperimentInfo::new(row.name);
    info.description = row.description;
    info.created_at = row.created_at;
    info
}
