//! The user administration: adds and disables users, sets limits, ends sessions,
//! grants and revokes admin rights.

use std::sync::Arc;

use axum::{
    Form,
    extract::{Query, State},
    response::{IntoResponse, Redirect, Response},
};
use finetuner_protocol::check_name;
use maud::{Markup, html};
use serde::Deserialize;

use super::frame::AdminSession;
use crate::{
    app::App,
    checks::check_open_runs,
    console::{
        failure::Page,
        frame::{pager, pages, problem},
        words::{count, name, query, time, visible},
    },
    database::{AccountChange, AccountRow},
    error::ApiError,
};

/// Number of users on a page.
const PAGE: u64 = 50;
const HERE: &str = "/console/admin/users";

#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct ListQuery {
    page: Option<u64>,
}

pub(crate) async fn list(
    State(app): State<Arc<App>>,
    session: AdminSession,
    Query(ListQuery { page }): Query<ListQuery>,
) -> Page {
    show(&app, &session, page.unwrap_or(1), &html! {}).await
}

async fn show(app: &App, session: &AdminSession, number: u64, said: &Markup) -> Page {
    let number = number.max(1);
    let first = (number - 1).saturating_mul(PAGE);
    let (users, total) = app.database.accounts((first, PAGE)).await?;
    let number = number.min(pages(total, PAGE));
    let content = html! {
        h1 { "Users" }
        (said)
        form .row method="post" action=(HERE) {
            label { "Name " input #name name="name" required maxlength="255" autocapitalize="none" spellcheck="false"; }
            button type="submit" { "Add user" }
        }
        div .scroll tabindex="0" role="region" aria-label="Users" { table {
            caption { (count(total, "user")) }
            thead { tr {
                th scope="col" { "Name" } th scope="col" { "Created" } th scope="col" { "Last active" }
                th scope="col" .number { "Sessions" } th scope="col" .number { "Tokens" }
                th scope="col" .number { "Open runs" } th scope="col" { "Limit of open runs" }
                th scope="col" { span .hidden { "Actions" } }
            } }
            tbody { @for user in &users { (row(session, user)) } }
        } }
        (pager(total, number, PAGE, |page| format!("{HERE}?page={page}")))
        p .hint { "If the limit is empty, the server's limit applies. Disabling a user ends all sessions and refuses all \
            tokens; data and runs stay." }
    };
    Ok(session.framed("Users", &content))
}

fn row(session: &AdminSession, user: &AccountRow) -> Markup {
    let is_self = user.name == session.0.user.name;
    let limit = user.max_open_runs.map(|most| most.to_string());
    let actions = [
        match user.is_disabled {
            true => ("enable", "Enable"),
            false => ("disable", "Disable"),
        },
        match user.is_admin {
            true => ("revoke", "Revoke admin"),
            false => ("admin", "Make admin"),
        },
        ("sessions", "End sessions"),
    ];
    html! { tr {
        th scope="row" {
            (name(&user.name))
            @if is_self { " " span .tag { "you" } }
            @if user.is_admin { " " span .tag { "admin" } }
            @if user.is_disabled { " " span .tag { "disabled" } }
            @if !user.has_password { " " span .tag { "no password" } }
        }
        td { (time(&user.created_at)) }
        td { @match &user.last_used_at { Some(at) => (time(at)), None => "never" } }
        td .number { (user.sessions) }
        td .number { (user.tokens) }
        td .number { (user.open_runs) }
        td {
            form .row method="post" action={ (HERE) "/quota" } {
                input type="hidden" name="user" value=(user.name);
                input name="open_runs" type="number" min="1" max="1000000" value=(limit.unwrap_or_default())
                    aria-label={ "Open runs of " (visible(&user.name)) };
                button .quiet type="submit" aria-label={ "Set the limit of " (visible(&user.name)) } { "Set" }
            }
        }
        td { div .row { @for (action, label) in actions {
            a .button .quiet href={ (HERE) "/change" (query(&[("user", &user.name), ("action", action)])) }
                aria-label={ (label) ": " (visible(&user.name)) } { (label) }
        } } }
    } }
}

#[derive(Deserialize)]
pub(crate) struct NewUser {
    name: String,
}

/// Adds a user and shows their first token. It is not shown again.
pub(crate) async fn add(
    State(app): State<Arc<App>>,
    session: AdminSession,
    Form(NewUser { name: user }): Form<NewUser>,
) -> Page<Response> {
    let user = user.trim().to_owned();
    let added = match check_name("name", &user) {
        Ok(()) => {
            let added = app.database.add_user(session.manager(), user.clone());
            added.await.map_err(ApiError::from)
        }
        Err(error) => Err(ApiError::bad_request(error.to_string())),
    };
    let token = match added {
        Ok(token) => token,
        Err(error) => {
            let said = problem(Some(error.message()));
            let page = show(&app, &session, 1, &said).await?;
            return Ok((error.status(), page).into_response());
        }
    };
    let said = html! {
        section .done role="alert" {
            p { "User " b { (name(&user)) } " has this token. It is not shown again. Copy it now:" }
            pre .secret tabindex="0" { (token) }
            p { "With it, the user signs in here and sets a password." }
        }
    };
    Ok(show(&app, &session, 1, &said).await?.into_response())
}

#[derive(Deserialize)]
pub(crate) struct Asked {
    user: String,
    action: String,
}

/// An action on a user, with the texts of its confirmation page.
struct Meaning {
    question: &'static str,
    consequence: &'static str,
    button: &'static str,
    change: AccountChange,
}

fn meaning(action: &str) -> Result<Meaning, ApiError> {
    let none = AccountChange::default();
    Ok(match action {
        "disable" => Meaning {
            question: "Disable this user?",
            consequence: "All sessions end and all tokens are refused at once. Data and runs stay, \
                          and open runs continue.",
            button: "Disable the user",
            change: AccountChange {
                is_disabled: Some(true),
                ..none
            },
        },
        "enable" => Meaning {
            question: "Enable this user?",
            consequence: "Tokens and the password are accepted again.",
            button: "Enable the user",
            change: AccountChange {
                is_disabled: Some(false),
                ..none
            },
        },
        "admin" => Meaning {
            question: "Make this user an admin?",
            consequence: "Admins manage users, all projects and their members, and read the audit \
                          log.",
            button: "Make the user an admin",
            change: AccountChange {
                is_admin: Some(true),
                ..none
            },
        },
        "revoke" => Meaning {
            question: "Revoke the admin rights of this user?",
            consequence: "The user stays a user of the server.",
            button: "Revoke the admin rights",
            change: AccountChange {
                is_admin: Some(false),
                ..none
            },
        },
        "sessions" => Meaning {
            question: "End all sessions of this user?",
            consequence: "Browsers and programs that logged in must log in again. Personal tokens \
                          stay valid.",
            button: "End the sessions",
            change: AccountChange {
                end_sessions: true,
                ..none
            },
        },
        other => {
            return Err(ApiError::bad_request(format!(
                "`action` is `{other}`: disable, enable, admin, revoke and sessions are allowed"
            )));
        }
    })
}

pub(crate) async fn ask(session: AdminSession, Query(asked): Query<Asked>) -> Page {
    let meaning = meaning(&asked.action)?;
    let content = html! {
        nav .crumbs aria-label="Path" { a href=(HERE) { "Users" } }
        h1 { (meaning.question) }
        p { "User " strong { (name(&asked.user)) } ". " (meaning.consequence) }
        form .row method="post" action={ (HERE) "/change" } {
            input type="hidden" name="user" value=(asked.user);
            input type="hidden" name="action" value=(asked.action);
            button .danger type="submit" { (meaning.button) }
            a .button .quiet href=(HERE) { "Back" }
        }
    };
    Ok(session.framed("Users", &content))
}

pub(crate) async fn change(
    State(app): State<Arc<App>>,
    session: AdminSession,
    Form(asked): Form<Asked>,
) -> Page<Response> {
    let change = meaning(&asked.action)?.change;
    apply(&app, &session, asked.user, change).await
}

async fn apply(
    app: &Arc<App>,
    session: &AdminSession,
    user: String,
    change: AccountChange,
) -> Page<Response> {
    let changed = app.change_account(session.manager(), user, change).await;
    if let Err(error) = changed {
        let said = problem(Some(error.message()));
        let page = show(app, session, 1, &said).await?;
        return Ok((error.status(), page).into_response());
    }
    Ok(Redirect::to(HERE).into_response())
}

#[derive(Deserialize)]
pub(crate) struct Quota {
    user: String,
    open_runs: String,
}

pub(crate) async fn set_quota(
    State(app): State<Arc<App>>,
    session: AdminSession,
    Form(quota): Form<Quota>,
) -> Page<Response> {
    let most = match quota.open_runs.trim() {
        "" => None,
        text => {
            let most = text.parse().map_err(|_| {
                ApiError::bad_request(format!(
                    "`open_runs` is `{text}`: enter a whole number, or nothing for the \
                     server's limit"
                ))
            })?;
            check_open_runs(most)?;
            Some(most)
        }
    };
    let change = AccountChange {
        max_open_runs: Some(most),
        ..AccountChange::default()
    };
    apply(&app, &session, quota.user, change).await
}
