//! Status and results of a run.

use finetuner_protocol::{Event, ExamplesInfo, Stage, Status, StatusInfo, text::cut};

use crate::{app::App, database::RunRow, error::Result};

/// Returns the status of a run with its details.
pub(crate) async fn status_of(app: &App, run: &RunRow) -> Result<StatusInfo> {
    let status = run.status();
    let ahead = match status {
        Status::Created if !run.has_job => app.database.ahead(run.id).await?,
        _ => 0,
    };
    let waits = app.waits.of(run.id);
    let details = run.details(ahead, waits.as_deref());
    Ok(StatusInfo::new(status, details))
}

/// Returns the results of a run's example queries.
pub(crate) async fn examples_of(app: &App, run_id: i64) -> Result<ExamplesInfo> {
    let mut all = ExamplesInfo::default();
    let kinds: Option<&[&str]> = Some(&["examples"]);
    for stored in app.database.events(run_id, kinds, 0, usize::MAX).await? {
        if let Event::Examples {
            stage, examples, ..
        } = stored.event
        {
            match stage {
                Stage::Before => all.before.extend(examples),
                Stage::After => all.after.extend(examples),
            }
        }
    }
    Ok(all)
}

/// Returns the name of the data set that a synthesis run creates. It ends with
/// the id of the run's artifact, so it is unique.
pub(crate) fn train_data_name(run: &RunRow) -> String {
    let (experiment, name) = (cut(&run.experiment, MAX_NAME), cut(&run.name, MAX_NAME));
    format!(
        "finetuner-synthesis-{experiment}-{name}-{}",
        run.artifact_id
    )
}

/// Maximum length of the experiment's and of the run's part of that name, in
/// bytes.
const MAX_NAME: usize = 80;
