//! Sign-in, sign-out, passwords, and granting access to programs.

use std::sync::Arc;

use axum::{
    Form,
    extract::{Query, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Redirect, Response},
};
use maud::{Markup, html};
use serde::Deserialize;

use super::{
    cookies::{COOKIE, add_cookie, cookie},
    failure::{Failure, Page},
    frame::{document, page as shown},
    guard::POLICY,
    session::Session,
    words::{name as shown_name, query, visible},
};
use crate::{
    accounts::{self, by_token},
    app::App,
    attempts::Candidate,
    database::{Actor, NewToken, Scope, Wanted},
    error::ApiError,
    peer::Peer,
    secret,
};

/// Lifetime of a browser session in days.
const SESSION_DAYS: u32 = 7;
/// Name of the cookie that marks a browser from which a user has signed in
/// before.
const DEVICE_COOKIE: &str = "finetuner_device";
/// Number of days for which the browser is recognised.
const DEVICE_DAYS: u32 = 365;

#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct SignInQuery {
    next: String,
    code: String,
    /// `yes` after a sign-out.
    out: String,
}

/// Renders the sign-in page. A valid code in the URL signs the user in directly.
pub(crate) async fn page(
    State(app): State<Arc<App>>,
    peer: Peer,
    headers: HeaderMap,
    Query(asked): Query<SignInQuery>,
) -> Page<Response> {
    if !asked.code.is_empty() {
        return match accounts::redeem_code(&app, &asked.code) {
            Some(user_id) => open(&app, peer, &headers, user_id, "/console/").await,
            None => {
                let reason = "this link has expired or was used already";
                let error = ApiError::unauthenticated(reason);
                Ok(form(&app, &asked.next, "", Some(&error)))
            }
        };
    }
    let said = match asked.out.as_str() {
        "yes" => signed_out(&app),
        _ => html! {},
    };
    Ok(form_with(&app, &said, &asked.next, "", None))
}

/// Renders the confirmation of a sign-out. The session at the provider stays
/// open.
fn signed_out(app: &App) -> Markup {
    let oidc = app.oidc.as_ref();
    let provider = oidc.and_then(|oidc| Some((oidc.name(), oidc.sign_out_page()?)));
    html! {
        p .done role="status" {
            "You have signed out."
            @if let Some((name, page)) = provider {
                " Your session at " (visible(name)) " is still open. "
                a href=(page) rel="noreferrer" { "Sign out there too" } "."
            }
        }
    }
}

/// Renders the sign-in form with the submitted name and the error.
pub(super) fn form(app: &App, next: &str, name: &str, problem: Option<&ApiError>) -> Response {
    form_with(app, &html! {}, next, name, problem)
}

fn form_with(
    app: &App,
    said: &Markup,
    next: &str,
    name: &str,
    problem: Option<&ApiError>,
) -> Response {
    let provider = app.oidc.as_ref().map(|oidc| {
        let address = format!("/console/oidc/start{}", query(&[("next", next)]));
        (visible(oidc.name()), address)
    });
    let body = html! {
        main .narrow {
            h1 { "Sign in to finetuner" }
            (said)
            @if let Some(problem) = problem {
                p .problem .message role="alert" { (problem.message()) }
            }
            @if let Some((name, address)) = &provider {
                p { a .button href=(address) { "Sign in with " (name) } }
                p .hint { "Or with a password or a token of this server:" }
            }
            form method="post" action="/console/signin" .stacked {
                input type="hidden" name="next" value=(next);
                label for="name" { "Name" }
                input id="name" name="name" value=(name) autocomplete="username" autocapitalize="none";
                label for="password" { "Password, or a token (leave the name empty)" }
                input id="password" name="password" type="password" required
                    autocomplete="current-password";
                button type="submit" { "Sign in" }
            }
            p .hint {
                "The operator of this server creates tokens with " code { "finetuner-server token" }
                " and sets passwords with " code { "finetuner-server user password" } "."
            }
        }
    };
    let status = problem.map_or(StatusCode::OK, ApiError::status);
    let mut answer = (status, document("Sign in", &body)).into_response();
    if let Some(seconds) = problem.and_then(ApiError::retry_after) {
        let seconds = HeaderValue::from(seconds);
        answer.headers_mut().insert(header::RETRY_AFTER, seconds);
    }
    answer
}

#[derive(Deserialize)]
pub(crate) struct SignIn {
    #[serde(default)]
    name: String,
    password: String,
    #[serde(default)]
    next: String,
}

