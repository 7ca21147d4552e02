//! Links to runs.

use maud::{Markup, html};

use super::words::{name, path};
use crate::database::RunRow;

/// Returns the URL of a run's page.
pub(super) fn run_path(run: &RunRow) -> String {
    run_address(&run.experiment, &run.name)
}

/// Returns the URL of the page of a run with this name in this experiment.
pub(super) fn run_address(experiment: &str, name: &str) -> String {
    path(&["experiments", experiment, "runs", name])
}

/// Renders the breadcrumbs of a run's pages.
pub(super) fn crumbs(run: &RunRow) -> Markup {
    html! {
        nav .crumbs aria-label="Path" {
            a href="/console/" { "Experiments" } " / "
            a href=(path(&["experiments", &run.experiment])) { (name(&run.experiment)) }
        }
    }
}
