//! The top of a run's page: name, actions, result, warnings and settings.

use finetuner_protocol::{Event, Status};
use maud::{Markup, html};

use super::{facts, shown::Shown};
use crate::{
    app::App,
    console::{
        annotations,
        config::makes_data,
        failure::Page,
        links::{crumbs, run_path},
        metrics::{self, Change},
        session::Session,
        state::{State, badge, progress},
        words::{count, name, number, path, visible},
    },
    database::RunRow,
    documents,
    error::ApiError,
    runs::status_of,
};

/// Maximum number of warnings shown.
const MAX_WARNINGS: u64 = 20;
/// Start of the engine's warnings about a harmful training.
const HARM_WARNINGS: [&str; 2] = ["THE EMBEDDINGS COLLAPSED", "THE SEARCH GOT WORSE"];

/// Renders the top of the page, which is refreshed during the run.
pub(super) async fn markup(app: &App, session: &Session, shown: &Shown) -> Page {
    let run = &shown.run;
    let details = status_of(app, run).await?.details;
    let warnings = app.database.warnings(run.id, MAX_WARNINGS).await?;
    let (harm, other): (Vec<&String>, Vec<&String>) = warnings
        .iter()
        .partition(|line| HARM_WARNINGS.iter().any(|start| line.starts_with(start)));
    let metrics = metrics::of(run);
    Ok(html! {
        (crumbs(run))
        div .head {
            h1 { (name(&run.name)) }
            (badge(run))
            (actions(session, shown))
        }
        @if !run.description.is_empty() { p { (name(&run.description)) } }
        (annotations::shown("/console/runs", &run.annotations))
        @match State::of(run) {
            State::Failed => { p .problem role="alert" { (visible(&details)) } }
            State::Cancelled => { p .hint { (visible(&details)) } }
            State::Waiting | State::Running => { p { (visible(&details)) } (progress(run)) }
            State::Finished | State::Worse => {}
        }
        @for line in &harm { p .warning { (sentence(line)) } }
        @if !other.is_empty() {
            details .warnings {
                summary { (count(other.len() as u64, "warning")) " in the log" }
                ul { @for line in &other { li { (visible(line)) } } }
            }
        }
        (result(app, session, shown, &metrics).await?)
        div .columns {
            section aria-labelledby="settings" {
                h2 #settings { "Settings" }
                (facts::list(app, session, run).await?)
            }
            @if !metrics.before.is_empty() || !metrics.after.is_empty() {
                section aria-labelledby="metrics" {
                    h2 #metrics { "Metrics" }
                    (metrics::table(&metrics))
                }
            }
        }
    })
}

/// Renders a warning of the log in sentence case. The log uses capitals for
/// emphasis.
fn sentence(line: &str) -> Markup {
    let found = HARM_WARNINGS
        .iter()
        .find_map(|start| Some((start, line.strip_prefix(start)?)));
    match found {
        Some((start, rest)) => {
            let mut words = start.to_lowercase();
            words.replace_range(..1, &start[..1]);
            html! { b { (words) } (visible(rest)) }
        }
        None => html! { (visible(line)) },
    }
}

/// Renders the actions for a run. Irreversible ones lead to a confirmation page.
fn actions(session: &Session, shown: &Shown) -> Markup {
    let run = &shown.run;
    let here = run_path(run);
    let is_open = !run.status().is_final();
    html! {
        div .actions role="group" aria-label="Actions" {
            @if let Some(artifact) = &shown.artifact {
                a .button href=(path(&["data", &artifact.id, "download"])) download {
                    "Download" span .hidden { @if makes_data(run) { " the data" } @else { " the model" } }
                }
                @if !makes_data(run) { a .button .quiet href={ (here) "/try" } { "Try and use it" } }
            }
            @if session.writes() {
                a .button .quiet href={ (here) "/share" } { "Share" }
                a .button .quiet href={ (here) "/clone" } { "Clone" }
                @if !shown.checkpoints.is_empty() && !makes_data(run) {
                    a .button .quiet href={ (here) "/continue" } { "Continue" }
                }
            }
            @if session.changes(run.created_by.as_deref()) {
                @if is_open { a .button .quiet .danger href={ (here) "/cancel" } { "Cancel run" } }
                a .button .quiet .danger href={ (here) "/delete" } { "Delete" }
            }
        }
    }
}

