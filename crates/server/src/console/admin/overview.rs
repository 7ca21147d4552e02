//! The health of the server, and the waiting and running runs of all users.

use std::sync::Arc;

use axum::extract::State;
use maud::{Markup, html};

use super::frame::AdminSession;
use crate::{
    app::App,
    console::{
        failure::Page,
        words::{bytes, count, name, seconds, time},
    },
    database::{OpenRun, now_ms},
};

/// Maximum number of open runs on the page.
const MAX_RUNS: u64 = 200;

pub(crate) async fn page(State(app): State<Arc<App>>, session: AdminSession) -> Page {
    let (runs, total) = app.database.open_runs(MAX_RUNS).await?;
    let (running, waiting): (Vec<_>, Vec<_>) = runs.iter().partition(|run| run.job.is_some());
    let now = now_ms();
    let content = html! {
        h1 { "Server" }
        (health(&app))
        h2 { "Workers and running jobs" }
        @if running.is_empty() { p { "No run has a worker." } } @else {
            div .scroll tabindex="0" role="region" aria-label="Running jobs" { table {
                caption { (count(running.len() as u64, "run")) " of at most " (app.settings.runs_at_once) }
                thead { tr {
                    (heads()) th scope="col" { "Worker" } th scope="col" { "Job" }
                    th scope="col" .number { "Attempt" } th scope="col" { "Running for" }
                } }
                tbody { @for run in &running { tr {
                    (cells(run))
                    td { (if run.has_worker { "connected" } else { "not connected" })
                        @if let Some(place) = app.waits.of(run.id) { ": " (place) } }
                    td { code .long { (run.job.as_deref().unwrap_or_default()) } }
                    td .number { (run.attempts) }
                    td { (run.started_at.map_or(String::new(), |at| seconds(now - at))) }
                } } }
            } }
        }
        h2 { "Queue" }
        @if waiting.is_empty() { p { "No runs are waiting." } } @else {
            div .scroll tabindex="0" role="region" aria-label="Waiting runs" { table {
                caption { (count(waiting.len() as u64, "run")) ". Users take turns." }
                thead { tr { (heads()) th scope="col" { "Submitted" } } }
                tbody { @for run in &waiting { tr { (cells(run)) td { (time(&run.created_at)) } } } }
            } }
        }
        @if total > MAX_RUNS { p .hint { "The first " (MAX_RUNS) " of " (total) " open runs." } }
    };
    Ok(session.framed("Overview", &content))
}

fn heads() -> Markup {
    html! {
        th scope="col" { "Run" } th scope="col" { "Experiment" }
        th scope="col" { "Project" } th scope="col" { "Started by" }
    }
}

fn cells(run: &OpenRun) -> Markup {
    html! {
        th scope="row" { (name(&run.run)) }
        td { (name(&run.experiment)) }
        td { (name(&run.project)) }
        td { (run.person.as_deref().map_or(html! { "a deleted user" }, name)) }
    }
}

fn health(app: &App) -> Markup {
    let problem = app.queue.problem();
    let is_stopping = app.is_stopping();
    html! {
        dl .facts {
            dt { "Version" } dd { (env!("CARGO_PKG_VERSION")) }
            dt { "State" } dd {
                @if is_stopping { span .status .waiting { "Stopping" } }
                @else if problem.is_some() { span .status .failed { "Problem" } }
                @else { span .status .finished { "Working" } }
            }
            @if let Some(disk) = app.space.disk() {
                dt { "Disk of the data folder" }
                dd { (bytes(disk.free)) " free of " (bytes(disk.total)) }
            }
        }
        @if let Some(problem) = problem { p .problem .message role="alert" { (problem) } }
        @if let Some(note) = app.queue.note() { p .warning { (note) } }
        @if let Err(full) = app.space.check("upload", 0) { p .problem .message role="alert" { (full.message()) } }
    }
}
