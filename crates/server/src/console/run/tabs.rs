//! The tabs of a run's page: log, configuration, checkpoints and files. Each tab
//! has a URL, so that tabs work without JavaScript.

use maud::{Markup, html};

use super::shown::{Shown, Tab};
use crate::{
    app::App,
    console::{
        config::{config_of, makes_data},
        failure::Page,
        links::run_path,
        words::{bytes, name, path, pretty, time},
    },
    error::ApiError,
    runs::log_text,
};

/// Renders the tab bar and the selected tab.
pub(super) async fn section(app: &App, shown: &Shown) -> Page {
    let here = |tab| format!("{}#details", shown.address(tab, &[]));
    let content = match shown.tab {
        Tab::Log => log(app, shown).await?,
        Tab::Configuration => html! {
            p .hint { "The submitted configuration, without keys." }
            pre tabindex="0" { (pretty(&config_of(&shown.run))) }
        },
        Tab::Checkpoints => checkpoints(shown),
        Tab::Files => files(shown),
    };
    Ok(html! {
        section #details aria-labelledby="tab" {
            h2 .hidden #tab { (shown.tab.label()) }
            nav .tabs aria-label="Details" { @for tab in Tab::ALL {
                a href=(here(tab)) data-tab aria-current=[(tab == shown.tab).then_some("page")] {
                    (tab.label())
                }
            } }
            (content)
        }
    })
}

async fn log(app: &App, shown: &Shown) -> Result<Markup, ApiError> {
    let log = log_text(app, shown.run.id).await?;
    let is_open = !shown.run.status().is_final();
    let follow = is_open.then(|| format!("{}/live", run_path(&shown.run)));
    Ok(html! {
        pre .log #lines tabindex="0" role="log" aria-label="Log" aria-live="off" data-keep
            data-follow=[follow] data-lines=(log.lines().count()) { (log) }
    })
}

fn checkpoints(shown: &Shown) -> Markup {
    if shown.checkpoints.is_empty() {
        return html! { p { "There are no checkpoints. A run in progress keeps its last one. With the callback "
        code { "TrainingCheckpoint" } ", those of the last epochs are kept." } };
    }
    html! {
        div .scroll tabindex="0" role="region" aria-label="Table of checkpoints" { table {
            thead { tr {
                th scope="col" .number { "Number" } th scope="col" .number { "Epochs" }
                th scope="col" .number { "Steps" } th scope="col" .number { "Size" }
                th scope="col" { "Created" }
            } }
            tbody { @for checkpoint in &shown.checkpoints { tr {
                th scope="row" .number { (checkpoint.number) }
                td .number { (checkpoint.epoch) } td .number { (checkpoint.step) }
                td .number { (bytes(checkpoint.size)) }
                td { (time(&checkpoint.created_at)) }
            } } }
        } }
    }
}

fn files(shown: &Shown) -> Markup {
    let Some(artifact) = &shown.artifact else {
        return html! { p { "There is nothing to download. A finished run has its "
        @if makes_data(&shown.run) { "training data" } @else { "model" } " here." } };
    };
    html! {
        dl .facts {
            dt { @if makes_data(&shown.run) { "Training data" } @else { "Model" } }
            dd { a href=(path(&["data", &artifact.id])) {
                (name(artifact.name.as_deref().unwrap_or(&shown.run.name)))
            } }
            dt { "Artifact ID" } dd { code .long { (artifact.id) } }
            dt { "Size" } dd { (bytes(artifact.size)) }
            dt { "SHA-256" } dd { code .long #sha256 { (artifact.content) } }
        }
        p { a .button href=(path(&["data", &artifact.id, "download"])) download { "Download" } }
    }
}