/// Renders the result of a run: the headline metric, or else the loss.
async fn result(
    app: &App,
    session: &Session,
    shown: &Shown,
    metrics: &finetuner_protocol::MetricsInfo,
) -> Result<Markup, ApiError> {
    if makes_data(&shown.run) {
        return made_data(app, session, shown).await;
    }
    if let Some(change) = metrics::headline(metrics) {
        return Ok(headline(&change, ["Before", "After"]));
    }
    let loss = losses(app, &shown.run).await?;
    Ok(html! {
        @if let Some(change) = &loss { (headline(change, ["First epoch", "Last epoch"])) }
        @if shown.run.status() == Status::Finished {
            p .hint { "No metrics were measured. Start a run with an " code { "EvaluationCallback" }
                " to see how well queries find their documents before and after the training." }
        }
    })
}

/// Renders a metric in large type.
pub(super) fn headline(change: &Change, labels: [&str; 2]) -> Markup {
    let [first, second] = labels;
    let value = |value: Option<f64>| value.map_or("–".to_owned(), number);
    html! {
        section .headline aria-label={ (visible(&change.name)) } {
            p .metric { (name(&change.name)) }
            dl {
                div { dt { (first) } dd { (value(change.before)) } }
                div { dt { (second) } dd .large { (value(change.after)) } }
                @if change.difference().is_some() {
                    div { dt { "Change" } dd { (metrics::change(change)) (relative(change)) } }
                }
            }
        }
    }
}

/// Renders a change in percent of the first value.
fn relative(change: &Change) -> Markup {
    let percent = match (change.before, change.after) {
        (Some(before), Some(after)) if before > 0.0 => (after / before - 1.0) * 100.0,
        _ => return html! {},
    };
    match percent.abs() {
        size if !(0.5..10_000.0).contains(&size) => html! {},
        size => {
            let sign = if percent < 0.0 { "−" } else { "+" };
            html! { " " span .hint { "(" (sign) (size.round()) " %)" } }
        }
    }
}

/// Returns the loss of the first and the last epoch: the validation loss if there
/// is one, else the training loss.
async fn losses(app: &App, run: &RunRow) -> Result<Option<Change>, ApiError> {
    let epochs = app.database.epochs(run.id).await?;
    let losses = |of_evaluation: bool| -> Vec<f64> {
        let losses = epochs.iter().filter_map(|stored| match stored.event {
            Event::Epoch { val_loss, .. } if of_evaluation => val_loss,
            Event::Epoch { train_loss, .. } => Some(train_loss),
            _ => None,
        });
        losses.collect()
    };
    let (name, values) = match losses(true) {
        values if !values.is_empty() => ("val_loss", values),
        _ => ("loss", losses(false)),
    };
    Ok(values.first().map(|&first| Change {
        name: name.to_owned(),
        before: Some(first),
        after: values.last().filter(|_| values.len() > 1).copied(),
    }))
}

/// Renders the data that a synthesis run created.
async fn made_data(app: &App, session: &Session, shown: &Shown) -> Result<Markup, ApiError> {
    let Some(artifact) = &shown.artifact else {
        return Ok(html! {});
    };
    let read = documents::read(app, &session.user.person, &artifact.content, 0, 0).await;
    let total = read.ok().map(|(_, total)| total);
    Ok(html! {
        section .headline aria-label="Training data" {
            p .metric { "Training data" }
            dl {
                @if let Some(total) = total {
                    div { dt { "Documents" } dd .large { (total) } }
                }
                div { dt { "Name" } dd {
                    a href=(path(&["data", &artifact.id])) {
                        (name(artifact.name.as_deref().unwrap_or(&artifact.id)))
                    }
                } }
            }
        }
    })
}
