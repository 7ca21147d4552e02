//! E-mail settings of a user: the address, its confirmation, and the messages
//! sent.

use std::sync::Arc;

use axum::{
    Form,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Redirect, Response},
};
use maud::{Markup, html};
use serde::Deserialize;

use super::{
    failure::Page,
    frame::page,
    session::Session,
    webhooks::{event_boxes, events_of, state_of},
    words::{name, time, visible},
};
use crate::{
    app::App,
    database::{MailAddress, MessageRow, PutMail, RunEvent},
    error::{ApiError, Result},
    outbox,
};

/// Maximum number of messages on the page.
const MAX_MESSAGES: u64 = 20;

/// Field values of the form.
struct Typed {
    address: String,
    events: Vec<String>,
}

pub(crate) async fn show(State(app): State<Arc<App>>, session: Session) -> Page {
    content(&app, &session, &html! {}, None).await
}

async fn content(app: &App, session: &Session, said: &Markup, typed: Option<Typed>) -> Page {
    let user_id = session.user.person.clone();
    let stored = app.database.mail_address(user_id.clone()).await?;
    let sent = app.database.mail(user_id, MAX_MESSAGES).await?;
    let typed = typed.unwrap_or_else(|| Typed {
        address: stored
            .as_ref()
            .map_or(String::new(), |stored| stored.address.clone()),
        events: match &stored {
            Some(stored) => stored.events.clone(),
            None => vec![RunEvent::Finished, RunEvent::Failed],
        }
        .iter()
        .map(|event| event.as_str().to_owned())
        .collect(),
    });
    let content = html! {
        nav .crumbs aria-label="Path" { a href="/console/account" { "Account" } }
        h1 { "E-mail" }
        p { "The server can send you e-mail when your runs start or end." }
        (said)
        @if app.settings.mail.is_on() {
            (state(session, stored.as_ref()))
            @if session.is_full() { (form(&typed, stored.is_some())) }
        } @else {
            p .hint { "The operator of this server has not set up e-mail." }
        }
        @if !sent.is_empty() { (list(&sent)) }
    };
    Ok(page(session, "", "E-mail", &content))
}

fn state(session: &Session, stored: Option<&MailAddress>) -> Markup {
    html! { @match stored {
        None => { p { "E-mail is off." } }
        Some(stored) if stored.is_confirmed => {
            p { "E-mail goes to " b { (name(&stored.address)) } " for runs that: "
                (events_of(&stored.events)) "." }
        }
        Some(stored) => {
            p { b { (name(&stored.address)) } " is not confirmed yet. A code was sent to it. It is "
                "valid for one day." }
            @if session.is_full() {
                form method="post" action="/console/mail/confirm" .row {
                    label { "Code " input name="code" required autocomplete="one-time-code"
                        autocapitalize="none" spellcheck="false"; }
                    button type="submit" { "Confirm" }
                }
            }
        }
    } }
}

fn form(typed: &Typed, is_stored: bool) -> Markup {
    html! {
        form method="post" action="/console/mail" .stacked {
            label for="address" { "Address" }
            input id="address" name="address" type="email" required maxlength="254"
                value=(typed.address) autocomplete="email";
            (event_boxes("Send e-mail for runs that", &typed.events))
            button type="submit" { "Save" }
        }
        @if is_stored {
            form method="post" action="/console/mail/off" .row {
                button .quiet type="submit" { "Turn e-mail off" }
            }
        }
    }
}

fn list(sent: &[MessageRow]) -> Markup {
    html! {
        h2 #sent { "Messages" }
        div .scroll tabindex="0" role="region" aria-label="Table of messages" { table .cards aria-labelledby="sent" {
            thead { tr {
                th scope="col" { "Event" } th scope="col" { "State" }
                th scope="col" { "Last outcome" } th scope="col" { "Created" }
            } }
            tbody { @for row in sent { tr {
                th scope="row" { (row.event) }
                td data-label="State" { (state_of(row)) }
                td data-label="Last outcome" .text { (visible(&row.outcome)) }
                td data-label="Created" { (time(&row.created_at)) }
            } } }
        } }
    }
}

/// Validates and stores the address and its events.
async fn store(app: &App, session: &Session, typed: &Typed) -> Result<PutMail> {
    if !app.settings.mail.is_on() {
        return Err(ApiError::conflict("the operator has not set up e-mail"));
    }
    let address = outbox::mail_address(&typed.address)?;
    let events = outbox::run_events(&typed.events)?;
    let put = app
        .database
        .put_mail_address(session.user.person.clone(), address, events);
    Ok(put.await?)
}

pub(crate) async fn put(
    State(app): State<Arc<App>>,
    session: Session,
    Form(fields): Form<Vec<(String, String)>>,
) -> Page<Response> {
    session.must_be_full()?;
    let values = |name: &str| {
        let fields = fields.iter().filter(move |(field, _)| field == name);
        fields.map(|(_, value)| value.clone()).collect::<Vec<_>>()
    };
    let typed = Typed {
        address: values("address").pop().unwrap_or_default(),
        events: values("event"),
    };
    let refused = match store(&app, &session, &typed).await {
        Ok(PutMail::Kept) => return Ok(Redirect::to("/console/mail").into_response()),
        Ok(PutMail::CodeSent) => {
            app.outgoing.notify_one();
            return Ok(Redirect::to("/console/mail").into_response());
        }
        Ok(PutMail::TooMany) => ApiError::too_many(
            "you have asked for several codes in the last hour: try again in an hour",
            3600,
        ),
        Err(error) if error.status().is_client_error() => error,
        Err(error) => return Err(error.into()),
    };
    let said = html! { p .problem .message role="alert" { (visible(refused.message())) } };
    let page = content(&app, &session, &said, Some(typed)).await?;
    Ok((refused.status(), page).into_response())
}

#[derive(Deserialize)]
pub(crate) struct Entered {
    code: String,
}

pub(crate) async fn confirm(
    State(app): State<Arc<App>>,
    session: Session,
    Form(Entered { code }): Form<Entered>,
) -> Page<Response> {
    session.must_be_full()?;
    let user_id = session.user.person.clone();
    if app
        .database
        .confirm_mail_address(user_id, code.trim())
        .await?
    {
        return Ok(Redirect::to("/console/mail").into_response());
    }
    let said = html! {
        p .problem .message role="alert" {
            "The code is wrong or has expired. Save the address again to get another one."
        }
    };
    let page = content(&app, &session, &said, None).await?;
    Ok((StatusCode::UNPROCESSABLE_ENTITY, page).into_response())
}

pub(crate) async fn turn_off(State(app): State<Arc<App>>, session: Session) -> Page<Redirect> {
    session.must_be_full()?;
    app.database
        .delete_mail_address(session.user.person)
        .await?;
    Ok(Redirect::to("/console/mail"))
}
