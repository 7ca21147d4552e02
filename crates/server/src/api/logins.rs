//! Login through a browser, with the protocols of both generations of the Python
//! client. A program requests a page, its user confirms there, and the program
//! receives a code, which it exchanges for a token.
//!
//! The later generation waits on a stream of JSON lines (`proxiedAuthorize`). The
//! earlier one listens on its own machine, and the page redirects the user's
//! browser to it.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Json,
    body::{Body, Bytes},
    extract::{Query, State},
    http::{HeaderMap, header},
    response::{IntoResponse, Response},
};
use futures_util::stream;
use serde::Deserialize;
use serde_json::{Value, json};
use url::Url;

use super::{fields::Fields, identity::success};
use crate::{
    accounts::by_token,
    app::App,
    database::{NewToken, Scope, Wanted},
    error::{ApiError, Result},
    logins::{Answer, Code, PATIENCE, Program},
    origin::public_address,
    peer::Peer,
    secret,
};

/// Maximum length of a program's own address, in bytes.
const MAX_ADDRESS: usize = 2048;
/// Interval of the signs of life on a waiting stream.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// Validity of a login's token, in days.
const TOKEN_DAYS: u32 = 90;

fn program(headers: &HeaderMap, peer: Peer) -> Program {
    let name = headers.get(header::USER_AGENT);
    let name = name.and_then(|name| name.to_str().ok());
    Program {
        name: name.unwrap_or("a program").chars().take(80).collect(),
        address: peer.0,
        redirect: None,
    }
}

/// Address of the page that asks the user.
fn page_address(base: &str, id: &str) -> String {
    format!("{base}/console/authorize?request={id}")
}

/// `GET user.identity.proxiedAuthorize`: a stream of JSON lines. The first
/// contains the page's address, the second the code, after the user has
/// confirmed.
pub(crate) async fn proxied(
    State(app): State<Arc<App>>,
    peer: Peer,
    headers: HeaderMap,
) -> Result<Response> {
    let base = public_address(&headers, app.settings.public_url.as_deref())?;
    let id = app.logins.begin(program(&headers, peer))?;
    let redirect = json!({"event": "redirect", "data": {"redirectTo": page_address(&base, &id)}});
    let first = Bytes::from(format!("{redirect}\n"));
    let state = (Some(first), Some((app, id, Instant::now())));
    let lines = stream::unfold(state, |(first, waiting)| async move {
        if let Some(first) = first {
            return Some((Ok::<_, std::convert::Infallible>(first), (None, waiting)));
        }
        let (app, id, since) = waiting?;
        let line = |event: &str, data: Value| {
            let line = json!({"event": event, "data": data});
            Some((Ok(Bytes::from(format!("{line}\n"))), (None, None)))
        };
        let Some((mut changed, answer, state)) = app.logins.follow(&id) else {
            return line("error", json!("this login has expired: log in again"));
        };
        match answer {
            Answer::Open => {}
            Answer::Refused => return line("error", json!("the user refused the login")),
            Answer::Agreed { code, .. } => {
                return line("authorize", json!({"code": code, "state": state}));
            }
        }
        if since.elapsed() >= PATIENCE {
            return line(
                "error",
                json!("the user did not confirm the login in time: log in again"),
            );
        }
        let _ = tokio::time::timeout(KEEP_ALIVE, changed.changed()).await;
        // White space before the next line of JSON keeps the connection open. It
        // is not a line of its own, which the Python client could not read.
        let piece = Bytes::from_static(b" ");
        Some((Ok(piece), (None, Some((app, id, since)))))
    });
    let headers = [
        ("content-type", "application/x-ndjson"),
        // Tells proxies to forward each line at once.
        ("x-accel-buffering", "no"),
    ];
    Ok((headers, Body::from_stream(lines)).into_response())
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Redirect {
    redirect_uri: String,
}

/// `GET user.identity.authorize`: the page's address, for a program that listens
/// on its own machine.
pub(crate) async fn redirected(
    State(app): State<Arc<App>>,
    peer: Peer,
    headers: HeaderMap,
    Query(Redirect { redirect_uri }): Query<Redirect>,
) -> Result<Json<Value>> {
    if redirect_uri.len() > MAX_ADDRESS {
        return Err(ApiError::bad_request(format!(
            "`redirectUri` has {} bytes: at most {MAX_ADDRESS} are allowed",
            redirect_uri.len()
        )));
    }
    let redirect = Url::parse(&redirect_uri).ok().filter(is_own_machine);
    let redirect = redirect.ok_or_else(|| {
        ApiError::bad_request(
            "`redirectUri` must be an address of the program's own machine, such as \
             http://localhost:8085",
        )
    })?;
    let base = public_address(&headers, app.settings.public_url.as_deref())?;
    let id = app.logins.begin(Program {
        redirect: Some(redirect),
        ..program(&headers, peer)
    })?;
    Ok(success(json!({"redirectTo": page_address(&base, &id)})))
}

/// Whether an address is a loopback address. Codes are sent nowhere else.
fn is_own_machine(url: &Url) -> bool {
    let loopback = match url.host() {
        Some(url::Host::Domain(name)) => name == "localhost",
        Some(url::Host::Ipv4(ip)) => ip.is_loopback(),
        Some(url::Host::Ipv6(ip)) => ip.is_loopback(),
        None => false,
    };
    url.scheme() == "http" && loopback
}

#[derive(Deserialize)]
pub(crate) struct GivenCode {
    code: String,
    state: String,
}

/// `POST user.identity.grant.auto`, and `grant.auth0Unified` of the earlier
/// generation: exchanges a code for a token.
pub(crate) async fn grant(
    State(app): State<Arc<App>>,
    peer: Peer,
    Fields(GivenCode { code, state }): Fields<GivenCode>,
) -> Result<Json<Value>> {
    let user_id = app.logins.redeem(&Code { code, state });
    let user_id = user_id.ok_or_else(|| {
        ApiError::unauthenticated("this code was already used or has expired: log in again")
    })?;
    let new = NewToken {
        name: format!("login-{}", secret::new_id()),
        kind: "session",
        scope: Scope::All,
        days: Some(TOKEN_DAYS),
        address: peer.0,
    };
    let token = app.database.add_token(user_id, new).await?;
    let token = token.ok_or_else(|| ApiError::internal(&"a random name is taken"))?;
    let user = by_token(&app, &token, Wanted::Personal, None).await?;
    Ok(success(json!({
        "token": token,
        "user": {"_id": user.person, "name": user.name, "nickname": user.name},
    })))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_sent_only_to_loopback_addresses() {
        for (address, good) in [
            ("http://localhost:8085", true),
            ("http://127.0.0.1:1/x", true),
            ("http://[::1]:1/", true),
            ("https://localhost:8085", false),
            ("http://localhost.example.com", false),
            ("http://10.0.0.1", false),
            ("javascript:alert(1)", false),
        ] {
            assert_eq!(
                is_own_machine(&Url::parse(address).unwrap()),
                good,
                "{address}"
            );
        }
    }
}
