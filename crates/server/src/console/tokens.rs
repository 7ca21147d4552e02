//! The page of a user's tokens.

use std::sync::Arc;

use axum::{
    Form,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Redirect, Response},
};
use finetuner_protocol::check_name;
use maud::{Markup, html};
use serde::Deserialize;

use super::{
    failure::{Failure, Page},
    frame::page,
    session::Session,
    words::{count, name, time, visible},
};
use crate::{
    app::App,
    database::{NewToken, Scope, TokenRow},
    error::ApiError,
};

/// Field values of the form for a new token.
#[derive(Clone, Deserialize)]
pub(crate) struct Typed {
    name: String,
    #[serde(default)]
    days: String,
    scope: String,
}

impl Default for Typed {
    fn default() -> Self {
        Self {
            name: String::new(),
            days: "90".to_owned(),
            scope: Scope::All.as_str().to_owned(),
        }
    }
}

pub(crate) async fn list(State(app): State<Arc<App>>, session: Session) -> Page {
    let typed = Typed::default();
    show(&app, &session, &html! {}, &typed).await
}

/// Describes the permissions of a scope.
fn access(scope: &str) -> &'static str {
    match Scope::parse(scope) {
        Some(Scope::Read) => "read-only",
        _ => "full",
    }
}

async fn show(app: &App, session: &Session, said: &Markup, typed: &Typed) -> Page {
    let tokens = app.database.tokens(session.user.person.clone()).await?;
    let content = html! {
        h1 { "Tokens" }
        p { "A token lets a program use this server with your account." }
        (said)
        @if session.is_full() {
            form method="post" action="/console/tokens" .row {
                label { "Name " input name="name" value=(typed.name) required maxlength="128" #name; }
                label { "Expires after " input name="days" type="number" min="1" max="3650"
                    value=(typed.days) #days; " days" }
                label { "Access " select name="scope" #scope {
                    @for scope in [Scope::All, Scope::Read] {
                        option value=(scope.as_str()) selected[scope.as_str() == typed.scope] {
                            (access(scope.as_str()))
                        }
                    }
                } }
                button type="submit" { "Create token" }
            }
        }
        div .scroll tabindex="0" role="region" aria-label="Table of tokens" { table {
            caption { (count(tokens.len() as u64, "token")) }
            thead { tr {
                th scope="col" { "Name" } th scope="col" { "Kind" } th scope="col" { "Access" }
                th scope="col" { "Created" } th scope="col" { "Expires" } th scope="col" { "Last used" }
                @if session.is_full() { th scope="col" { span .hidden { "Actions" } } }
            } }
            tbody { @for token in &tokens { (row(session, token)) } }
        } }
    };
    Ok(page(session, "Tokens", "Tokens", &content))
}

fn row(session: &Session, token: &TokenRow) -> Markup {
    html! { tr {
        th scope="row" { (name(&token.name)) }
        td { (token.kind) }
        td { (access(&token.scope)) }
        td { (time(&token.created_at)) }
        td { (moment(token.expires_at.as_deref())) }
        td { (moment(token.last_used_at.as_deref())) }
        @if session.is_full() { td {
            form method="post" action="/console/tokens/delete" {
                input type="hidden" name="name" value=(token.name);
                button .quiet type="submit" aria-label={ "Delete " (visible(&token.name)) } { "Delete" }
            }
        } }
    } }
}

fn moment(text: Option<&str>) -> Markup {
    match text {
        Some(text) => time(text),
        None => html! { "never" },
    }
}

/// Validates the submitted form.
fn read(typed: &Typed) -> Result<NewToken, ApiError> {
    check_name("name", &typed.name).map_err(|e| ApiError::bad_request(e.to_string()))?;
    let days = match typed.days.trim() {
        "" => None,
        days => {
            let read = days.parse().ok().filter(|days| (1..=3650).contains(days));
            Some(read.ok_or_else(|| {
                ApiError::bad_request(format!("`days` is `{days}`: 1 to 3650 are allowed"))
            })?)
        }
    };
    let scope = Scope::parse(&typed.scope).ok_or_else(|| {
        ApiError::bad_request(format!("`scope` is `{}`: all or read", typed.scope))
    })?;
    Ok(NewToken {
        name: typed.name.clone(),
        kind: "personal",
        scope,
        days,
        address: None,
    })
}

pub(crate) async fn create(
    State(app): State<Arc<App>>,
    session: Session,
    Form(typed): Form<Typed>,
) -> Page<Response> {
    session.must_be_full()?;
    let refused = async |status: StatusCode, reason: &str| {
        let said = html! { p .problem .message role="alert" { (reason) } };
        let page = show(&app, &session, &said, &typed).await?;
        Ok::<_, Failure>((status, page).into_response())
    };
    let new = match read(&typed) {
        Ok(new) => NewToken {
            address: session.user.address,
            ..new
        },
        Err(error) => return refused(error.status(), error.message()).await,
    };
    let made = app
        .database
        .add_token(session.user.person.clone(), new)
        .await?;
    let Some(token) = made else {
        let reason = format!("there is a token `{}` already", visible(&typed.name));
        return refused(StatusCode::CONFLICT, &reason).await;
    };
    let said = html! {
        section .done role="alert" {
            p { "This is the token " b { (name(&typed.name)) } ". It is not shown again. Copy it now:" }
            pre .secret tabindex="0" { (token) }
        }
    };
    let empty = Typed::default();
    Ok(show(&app, &session, &said, &empty).await?.into_response())
}

#[derive(Deserialize)]
pub(crate) struct Unwanted {
    name: String,
}

pub(crate) async fn delete(
    State(app): State<Arc<App>>,
    session: Session,
    Form(Unwanted { name }): Form<Unwanted>,
) -> Page<Redirect> {
    session.must_be_full()?;
    app.database.delete_token(session.user, name).await?;
    // Wake open streams, so that those of the deleted token close.
    app.changes.notify_all();
    Ok(Redirect::to("/console/tokens"))
}
