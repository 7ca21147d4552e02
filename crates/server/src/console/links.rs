//! Links to runs.

use maud::{Markup, html};

use super::words::{name, path};
use crate::database::RunRow;

/// Returns the URL of a run's page.
pub(super) fn run_path(run: &RunRow) -> String {
    path(&["experiments", &run.experiment, "runs", &run.name])
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