pub(crate) async fn sign_in(
    State(app): State<Arc<App>>,
    peer: Peer,
    headers: HeaderMap,
    Form(given): Form<SignIn>,
) -> Page<Response> {
    let next = local(&given.next);
    let name = given.name.trim().to_owned();
    let password = given.password.trim();
    if name.is_empty() {
        // Checked before failed attempts are counted: tokens can't be guessed, so
        // failures of others must not lock out a valid one.
        match by_token(&app, password, Wanted::Personal, peer.0).await {
            Ok(user) if user.scope == Scope::Read => {
                // The browser keeps the token itself, because a new session would have
                // full access.
                return Ok(with_cookie(&headers, password, Redirect::to(next)));
            }
            Ok(user) => return open(&app, peer, &headers, user.person, next).await,
            Err(error) if error.status() == StatusCode::UNAUTHORIZED => {}
            Err(error) => return Err(error.into()),
        }
    }
    let device = cookie(&headers, DEVICE_COOKIE);
    let attempt = app.attempts.begin(&Candidate {
        user: &name,
        address: peer.0,
        device: device.and_then(|cookie| accounts::known_device(&app, &name, cookie)),
    });
    let attempt = match attempt {
        Ok(attempt) => attempt,
        Err(error) => return Ok(form(&app, &given.next, &name, Some(&error))),
    };
    if !name.is_empty() {
        let checked = accounts::check_password(&app, name.clone(), given.password.clone()).await;
        let checked = match checked {
            Ok(checked) => checked,
            Err(error) => {
                attempt.undecided();
                return Ok(form(&app, &given.next, &name, Some(&error)));
            }
        };
        if let Some(user_id) = checked {
            attempt.right();
            let mut answer = open(&app, peer, &headers, user_id, next).await?;
            let device = accounts::device_cookie(&app, &name);
            let age = DEVICE_DAYS * 86400;
            add_cookie(&headers, &mut answer, DEVICE_COOKIE, &device, age);
            return Ok(answer);
        }
    }
    note_failure(&app, &name, peer).await?;
    let wrong = ApiError::unauthenticated(match name.is_empty() {
        true => "the token is wrong or has expired; with a password, enter your name as well",
        false => "the name or the password is wrong",
    });
    Ok(form(&app, &given.next, &name, Some(&wrong)))
}

/// Records a failed sign-in in the audit log. Unknown names are omitted, because
/// users sometimes type a password there.
pub(super) async fn note_failure(app: &App, name: &str, peer: Peer) -> Result<(), ApiError> {
    let known = app.database.has_user(name.to_owned()).await?;
    let actor = match known {
        true => Actor::user(name, peer.0),
        false => Actor::user("(unknown)", peer.0),
    };
    let noted = app.database.note(actor, "signin.failed", String::new());
    Ok(noted.await?)
}

/// Returns the page to go to after the sign-in. Only pages of the console are
/// allowed.
pub(super) fn local(next: &str) -> &str {
    match next.starts_with("/console/") && !next.contains(['\\', '\r', '\n']) {
        true => next,
        false => "/console/",
    }
}

/// Opens a session and redirects to the next page.
pub(super) async fn open(
    app: &App,
    peer: Peer,
    headers: &HeaderMap,
    user_id: String,
    next: &str,
) -> Page<Response> {
    let new = NewToken {
        name: format!("browser-{}", secret::new_id()),
        kind: "session",
        scope: Scope::All,
        days: Some(SESSION_DAYS),
        address: peer.0,
    };
    let token = app.database.add_token(user_id, new).await?;
    let token = token.ok_or_else(|| ApiError::internal(&"a random name is taken"))?;
    Ok(with_cookie(headers, &token, Redirect::to(next)))
}

fn with_cookie(headers: &HeaderMap, token: &str, answer: impl IntoResponse) -> Response {
    let mut answer = answer.into_response();
    add_cookie(headers, &mut answer, COOKIE, token, SESSION_DAYS * 86400);
    answer
}

pub(crate) async fn sign_out(
    State(app): State<Arc<App>>,
    peer: Peer,
    headers: HeaderMap,
) -> Page<Response> {
    if let Some(token) = cookie(&headers, COOKIE) {
        app.database
            .end_session(secret::hash(token), peer.0)
            .await?;
        app.changes.notify_all();
    }
    let mut answer = Redirect::to("/console/signin?out=yes").into_response();
    let gone = format!("{COOKIE}=; Path=/; HttpOnly; SameSite=Lax; Max-Age=0");
    if let Ok(gone) = HeaderValue::from_str(&gone) {
        answer.headers_mut().insert(header::SET_COOKIE, gone);
    }
    Ok(answer)
}

fn password_form(session: &Session, problem: Option<&str>) -> Markup {
    let content = html! {
        h1 { "Password" }
        @if let Some(problem) = problem { p .problem .message role="alert" { (problem) } }
        p { "With a password you can sign in here as " b { (shown_name(&session.user.name)) } "." }
        form method="post" .stacked {
            label for="password" { "New password, at least 8 characters" }
            input id="password" name="password" type="password" required minlength="8"
                autocomplete="new-password";
            button type="submit" { "Change password" }
        }
        p .hint { "This signs you out in all browsers, including this one." }
    };
    shown(session, "", "Password", &content)
}

