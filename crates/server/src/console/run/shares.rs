//! The page that creates, lists and revokes share links of a run.

use std::sync::Arc;

use axum::{
    extract::{Path, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Redirect, Response},
};
use maud::{Markup, html};
use serde::Deserialize;

use crate::{
    app::App,
    console::{
        config::makes_data,
        failure::Page,
        frame::page as framed,
        links::{crumbs, run_path},
        project_form::ProjectForm,
        session::Session,
        words::{count, name, time, visible},
    },
    database::{RunRow, ShareRow},
    error::{ApiError, Result},
    runs::{MAX_SHARE_DAYS, create_share, find_run, share_address},
};

#[derive(Deserialize)]
pub(crate) struct Typed {
    days: String,
    #[serde(default)]
    artifact: Option<String>,
}

impl Default for Typed {
    fn default() -> Self {
        Self {
            days: "7".to_owned(),
            artifact: None,
        }
    }
}

pub(crate) async fn list(
    State(app): State<Arc<App>>,
    session: Session,
    Path(place): Path<(String, String)>,
) -> Page {
    let run = find_run(&app, session.user.namespace.clone(), place).await?;
    show(&app, &session, &run, &html! {}, &Typed::default()).await
}

async fn show(app: &App, session: &Session, run: &RunRow, said: &Markup, typed: &Typed) -> Page {
    let links = app.database.shares(run.id).await?;
    let here = run_path(run);
    let content = html! {
        (crumbs(run)) " / " a href=(here) { (name(&run.name)) }
        h1 { "Share this run" }
        p { "Anybody who has a link can read the run's metrics, curves and examples, without an "
            "account. The log, the configuration and the names of data are not shown." }
        (said)
        @if session.changes(run.created_by.as_deref()) {
            form method="post" action={ (here) "/share" } .stacked {
                (session.project_field())
                label for="days" { "Days until the link expires, up to " (MAX_SHARE_DAYS) }
                input id="days" name="days" type="number" required min="1" max=(MAX_SHARE_DAYS)
                    value=(typed.days);
                label { input type="checkbox" name="artifact" checked[typed.artifact.is_some()];
                    " Let readers download " @if makes_data(run) { "the data" } @else { "the model" } }
                button type="submit" { "Create link" }
            }
        }
        @if links.is_empty() {
            p .hint { "There are no links to this run." }
        } @else {
            div .scroll tabindex="0" role="region" aria-label="Table of links" { table .cards {
                caption { (count(links.len() as u64, "link")) }
                thead { tr {
                    th scope="col" { "Created" } th scope="col" { "By" } th scope="col" { "Expires" }
                    th scope="col" { "Download" } th scope="col" .number { "Opened" }
                    th scope="col" { "Last opened" }
                    @if session.changes(run.created_by.as_deref()) { th scope="col" { span .hidden { "Actions" } } }
                } }
                tbody { @for link in &links { (row(session, run, link)) } }
            } }
        }
    };
    Ok(framed(session, "Experiments", "Share this run", &content))
}

fn row(session: &Session, run: &RunRow, link: &ShareRow) -> Markup {
    let here = run_path(run);
    html! { tr {
        th scope="row" { (time(&link.created_at)) }
        td data-label="By" { (name(&link.created_by)) }
        td data-label="Expires" { (time(&link.expires_at)) }
        td data-label="Download" { @if link.with_artifact { "allowed" } @else { "no" } }
        td data-label="Opened" .number { (link.opened) }
        td data-label="Last opened" {
            @match &link.opened_at { Some(at) => (time(at)), None => "never" }
        }
        @if session.changes(run.created_by.as_deref()) { td {
            form method="post" action={ (here) "/share/revoke" } {
                (session.project_field())
                input type="hidden" name="id" value=(link.id);
                button .quiet .danger type="submit"
                    aria-label={ "Revoke the link of " (link.created_at) } { "Revoke" }
            }
        } }
    } }
}

/// Validates the form and creates a link. Returns its URL.
async fn create_link(
    app: &App,
    session: &Session,
    run: &RunRow,
    headers: &HeaderMap,
    typed: &Typed,
) -> Result<String> {
    let days = typed.days.trim().parse().map_err(|_| {
        ApiError::unprocessable(format!(
            "`days` is `{}`: 1 to {MAX_SHARE_DAYS} are allowed",
            typed.days
        ))
    })?;
    let with_artifact = typed.artifact.is_some();
    let (_, key) = create_share(app, &session.user, run, days, with_artifact).await?;
    share_address(app, headers, &key)
}

pub(crate) async fn create(
    State(app): State<Arc<App>>,
    session: Session,
    Path(place): Path<(String, String)>,
    headers: HeaderMap,
    ProjectForm(typed): ProjectForm<Typed>,
) -> Page<Response> {
    session.may_write()?;
    let run = find_run(&app, session.user.namespace.clone(), place).await?;
    let (status, said, typed) = match create_link(&app, &session, &run, &headers, &typed).await {
        Ok(address) => {
            let said = html! {
                section .done role="alert" {
                    p { "This is the link. It is not shown again. Copy it now:" }
                    pre .secret tabindex="0" { (address) }
                }
            };
            (StatusCode::OK, said, Typed::default())
        }
        Err(error) if error.status().is_client_error() => {
            let said = html! { p .problem .message role="alert" { (visible(error.message())) } };
            (error.status(), said, typed)
        }
        Err(error) => return Err(error.into()),
    };
    let page = show(&app, &session, &run, &said, &typed).await?;
    Ok((status, page).into_response())
}

#[derive(Deserialize)]
pub(crate) struct Unwanted {
    id: String,
}

pub(crate) async fn revoke(
    State(app): State<Arc<App>>,
    session: Session,
    Path(place): Path<(String, String)>,
    ProjectForm(Unwanted { id }): ProjectForm<Unwanted>,
) -> Page<Redirect> {
    session.may_write()?;
    let run = find_run(&app, session.user.namespace.clone(), place).await?;
    app.database.delete_share(session.user, run.id, id).await?;
    Ok(Redirect::to(&format!("{}/share", run_path(&run))))
}
