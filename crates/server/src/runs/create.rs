//! Creation of runs.

use axum::http::StatusCode;
use finetuner_protocol::{Config, RunTask};
use serde_json::{Value, json};

use super::{
    annotations::invalid_annotation,
    find::find_experiment,
    read::{not_a_training, read_submission},
    submit::{WAITS, check_quota, same_request, submit},
};
use crate::{
    app::App,
    database::{Identity, NewRunRow, RunRow},
    error::Result,
    secret, submission,
};

/// Checks a submission and creates its run. A repeated request with the same
/// idempotency key returns the run that the first one created.
pub(crate) async fn create_from(
    app: &App,
    user: &Identity,
    experiment: String,
    body: &Value,
    idempotency_key: Option<String>,
) -> Result<(StatusCode, RunRow)> {
    let experiment = find_experiment(app, user.namespace.clone(), experiment).await?;
    let sent_config = body.get("config").map(ToString::to_string);
    let new = read_submission(body, &experiment.name)?;

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
        annotations: new.annotations().map_err(|e| invalid_annotation(&e))?,
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

/// Converts a requested number of cores or GPUs. A number that does not fit
/// exceeds every machine, so the largest value stands for it.
fn number(asked: u64) -> u32 {
    u32::try_from(asked).unwrap_or(u32::MAX)
}
