//! The pages of a project's webhooks and their deliveries.

use std::sync::Arc;

use axum::{
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse, Redirect, Response},
};
use maud::{Markup, html};

use super::{
    failure::{Failure, Page},
    frame::page,
    project_form::{Nothing, ProjectForm},
    session::Session,
    words::{count, name, path, time, visible},
};
use crate::{
    app::App,
    database::{MessageRow, RunEvent, WebhookRow},
    error::ApiError,
    outbox,
};

/// Maximum number of deliveries on the page.
const MAX_DELIVERIES: u64 = 100;

/// Field values of the form for a new webhook.
struct Typed {
    url: String,
    events: Vec<String>,
}

impl Default for Typed {
    fn default() -> Self {
        let events = [RunEvent::Finished, RunEvent::Failed];
        Self {
            url: String::new(),
            events: events.map(|event| event.as_str().to_owned()).to_vec(),
        }
    }
}

impl From<Vec<(String, String)>> for Typed {
    fn from(fields: Vec<(String, String)>) -> Self {
        let mut typed = Self {
            url: String::new(),
            events: Vec::new(),
        };
        for (field, value) in fields {
            match field.as_str() {
                "url" => typed.url = value,
                "event" => typed.events.push(value),
                _ => {}
            }
        }
        typed
    }
}

/// Returns the display name of an event.
fn label(event: RunEvent) -> &'static str {
    match event {
        RunEvent::Started => "started",
        RunEvent::Finished => "finished",
        RunEvent::Failed => "failed",
        RunEvent::Cancelled => "cancelled",
    }
}

pub(crate) async fn list(State(app): State<Arc<App>>, session: Session) -> Page {
    show(&app, &session, &html! {}, &Typed::default()).await
}

async fn show(app: &App, session: &Session, said: &Markup, typed: &Typed) -> Page {
    let hooks = app
        .database
        .webhooks(session.user.namespace.clone())
        .await?;
    let content = html! {
        h1 { "Webhooks" }
        p { "The server calls these addresses when a run of project "
            b { (name(&session.user.project)) } " starts or ends. "
            a href="/docs/notifications.html" { "The guide" }
            " describes the calls and their signatures." }
        (said)
        @if session.changes(None) {
            (form(session, typed))
        } @else {
            p .hint { "Owners of the project create webhooks." }
        }
        @if hooks.is_empty() {
            p .hint { "There are no webhooks yet." }
        } @else {
            div .scroll tabindex="0" role="region" aria-label="Table of webhooks" { table .cards {
                caption { (count(hooks.len() as u64, "webhook")) }
                thead { tr {
                    th scope="col" { "Address" } th scope="col" { "Runs that" }
                    th scope="col" { "Created" }
                } }
                tbody { @for hook in &hooks { tr {
                    th scope="row" { a href=(address(hook)) { (name(&hook.shown(session.changes(None)))) } }
                    td data-label="Runs that" { (events_of(&hook.events)) }
                    td data-label="Created" { (time(&hook.created_at)) }
                } } }
            } }
        }
    };
    Ok(page(session, "", "Webhooks", &content))
}

fn form(session: &Session, typed: &Typed) -> Markup {
    html! {
        form method="post" action="/console/webhooks" .stacked {
            (session.project_field())
            label for="url" { "Address" }
            input id="url" name="url" type="url" required maxlength="2048" value=(typed.url)
                placeholder="https://example.org/hook" autocomplete="off";
            (event_boxes("Call it for runs that", &typed.events))
            button type="submit" { "Create webhook" }
        }
    }
}

/// Renders a checkbox for each event. `chosen` contains the names of the checked
/// ones.
pub(super) fn event_boxes(legend: &str, chosen: &[String]) -> Markup {
    html! {
        fieldset {
            legend { (legend) }
            @for event in RunEvent::ALL {
                @let is_chosen = chosen.iter().any(|name| name == event.as_str());
                label { input type="checkbox" name="event" value=(event.as_str())
                    checked[is_chosen]; " " (label(event)) }
                " "
            }
        }
    }
}

pub(super) fn events_of(events: &[RunEvent]) -> String {
    let labels: Vec<&str> = events.iter().map(|event| label(*event)).collect();
    labels.join(", ")
}

/// Renders the state of a message.
pub(super) fn state_of(row: &MessageRow) -> Markup {
    let class = match row.state() {
        "delivered" => "status finished",
        "failed" => "status failed",
        _ => "status waiting",
    };
    html! { span class=(class) { (row.state()) } }
}

/// Returns the URL of a webhook's page.
fn address(hook: &WebhookRow) -> String {
    path(&["webhooks", &hook.id])
}

