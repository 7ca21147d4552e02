//! A user's tokens.

use std::sync::Arc;

use axum::{
    Form,
    extract::State,
    response::{IntoResponse, Redirect, Response},
};
use finetuner_protocol::check_name;
use maud::{Markup, html};
use serde::Deserialize;

use super::{Page, Session, page, time};
use crate::{
    app::App,
    database::{NewToken, Scope},
    error::ApiError,
};

pub(crate) async fn list(State(app): State<Arc<App>>, session: Session) -> Page {
    show(&app, &session, None).await
}

async fn show(app: &App, session: &Session, new: Option<(&str, &str)>) -> Page {
    let tokens = app.database.tokens(session.user.id.clone()).await?;
    let content = html! {
        h1 { "Tokens" }
        @if let Some((name, token)) = new {
            section .done role="alert" {
                p { "The token " b { (name) } " is shown this once. Copy it now:" }
                pre .secret tabindex="0" { (token) }
            }
        }
        form method="post" .row {
            label for="name" { "Name" }
            input id="name" name="name" required maxlength="128";
            label for="days" { "Days" }
            input id="days" name="days" type="number" min="1" max="3650" value="90";
            label for="scope" { "Good for" }
            select id="scope" name="scope" {
                option value="all" { "everything" }
                option value="read" { "reading" }
            }
            button type="submit" { "Make a token" }
        }
        div .scroll { table {
            caption { (tokens.len()) " tokens" }
            thead { tr {
                th scope="col" { "Name" } th scope="col" { "Kind" } th scope="col" { "Good for" }
                th scope="col" { "Made" } th scope="col" { "Ends" } th scope="col" { "Last used" }
                th scope="col" { span .hidden { "Actions" } }
            } }
            tbody { @for token in &tokens { tr {
                th scope="row" { (token.name) }
                td { (token.kind) }
                td { (if token.scope == "all" { "everything" } else { "reading" }) }
                td { (time(&token.created_at)) }
                td { (moment(token.expires_at.as_deref())) }
                td { (moment(token.last_used_at.as_deref())) }
                td {
                    form method="post" action="/console/tokens/delete" {
                        input type="hidden" name="name" value=(token.name);
                        button .quiet type="submit" aria-label={ "Delete " (token.name) } { "Delete" }
                    }
                }
            } } }
        } }
    };
    Ok(page(session, "Tokens", "Tokens", &content))
}

fn moment(text: Option<&str>) -> Markup {
    match text {
        Some(text) => time(text),
        None => html! { "never" },
    }
}

#[derive(Deserialize)]
pub(crate) struct Wanted {
    name: String,
    #[serde(default)]
    days: String,
    scope: String,
}

pub(crate) async fn create(
    State(app): State<Arc<App>>,
    session: Session,
    Form(wanted): Form<Wanted>,
) -> Page<Response> {
    session.may_write()?;
    check_name("name", &wanted.name).map_err(|e| ApiError::bad_request(e.to_string()))?;
    let bad = |what: String| ApiError::bad_request(what);
    let days = match wanted.days.trim() {
        "" => None,
        days => Some(
            days.parse()
                .ok()
                .filter(|days| (1..=3650).contains(days))
                .ok_or_else(|| bad(format!("`days` is `{days}`: 1 to 3650 are allowed")))?,
        ),
    };
    let scope = Scope::parse(&wanted.scope)
        .ok_or_else(|| bad(format!("`scope` is `{}`: all or read", wanted.scope)))?;
    let new = NewToken {
        name: wanted.name.clone(),
        kind: "personal",
        scope,
        days,
    };
    let token = app.database.add_token(session.user.id.clone(), new).await?;
    let token = token
        .ok_or_else(|| ApiError::conflict(format!("there is a token `{}` already", wanted.name)))?;
    let shown = show(&app, &session, Some((&wanted.name, &token))).await?;
    Ok(shown.into_response())
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
    session.may_write()?;
    app.database.delete_token(session.user.id, name).await?;
    Ok(Redirect::to("/console/tokens"))
}
