//! `/api/v1/experiments/{experiment}/check`: whether a run would be accepted.
//! Clients call it before they upload the run's data.

use std::{collections::BTreeSet, sync::Arc};

use axum::{
    Json,
    extract::{Path, State},
};
use finetuner_protocol::{Config, Task, check_name};
use serde_json::{Value, json};

use super::auth::Writer;
use crate::{
    app::App,
    error::{ApiError, Result},
    json::JsonObject,
    runs::{check_quota, name_is_taken, read_submission},
    submission,
};

/// Checks a submission as far as possible without its data. Creates neither the
/// run nor its experiment; the experiment need not exist.
///
/// The body is that of the request that creates the run. Its additional member
/// `pushing` names the data sets that the client will upload first. The answer's
/// `task` is the kind of items that the model compares; it decides how the
/// columns of a CSV file are read.
pub(crate) async fn check(
    State(app): State<Arc<App>>,
    Writer(user): Writer,
    Path(experiment): Path<String>,
    JsonObject(body): JsonObject<Value>,
) -> Result<Json<Value>> {
    check_name("experiment_name", &experiment)
        .map_err(|e| ApiError::unprocessable(e.to_string()))?;
    let pushing: BTreeSet<String> = match body.get("pushing") {
        None | Some(Value::Null) => BTreeSet::new(),
        Some(names) => serde_json::from_value(names.clone())
            .map_err(|e| ApiError::unprocessable(format!("`pushing`: {e}")))?,
    };
    let new = read_submission(&body, &experiment)?;
    let found = app
        .database
        .experiment(user.namespace.clone(), experiment)
        .await?;
    if let Some(experiment) = found
        && let Some(run) = app.database.run(experiment.id, new.name.clone()).await?
    {
        return Err(name_is_taken(&run, &experiment));
    }
    check_quota(&app, &user).await?;
    let task = match &new.config {
        Config::Synthesis(config) => {
            submission::check_synthesis_without(&app, &user, config, &pushing).await?;
            Task::TextToText
        }
        config => {
            let config = config.training();
            let config = config.ok_or_else(|| ApiError::unprocessable("`config` is missing"))?;
            let kind = submission::check_without(&app, &user, config, &pushing).await?;
            kind.task()
        }
    };
    Ok(Json(json!({"accepted": true, "task": task})))
}