pub(crate) async fn create(
    State(app): State<Arc<App>>,
    session: Session,
    ProjectForm(fields): ProjectForm<Vec<(String, String)>>,
) -> Page<Response> {
    session.may_own()?;
    let typed = Typed::from(fields);
    let made = outbox::create(&app, session.user.clone(), &typed.url, &typed.events).await;
    let (status, said, typed) = match made {
        Ok((hook, secret)) => {
            let said = html! {
                section .done role="alert" {
                    p { "The webhook " a href=(address(&hook)) { (name(&hook.url)) }
                        " is created. Its calls are signed with this secret, which is not shown "
                        "again. Copy it now:" }
                    pre .secret tabindex="0" { (secret) }
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
    let page = show(&app, &session, &said, &typed).await?;
    Ok((status, page).into_response())
}

async fn find(app: &App, session: &Session, id: String) -> Result<WebhookRow, Failure> {
    let found = app
        .database
        .webhook(session.user.namespace.clone(), id)
        .await?;
    found.ok_or_else(|| ApiError::not_found("there is no such webhook").into())
}

/// Renders the breadcrumbs of a webhook's page.
fn crumbs() -> Markup {
    html! { nav .crumbs aria-label="Path" { a href="/console/webhooks" { "Webhooks" } } }
}

/// Renders one webhook with its deliveries.
pub(crate) async fn show_one(
    State(app): State<Arc<App>>,
    session: Session,
    Path(id): Path<String>,
) -> Page {
    let hook = find(&app, &session, id).await?;
    let project = session.user.namespace.clone();
    let rows = app
        .database
        .deliveries(project, hook.id.clone(), MAX_DELIVERIES);
    let rows = rows.await?;
    let here = address(&hook);
    let content = html! {
        (crumbs())
        div .head {
            h1 { (name(&hook.shown(session.changes(None)))) }
            @if session.changes(None) { div .actions role="group" aria-label="Actions" {
                form method="post" action={ (here) "/test" } {
                    (session.project_field())
                    button .quiet type="submit" { "Send a test" }
                }
                a .button .quiet .danger href={ (here) "/delete" } { "Delete" }
            } }
        }
        p { "Called for runs that: " (events_of(&hook.events)) "." }
        h2 #deliveries { "Deliveries" }
        @if rows.is_empty() {
            p .hint { "Nothing was sent yet." }
        } @else {
            p .hint { "The newest come first. Reload the page to update the list." }
            div .scroll tabindex="0" role="region" aria-label="Table of deliveries" { table .cards aria-labelledby="deliveries" {
                thead { tr {
                    th scope="col" { "Event" } th scope="col" { "State" }
                    th scope="col" { "Last outcome" } th scope="col" .number { "Attempts" }
                    th scope="col" { "Created" } th scope="col" { "Next attempt" }
                    @if session.changes(None) { th scope="col" { span .hidden { "Actions" } } }
                } }
                tbody { @for row in &rows { (delivery(&session, &here, row)) } }
            } }
        }
    };
    Ok(page(&session, "", "Webhook", &content))
}

fn delivery(session: &Session, here: &str, row: &MessageRow) -> Markup {
    html! { tr {
        th scope="row" { (row.event) }
        td data-label="State" { (state_of(row)) }
        td data-label="Last outcome" .text { (visible(&row.outcome)) }
        td data-label="Attempts" .number { (row.attempts) }
        td data-label="Created" { (time(&row.created_at)) }
        td data-label="Next attempt" { @if let Some(due_at) = &row.due_at { (time(due_at)) } }
        @if session.changes(None) { td {
            form method="post" action={ (here) "/deliveries/" (row.name) } {
                (session.project_field())
                button .quiet type="submit" aria-label={ "Send again: " (row.event) } {
                    "Send again"
                }
            }
        } }
    } }
}

pub(crate) async fn test(
    State(app): State<Arc<App>>,
    session: Session,
    Path(id): Path<String>,
    ProjectForm(Nothing {}): ProjectForm<Nothing>,
) -> Page<Redirect> {
    session.may_own()?;
    let hook = find(&app, &session, id).await?;
    app.database
        .test_webhook(session.user, hook.id.clone())
        .await?;
    app.outgoing.notify_one();
    Ok(Redirect::to(&address(&hook)))
}

pub(crate) async fn redeliver(
    State(app): State<Arc<App>>,
    session: Session,
    Path((id, message)): Path<(String, String)>,
    ProjectForm(Nothing {}): ProjectForm<Nothing>,
) -> Page<Redirect> {
    session.may_own()?;
    let hook = find(&app, &session, id).await?;
    let again = app
        .database
        .send_again(session.user, hook.id.clone(), message);
    if again.await?.is_none() {
        return Err(ApiError::not_found("there is no such delivery any more").into());
    }
    app.outgoing.notify_one();
    Ok(Redirect::to(&address(&hook)))
}

pub(crate) async fn ask_to_delete(
    State(app): State<Arc<App>>,
    session: Session,
    Path(id): Path<String>,
) -> Page {
    session.may_own()?;
    let hook = find(&app, &session, id).await?;
    let here = address(&hook);
    let content = html! {
        (crumbs())
        h1 { "Delete this webhook?" }
        p { (name(&hook.url)) " is not called any more. Waiting messages are not sent." }
        form .row method="post" action={ (here) "/delete" } {
            (session.project_field())
            button .danger type="submit" { "Delete the webhook" }
            a .button .quiet href=(here) { "Back" }
        }
    };
    Ok(page(&session, "", "Delete this webhook?", &content))
}

pub(crate) async fn delete(
    State(app): State<Arc<App>>,
    session: Session,
    Path(id): Path<String>,
    ProjectForm(Nothing {}): ProjectForm<Nothing>,
) -> Page<Redirect> {
    session.may_own()?;
    let hook = find(&app, &session, id).await?;
    app.database.delete_webhook(session.user, hook.id).await?;
    Ok(Redirect::to("/console/webhooks"))
}
