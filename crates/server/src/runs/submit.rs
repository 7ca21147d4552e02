//! Insertion of a checked run, which then waits in the queue.

use axum::http::StatusCode;

use crate::{
    app::{App, over_quota},
    database::{Created, ExperimentRow, Identity, NewRunRow, RunRow, is_duplicate},
    error::{ApiError, Result},
    store::Hold,
};

/// Status details of a new run.
pub(super) const WAITS: &str = "Run submitted and awaits execution";

/// Inserts a run and wakes the queue. If the experiment has a run with this name,
/// answers as [`same_request`] does.
pub(super) async fn submit(
    app: &App,
    user: &Identity,
    experiment: &ExperimentRow,
    row: NewRunRow,
    // Protect the contents from removal until the run's row refers to them.
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

/// Refuses a run if its user or project has reached a limit, before the data is
/// checked.
pub(crate) async fn check_quota(app: &App, user: &Identity) -> Result<()> {
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

/// Answers for a name in use: with the existing run if the request repeats its
/// idempotency key, and with an error otherwise.
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

pub(crate) fn name_is_taken(run: &RunRow, experiment: &ExperimentRow) -> ApiError {
    ApiError::conflict(format!(
        "`run_name`: experiment `{}` has a run `{}` already; choose another name",
        experiment.name, run.name
    ))
}
