//! The account of a user: what it uses of the server, and its limits.

use std::sync::Arc;

use axum::extract::State;
use maud::{Markup, html};

use super::{
    Page, Session,
    frame::page,
    words::{bytes, name},
};
use crate::app::App;

pub(crate) async fn show(State(app): State<Arc<App>>, session: Session) -> Page {
    let usage = app.database.usage(session.user.id.clone()).await?;
    let uploads = app.uploads.open(&session.user.id) as u64;
    let settings = &app.settings;
    let count = |number: u64| number.to_string();
    let content = html! {
        h1 { "Account" }
        p { "Signed in as " b { (name(&session.user.name)) } "."
            @if !session.writes() { " This session is read-only." } }
        @if session.writes() {
            p { a .button href="/console/password" { "Change password" } }
        }
        h2 { "Usage" }
        div .scroll { table {
            thead { tr {
                th scope="col" { "Resource" } th scope="col" .number { "Used" }
                th scope="col" .number { "Limit" } th scope="col" { span .hidden { "Share" } }
            } }
            tbody {
                (row("Runs waiting or running", usage.open_runs, settings.max_open_runs, count))
                (row("Uploads in progress", uploads, Some(settings.max_uploads as u64), count))
                (row("Storage: data, models and checkpoints", usage.stored, settings.max_stored, bytes))
            }
        } }
        p .hint { "The operator of this server sets the limits." }
    };
    Ok(page(&session, "", "Account", &content))
}

fn row(what: &str, used: u64, limit: Option<u64>, text: impl Fn(u64) -> String) -> Markup {
    html! {
        tr {
            th scope="row" { (what) }
            td .number { (text(used)) }
            td .number { @match limit { Some(limit) => (text(limit)), None => "none" } }
            td {
                @if let Some(limit) = limit {
                    progress value=(used.min(limit)) max=(limit.max(1)) aria-label={ (what) ", share of the limit" } {}
                }
            }
        }
    }
}
