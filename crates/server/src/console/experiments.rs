//! The list of experiments.

use std::sync::Arc;

use axum::extract::{Query, State};
use maud::{Markup, html};
use serde::Deserialize;

use super::{
    failure::Page,
    frame::page as framed,
    session::Session,
    words::{name, path, time},
};
use crate::{app::App, database::ExperimentRow};

#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct ListQuery {
    /// `live` for the list without the rest of the page.
    part: String,
}

pub(crate) async fn page(
    State(app): State<Arc<App>>,
    session: Session,
    Query(asked): Query<ListQuery>,
) -> Page {
    let (experiments, _) = app
        .database
        .experiments(session.user.namespace.clone(), None)
        .await?;
    let list = html! { div #experiments { (table(&experiments)) } };
    if asked.part == "live" {
        return Ok(list);
    }
    let content = html! {
        div .head {
            h1 { "Experiments" }
            @if session.writes() {
                div .actions role="group" aria-label="Actions" { a .button href="/console/start" { "Start a run" } }
            }
        }
        div data-live="/console/?part=live" data-every="5" { (list) }
    };
    Ok(framed(&session, "Experiments", "Experiments", &content))
}

fn table(experiments: &[ExperimentRow]) -> Markup {
    html! {
        @if experiments.is_empty() {
            p { "There are no experiments yet. The first run that a program starts with "
                code { "fit" } ", or that is started here, creates the experiment " code { "default" } "." }
        } @else {
            div .scroll tabindex="0" role="region" aria-label="Table of experiments" { table {
                thead { tr {
                    th scope="col" { "Name" } th scope="col" .number { "Runs" }
                    th scope="col" { "Created" } th scope="col" { "Description" }
                } }
                tbody { @for experiment in experiments.iter().rev() { tr data-key=(experiment.id) {
                    th scope="row" {
                        a href=(path(&["experiments", &experiment.name])) { (name(&experiment.name)) }
                    }
                    td .number { (experiment.runs) }
                    td { (time(&experiment.created_at)) }
                    td { (name(&experiment.description)) }
                } } }
            } }
        }
    }
}
