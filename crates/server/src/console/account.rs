//! The page of a user's account: usage, limits and links to notification
//! settings.

use std::sync::Arc;

use axum::extract::State;
use maud::{Markup, html};

use super::{
    failure::Page,
    frame::page,
    oidc,
    session::Session,
    words::{bytes, name, visible},
};
use crate::app::App;

pub(crate) async fn show(State(app): State<Arc<App>>, session: Session) -> Page {
    let usage = app.usage(&session.user).await?;
    let uploads = app.uploads.open(&session.user.person) as u64;
    let count = |number: u64| number.to_string();
    let project = &session.user.project;
    let storage = match session.user.is_personal {
        true => "Storage: data, models and checkpoints".to_owned(),
        false => format!("Storage of project {}", visible(project)),
    };
    let content = html! {
        h1 { "Account" }
        p { "Signed in as " b { (name(&session.user.name)) } "."
            @if !session.is_full() { " This session is read-only." } }
        @if session.is_full() {
            p { a .button href="/console/password" { "Change password" } }
        }
        (oidc::section(&app, &session).await?)
        h2 { "Usage" }
        div .scroll tabindex="0" role="region" aria-label="Table of usage" { table {
            thead { tr {
                th scope="col" { "Resource" } th scope="col" .number { "Used" }
                th scope="col" .number { "Limit" } th scope="col" { span .hidden { "Share" } }
            } }
            tbody {
                (row("Runs waiting or running", usage.open_runs, usage.max_open_runs, count))
                (row("Uploads in progress", uploads, Some(app.settings.max_uploads as u64), count))
                (row(&storage, usage.stored, usage.max_stored, bytes))
            }
        } }
        p .hint { "The operator of this server sets the limits." }
        h2 { "Notifications" }
        ul {
            li { a href="/console/mail" { "E-mail" } " about your runs" }
            li { a href="/console/webhooks" { "Webhooks" } ": HTTP calls when runs start or end" }
        }
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
