//! Lookup of a project's runs and experiments by name.

use crate::{
    app::App,
    database::{ExperimentRow, RunRow},
    error::{ApiError, Result},
};

/// Returns the project's experiment with this name.
pub(crate) async fn find_experiment(
    app: &App,
    project: String,
    name: String,
) -> Result<ExperimentRow> {
    let found = app.database.experiment(project, name.clone()).await?;
    found.ok_or_else(|| {
        ApiError::not_found(format!(
            "there is no experiment `{name}`; create it with `create_experiment`"
        ))
    })
}

/// Returns the project's run with this name in this experiment.
pub(crate) async fn find_run(
    app: &App,
    project: String,
    (experiment, name): (String, String),
) -> Result<RunRow> {
    let experiment = find_experiment(app, project, experiment).await?;
    let found = app.database.run(experiment.id, name.clone()).await?;
    found.ok_or_else(|| {
        ApiError::not_found(format!(
            "there is no run `{name}` in experiment `{}`",
            experiment.name
        ))
    })
}
