//! Runs that continue from a checkpoint of another run.

use axum::http::StatusCode;
use finetuner_protocol::{Annotations, RunConfig, check_name};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    find::find_experiment,
    submit::{WAITS, check_quota, same_request, submit},
};
use crate::{
    app::App,
    checks::{MAX_DESCRIPTION, check_length},
    database::{Identity, NewRunRow, RunRow},
    error::{ApiError, Result},
    json,
    redaction::has_secrets,
    secret, submission,
};

/// Settings of a run that continues from a checkpoint.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Continuation {
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) description: Option<String>,
    /// Number of epochs in total, including the finished ones; by default
    /// unchanged.
    #[serde(default)]
    pub(crate) epochs: Option<u32>,
}

/// Refuses a run whose settings contain a tracker key of another user, because
/// the new run would use that key.
pub(crate) fn check_keys(user: &Identity, run: &RunRow) -> Result<()> {
    if run.created_by.as_deref() == Some(&user.person) || !has_secrets(&run.config) {
        return Ok(());
    }
    Err(ApiError::forbidden(format!(
        "the settings of run `{}` contain a tracker key of the user who started it: start a new \
         run with your own key",
        run.name
    )))
}

/// Creates a run that continues from a checkpoint. It has the settings of the
/// checkpoint's run, except for the name and the number of epochs.
pub(crate) async fn continue_from(
    app: &App,
    user: &Identity,
    run: RunRow,
    number: u64,
    new: Continuation,
    idempotency_key: Option<String>,
) -> Result<(StatusCode, RunRow)> {
    check_name("name", &new.name).map_err(|e| ApiError::unprocessable(e.to_string()))?;
    check_length("description", new.description.as_deref(), MAX_DESCRIPTION)?;
    check_keys(user, &run)?;
    let experiment = find_experiment(app, user.namespace.clone(), run.experiment.clone()).await?;
    let find = || app.database.checkpoint(run.id, number);
    // The next checkpoint of the run may replace this one.
    let checkpoint = app.held(find, |row| &row.content).await?;
    let (checkpoint, hold) = checkpoint.ok_or_else(|| {
        ApiError::not_found(format!("run `{}` has no checkpoint {number}", run.name))
    })?;
    let existing = app.database.run(experiment.id, new.name.clone()).await?;
    if let Some(run) = existing {
        return same_request(run, &experiment, idempotency_key.as_deref());
    }
    let mut sent: Value = serde_json::from_str(&run.config).map_err(|e| ApiError::internal(&e))?;
    sent["run_name"] = new.name.clone().into();
    if let Some(epochs) = new.epochs {
        sent["hyper_parameters"]["epochs"] = epochs.into();
    }
    let config: RunConfig = json::from_value(&sent, "config")?;
    check_quota(app, user).await?;
    let mut checked = submission::check(app, user, &config).await?;
    checked.holds.push(hold);
    let row = NewRunRow {
        experiment_id: experiment.id,
        name: new.name,
        description: new.description.unwrap_or_default(),
        config: sent.to_string(),
        device: run.device,
        cpus: run.cpus,
        gpus: run.gpus,
        task: run.task,
        details: WAITS.to_owned(),
        artifact_id: secret::new_id(),
        idempotency_key,
        keep_checkpoints: checked.keep_checkpoints,
        first_checkpoint: Some(checkpoint.content),
        annotations: Annotations::default(),
        data: json!(checked.contents).to_string(),
    };
    submit(app, user, &experiment, row, checked.holds).await
}
