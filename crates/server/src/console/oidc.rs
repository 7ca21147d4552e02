//! Pages for sign-in through the OpenID Connect provider. At the first sign-in,
//! the user creates an account, or links an existing one with its password.

use std::sync::Arc;

use axum::{
    Form,
    extract::{Query, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Redirect, Response},
};
use finetuner_protocol::check_name;
use maud::{Markup, html};
use serde::Deserialize;

use super::{
    cookies::{add_cookie, cookie},
    failure::{Failure, Page},
    frame::document,
    session::Session,
    sign_in::{form, local, note_failure, open},
    words::visible,
};
use crate::{
    accounts,
    app::App,
    attempts::Candidate,
    database::Linked,
    error::{ApiError, Result},
    oidc::{Arrival, Oidc, Subject, Waiting},
    peer::Peer,
};

/// Name of the sign-in cookie. It contains the state of the sign-in, and during
/// the choice of an account the key of the choice.
const COOKIE: &str = "finetuner_oidc";
/// Lifetime of the cookie in seconds.
const AGE: u32 = 600;

fn provider(app: &App) -> Result<&Oidc> {
    app.oidc.as_ref().ok_or_else(|| {
        ApiError::not_found("this server has no sign-in provider: sign in with a password")
    })
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct StartQuery {
    next: String,
    /// `yes` to link an existing account.
    link: String,
}

/// Redirects to the provider.
pub(crate) async fn start(
    State(app): State<Arc<App>>,
    peer: Peer,
    headers: HeaderMap,
    Query(asked): Query<StartQuery>,
) -> Page<Response> {
    let next = local(&asked.next).to_owned();
    let begun = provider(&app)?
        .begin(next, asked.link == "yes", peer.0)
        .await;
    let departure = match begun {
        Ok(departure) => departure,
        Err(error) => return Ok(form(&app, &asked.next, "", Some(&error))),
    };
    let mut answer = Redirect::to(departure.url.as_str()).into_response();
    add_cookie(&headers, &mut answer, COOKIE, &departure.state, AGE);
    Ok(answer)
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct Answered {
    state: String,
    code: String,
    iss: String,
    error: String,
}

/// The redirect URI: handles the provider's answer.
pub(crate) async fn callback(
    State(app): State<Arc<App>>,
    peer: Peer,
    headers: HeaderMap,
    Query(answered): Query<Answered>,
) -> Page<Response> {
    match arrived(&app, peer, &headers, &answered).await {
        Ok(answer) => Ok(answer),
        Err(failure) => {
            let error = failure.error();
            let mut answer = form(&app, "", "", Some(error));
            add_cookie(&headers, &mut answer, COOKIE, "", 0);
            Ok(answer)
        }
    }
}

async fn arrived(
    app: &Arc<App>,
    peer: Peer,
    headers: &HeaderMap,
    answered: &Answered,
) -> Page<Response> {
    let oidc = provider(app)?;
    // The cookie must match the state, so that nobody completes another browser's
    // sign-in.
    let own = cookie(headers, COOKIE).filter(|own| !own.is_empty() && *own == answered.state);
    let state = own.ok_or_else(|| {
        ApiError::unauthenticated("this sign-in was not started in this browser: sign in again")
    })?;
    if !answered.error.is_empty() {
        oidc.abandon(state);
        let said: String = answered.error.chars().take(100).collect();
        let reason = format!("the sign-in did not succeed: the provider says `{said}`");
        return Err(ApiError::unauthenticated(reason).into());
    }
    let arrival = oidc.finish(state, &answered.code, &answered.iss).await?;
    let Arrival { who, next, links } = arrival;
    match app.database.user_of_identity(&who).await? {
        Some(_) if links => {
            return Err(ApiError::conflict(
                "this account of the provider is already linked: sign in with it",
            )
            .into());
        }
        Some((_, true)) => {
            return Err(ApiError::forbidden(
                "this account is disabled: ask the operator of this server",
            )
            .into());
        }
        Some((user_id, false)) => return enter(app, peer, headers, &who, user_id, &next).await,
        None => {}
    }
    let name = who.names.iter().find(|name| is_name(name));
    if let Some(name) = name.filter(|_| !links) {
        let added = app
            .database
            .add_user_of_identity(name.clone(), &who, peer.0);
        if let (Linked::Yes, user_id) = added.await? {
            return enter(app, peer, headers, &who, user_id, &next).await;
        }
    }
    let key = oidc.wait(who, next, peer.0)?;
    let mut answer = Redirect::to("/console/oidc/account").into_response();
    add_cookie(headers, &mut answer, COOKIE, &key, AGE);
    Ok(answer)
}

fn is_name(name: &str) -> bool {
    check_name("name", name).is_ok()
}

/// Returns the pending choice of an account in this browser, and its key.
fn waiting<'a>(app: &App, headers: &'a HeaderMap) -> Result<(&'a str, Waiting)> {
    let oidc = provider(app)?;
    let key = cookie(headers, COOKIE).unwrap_or_default();
    let waiting = oidc.waiting(key).ok_or_else(ended)?;
    Ok((key, waiting))
}

fn ended() -> ApiError {
    ApiError::unauthenticated("this sign-in has ended: sign in again")
}

/// Shows the choice of an account: link an existing one or create a new one.
pub(crate) async fn account(State(app): State<Arc<App>>, headers: HeaderMap) -> Page<Response> {
    match waiting(&app, &headers) {
        Ok((_, waiting)) => {
            let name = waiting.who.names.first().map_or("", String::as_str);
            Ok(choice(&app, name, None).into_response())
        }
        Err(error) => Ok(form(&app, "", "", Some(&error))),
    }
}

fn choice(app: &App, name: &str, problem: Option<&str>) -> Markup {
    let provider = app.oidc.as_ref().map_or("", Oidc::name);
    let body = html! {
        main .narrow {
            h1 { "Choose your account" }
            @if let Some(problem) = problem {
                p .problem .message role="alert" { (visible(problem)) }
            }
            p { "No account of this server is linked to your account at " (visible(provider)) " yet." }
            h2 { "Link an existing account" }
            form method="post" action="/console/oidc/account/link" .stacked {
                label for="name" { "Name" }
                input id="name" name="name" value=(name) required autocomplete="username"
                    autocapitalize="none";
                label for="password" { "Password" }
                input id="password" name="password" type="password" required
                    autocomplete="current-password";
                button type="submit" { "Link this account" }
            }
            h2 { "Or create a new account" }
            form method="post" action="/console/oidc/account/create" .stacked {
                label for="new" { "Name" }
                input id="new" name="name" required maxlength="255" autocapitalize="none"
                    autocomplete="off";
                button .quiet type="submit" { "Create an account" }
            }
        }
    };
    document("Choose your account", &body)
}

#[derive(Deserialize)]
pub(crate) struct NewName {
    name: String,
}

/// Creates an account with the submitted name.
pub(crate) async fn create(
    State(app): State<Arc<App>>,
    peer: Peer,
    headers: HeaderMap,
    Form(NewName { name }): Form<NewName>,
) -> Page<Response> {
    let (key, waiting) = waiting(&app, &headers)?;
    let name = name.trim().to_owned();
    let refused = |status: StatusCode, reason: &str| {
        (status, choice(&app, &name, Some(reason))).into_response()
    };
    if let Err(error) = check_name("name", &name) {
        return Ok(refused(
            StatusCode::UNPROCESSABLE_ENTITY,
            &error.to_string(),
        ));
    }
    // Consume the key before writing, so that one key creates at most one
    // account.
    if !provider(&app)?.chosen(key) {
        return Err(ended().into());
    }
    let added = app
        .database
        .add_user_of_identity(name.clone(), &waiting.who, peer.0);
    match added.await? {
        (Linked::Yes, user_id) => {
            enter(&app, peer, &headers, &waiting.who, user_id, &waiting.next).await
        }
        (Linked::NameTaken, _) => {
            let key = provider(&app)?.wait(waiting.who, waiting.next, peer.0)?;
            let reason =
                "an account with this name exists already: choose another name, or link it";
            let mut answer = refused(StatusCode::CONFLICT, reason);
            add_cookie(&headers, &mut answer, COOKIE, &key, AGE);
            Ok(answer)
        }
        (Linked::Already, _) => Err(already()),
    }
}

#[derive(Deserialize)]
pub(crate) struct Credentials {
    name: String,
    password: String,
}

/// Links an existing account if the password is correct.
pub(crate) async fn link(
    State(app): State<Arc<App>>,
    peer: Peer,
    headers: HeaderMap,
    Form(given): Form<Credentials>,
) -> Page<Response> {
    let (key, _) = waiting(&app, &headers)?;
    let name = given.name.trim().to_owned();
    let refused = |error: &ApiError| {
        let mut answer =
            (error.status(), choice(&app, &name, Some(error.message()))).into_response();
        if let Some(seconds) = error.retry_after() {
            let seconds = HeaderValue::from(seconds);
            answer.headers_mut().insert(header::RETRY_AFTER, seconds);
        }
        answer
    };
    let attempt = app.attempts.begin(&Candidate {
        user: &name,
        address: peer.0,
        device: None,
    });
    let attempt = match attempt {
        Ok(attempt) => attempt,
        Err(error) => return Ok(refused(&error)),
    };
    let waiting = provider(&app)?.try_once(key).ok_or_else(ended)?;
    let checked = match accounts::check_password(&app, name.clone(), given.password).await {
        Ok(checked) => checked,
        Err(error) => {
            attempt.undecided();
            return Ok(refused(&error));
        }
    };
    let Some(user_id) = checked else {
        note_failure(&app, &name, peer).await?;
        let reason = "the name or the password is wrong";
        return Ok(refused(&ApiError::unauthenticated(reason)));
    };
    attempt.right();
    if !provider(&app)?.chosen(key) {
        return Err(ended().into());
    }
    match app
        .database
        .link_identity(user_id.clone(), &waiting.who, peer.0)
        .await?
    {
        Linked::Yes => enter(&app, peer, &headers, &waiting.who, user_id, &waiting.next).await,
        Linked::NameTaken | Linked::Already => Err(already()),
    }
}

fn already() -> Failure {
    ApiError::conflict("this account of the provider was linked meanwhile: sign in with it").into()
}

/// Opens the session and redirects to the requested page.
async fn enter(
    app: &App,
    peer: Peer,
    headers: &HeaderMap,
    who: &Subject,
    user_id: String,
    next: &str,
) -> Page<Response> {
    if who.is_admin {
        let admitted = app.database.admit_admin(user_id.clone(), who, peer.0);
        admitted.await?;
    }
    let mut answer = open(app, peer, headers, user_id, next).await?;
    add_cookie(headers, &mut answer, COOKIE, "", 0);
    Ok(answer)
}

/// Renders the account page's section about the provider.
pub(super) async fn section(app: &App, session: &Session) -> Page {
    let Some(oidc) = &app.oidc else {
        return Ok(html! {});
    };
    let linked = app.database.identities(session.user.person.clone()).await?;
    Ok(html! {
        h2 { "Sign-in provider" }
        @if linked.is_empty() {
            p { "Your account is not linked to " (visible(oidc.name())) ". Linking asks for your password." }
            @if session.is_full() {
                p { a .button .quiet href="/console/oidc/start?link=yes&next=/console/account" {
                    "Link to " (visible(oidc.name()))
                } }
            }
        } @else {
            p { "Your account is linked to " (visible(oidc.name())) "." }
            @if session.is_full() {
                p { a .button .quiet href="/console/oidc/unlink" { "End the link" } }
            }
        }
    })
}

pub(crate) async fn ask_to_unlink(State(app): State<Arc<App>>, session: Session) -> Page {
    session.must_be_full()?;
    let provider = provider(&app)?.name();
    let content = html! {
        h1 { "End the link?" }
        p { "You can't sign in through " (visible(provider)) " any more. A password or a token is "
            "needed to sign in again." }
        form .row method="post" {
            button .danger type="submit" { "End the link" }
            a .button .quiet href="/console/account" { "Back" }
        }
    };
    Ok(super::frame::page(&session, "", "End the link?", &content))
}

pub(crate) async fn unlink(State(app): State<Arc<App>>, session: Session) -> Page<Redirect> {
    session.must_be_full()?;
    app.database.unlink_identities(session.user).await?;
    Ok(Redirect::to("/console/account"))
}