pub(crate) async fn password(session: Session) -> Page {
    session.must_be_full()?;
    Ok(password_form(&session, None))
}

#[derive(Deserialize)]
pub(crate) struct NewPassword {
    password: String,
}

pub(crate) async fn set_password(
    State(app): State<Arc<App>>,
    session: Session,
    Form(NewPassword { password }): Form<NewPassword>,
) -> Page<Response> {
    session.must_be_full()?;
    let hash = move || accounts::hash_password(&password);
    let hash = match app.gates.passwords.run("", hash).await? {
        Ok(hash) => hash,
        Err(reason) => {
            let page = password_form(&session, Some(&reason));
            return Ok((StatusCode::UNPROCESSABLE_ENTITY, page).into_response());
        }
    };
    let name = session.user.name.clone();
    let by = Actor::user(&name, session.user.address);
    app.database.set_password(by, name, hash).await?;
    // Wake open streams, so that those of ended sessions close.
    app.changes.notify_all();
    Ok(Redirect::to("/console/signin").into_response())
}

#[derive(Deserialize)]
pub(crate) struct Asked {
    request: String,
}

/// Asks the user whether to grant a program access.
pub(crate) async fn consent(
    State(app): State<Arc<App>>,
    session: Session,
    Query(Asked { request }): Query<Asked>,
) -> Page<Response> {
    session.must_be_full()?;
    let program = app.logins.program(&request).ok_or_else(ended)?;
    let content = html! {
        h1 { "Authorize this program?" }
        p {
            "A program named " b { (shown_name(&program.name)) }
            @if let Some(address) = program.address { " at " b { (address) } }
            " asks for access. It gets a token with full access to the account of "
            b { (shown_name(&session.user.name)) } ", for 90 days or until you delete the token."
        }
        p .problem { "Authorize it only if you have just started this program yourself." }
        form method="post" .row {
            input type="hidden" name="request" value=(request);
            button name="answer" value="yes" type="submit" { "Authorize" }
            button .quiet name="answer" value="no" type="submit" { "Deny" }
        }
    };
    let mut answer = shown(&session, "", "Authorize a program", &content).into_response();
    if let Some(redirect) = &program.redirect {
        // The form redirects to the program, and browsers apply `form-action` to
        // redirects.
        let origin = redirect.origin().ascii_serialization();
        let policy = POLICY.replace(
            "form-action 'self'",
            &format!("form-action 'self' {origin}"),
        );
        if let Ok(policy) = HeaderValue::from_str(&policy) {
            let name = header::CONTENT_SECURITY_POLICY;
            answer.headers_mut().insert(name, policy);
        }
    }
    Ok(answer)
}

fn ended() -> Failure {
    ApiError::not_found("this request has ended: start the login of the program again").into()
}

#[derive(Deserialize)]
pub(crate) struct Answered {
    request: String,
    answer: String,
}

pub(crate) async fn answer(
    State(app): State<Arc<App>>,
    session: Session,
    Form(Answered { request, answer }): Form<Answered>,
) -> Page<Response> {
    session.must_be_full()?;
    let program = app.logins.program(&request).ok_or_else(ended)?;
    let agreed = (answer == "yes").then(|| session.user.person.clone());
    let code = app.logins.answer(&request, agreed);
    let content = match (code, program.redirect) {
        (None, _) => html! { h1 { "Denied" } p { "The program gets no access." } },
        (Some(_), None) => html! {
            h1 { "Done" }
            p { "The program has access now. You can close this page." }
        },
        (Some(code), Some(redirect)) => html! {
            h1 { "Done" }
            p { "Continue to the program on your machine." }
            form method="post" action=(redirect) data-submit="" {
                input type="hidden" name="code" value=(code.code);
                input type="hidden" name="state" value=(code.state);
                button type="submit" { "Continue" }
            }
        },
    };
    let mut answer = shown(&session, "", "Authorize a program", &content).into_response();
    let policy = POLICY.replace(
        "form-action 'self'",
        "form-action 'self' http://localhost:* http://127.0.0.1:*",
    );
    if let Ok(policy) = HeaderValue::from_str(&policy) {
        let name = header::CONTENT_SECURITY_POLICY;
        answer.headers_mut().insert(name, policy);
    }
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signing_in_redirects_only_to_console_pages() {
        assert_eq!(local("/console/data?page=2"), "/console/data?page=2");
        for other in [
            "https://evil.example",
            "//evil.example",
            "/\\evil",
            "",
            "/console/\r\nx",
        ] {
            assert_eq!(local(other), "/console/", "{other:?}");
        }
    }
}
