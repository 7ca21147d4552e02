//! Runs and experiments of a project, by their names.

use crate::{
    app::App,
    database::{ExperimentRow, RunRow},
    error::{ApiError, Result},
};

/// The project's experiment of that name.
pub(crate) async fn find_experiment(
    app: &App,
    project: String,
    name: String,
) -> Result<ExperimentRow> {
    let found = app.database.experiment(project, name.clone()).await?;
    found.ok_or_else(|| {
        ApiError::not_found(format!(
            "there is no experiment `{name}`; `create_experiment` makes it"
        ))
    })
}

/// The project's run of that experiment and name.
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
