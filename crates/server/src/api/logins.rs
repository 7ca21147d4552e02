//! Logging in through a browser, in the manner of both generations of the
//! Python client. A program asks for a page, its user agrees there, and the
//! program is given a code, which it exchanges for a token.
//!
//! The later generation waits on a stream of JSON lines, `proxiedAuthorize`;
//! the earlier one waits at an address of its own machine, to which the page
//! sends the user's browser.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
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
use tokio::sync::watch;
use url::Url;

use super::{address, fields::Fields, identity::success};
use crate::{
    app::App,
    attempts::network,
    database::{NewToken, Scope, Wanted},
    error::{ApiError, Result},
    peer::Peer,
    secret,
};

/// How long the user may take.
const PATIENCE: Duration = Duration::from_secs(600);
/// How long the code of one who agreed can be exchanged.
const CODE_LIFE: Duration = Duration::from_secs(300);
/// Logins that may wait at once.
const MAX_WAITING: usize = 4096;
/// Logins of one network that may wait at once.
const MAX_OF_NETWORK: usize = 64;
/// The most bytes of an address that a program waits at.
const MAX_ADDRESS: usize = 2048;
/// How often a stream that waits sends something.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// How long the token of a login is good.
const TOKEN_DAYS: u32 = 90;

/// Logins in progress, by the id that is in the page's address.
#[derive(Default)]
pub(crate) struct Logins(Mutex<HashMap<String, Waiting>>);

struct Waiting {
    since: Instant,
    state: String,
    /// The program that asked.
    program: Program,
    answer: Answer,
    /// Wakes the stream.
    changed: watch::Sender<()>,
}

/// A program that asks to be let in.
#[derive(Clone, Debug)]
pub(crate) struct Program {
    /// Its own name for itself.
    pub(crate) name: String,
    /// Its address.
    pub(crate) address: Option<IpAddr>,
    /// Where the browser is to go with the code, where the program waits there.
    pub(crate) redirect: Option<Url>,
}

/// The user's answer.
#[derive(Clone)]
enum Answer {
    Open,
    Refused,
    Agreed {
        code: String,
        user_id: String,
        at: Instant,
    },
}

/// Code that a program exchanges for a token.
#[derive(Clone, Debug)]
pub(crate) struct Code {
    pub(crate) code: String,
    pub(crate) state: String,
}

impl Logins {
    fn all(&self) -> std::sync::MutexGuard<'_, HashMap<String, Waiting>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets those that nobody comes back to.
    pub(crate) fn forget(&self) {
        self.all()
            .retain(|_, login| login.since.elapsed() < PATIENCE + CODE_LIFE);
    }

    fn begin(&self, program: Program) -> Result<String> {
        self.forget();
        let mut all = self.all();
        let from = program.address.map(network);
        let open = |login: &&Waiting| {
            login.since.elapsed() < PATIENCE && matches!(login.answer, Answer::Open)
        };
        let of_network = all
            .values()
            .filter(open)
            .filter(|login| login.program.address.map(network) == from);
        let full = match of_network.count() >= MAX_OF_NETWORK {
            true => Some(format!(
                "{MAX_OF_NETWORK} logins from this network wait for their users"
            )),
            false => (all.len() >= MAX_WAITING)
                .then(|| format!("{MAX_WAITING} logins wait for their users")),
        };
        if let Some(full) = full {
            let message = format!("{full}: finish one of them, or try again in a minute");
            return Err(ApiError::too_many(message, 60));
        }
        let id = secret::new_id();
        all.insert(
            id.clone(),
            Waiting {
                since: Instant::now(),
                state: secret::new_id(),
                program,
                answer: Answer::Open,
                changed: watch::channel(()).0,
            },
        );
        Ok(id)
    }

    /// The program that waits for an answer; none where nobody does.
    pub(crate) fn program(&self, id: &str) -> Option<Program> {
        let all = self.all();
        let login = all.get(id)?;
        let open = matches!(login.answer, Answer::Open) && login.since.elapsed() < PATIENCE;
        open.then(|| login.program.clone())
    }

    /// The user has said yes or no. Returns what the program exchanges; none
    /// where it does not wait or was refused.
    pub(crate) fn answer(&self, id: &str, user_id: Option<String>) -> Option<Code> {
        let mut all = self.all();
        let login = all.get_mut(id)?;
        if !matches!(login.answer, Answer::Open) || login.since.elapsed() >= PATIENCE {
            return None;
        }
        let code = user_id.map(|user_id| {
            let code = secret::new_token();
            login.answer = Answer::Agreed {
                code: code.clone(),
                user_id,
                at: Instant::now(),
            };
            Code {
                code,
                state: login.state.clone(),
            }
        });
        if code.is_none() {
            login.answer = Answer::Refused;
        }
        // Nobody may be waiting any more.
        let _ = login.changed.send(());
        code
    }

    /// Whose code this is. It is good once.
    fn redeem(&self, code: &Code) -> Option<String> {
        let mut all = self.all();
        let found = all.iter().find_map(|(id, login)| match &login.answer {
            Answer::Agreed {
                code: given,
                user_id,
                at,
            } if *given == code.code && login.state == code.state && at.elapsed() < CODE_LIFE => {
                Some((id.clone(), user_id.clone()))
            }
            _ => None,
        });
        let (id, user_id) = found?;
        all.remove(&id);
        Some(user_id)
    }

    fn follow(&self, id: &str) -> Option<(watch::Receiver<()>, Answer, String)> {
        let all = self.all();
        let login = all.get(id)?;
        let (answer, state) = (login.answer.clone(), login.state.clone());
        Some((login.changed.subscribe(), answer, state))
    }
}

fn program(headers: &HeaderMap, peer: Peer) -> Program {
    let name = headers.get(header::USER_AGENT);
    let name = name.and_then(|name| name.to_str().ok());
    Program {
        name: name.unwrap_or("a program").chars().take(80).collect(),
        address: peer.0,
        redirect: None,
    }
}

/// The page where the user is asked.
fn page(base: &str, id: &str) -> String {
    format!("{base}/console/authorize?request={id}")
}

/// `GET user.identity.proxiedAuthorize`: a stream of JSON lines, the page's
/// address and then, when the user has agreed, what to exchange for a token.
pub(crate) async fn proxied(
    State(app): State<Arc<App>>,
    peer: Peer,
    headers: HeaderMap,
) -> Result<Response> {
    let base = address(&headers)?;
    let id = app.logins.begin(program(&headers, peer))?;
    let redirect = json!({"event": "redirect", "data": {"redirectTo": page(&base, &id)}});
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
            return line("error", json!("this login has ended"));
        };
        match answer {
            Answer::Open => {}
            Answer::Refused => return line("error", json!("the user has refused")),
            Answer::Agreed { code, .. } => {
                return line("authorize", json!({"code": code, "state": state}));
            }
        }
        if since.elapsed() >= PATIENCE {
            return line("error", json!("nobody has agreed in time"));
        }
        let _ = tokio::time::timeout(KEEP_ALIVE, changed.changed()).await;
        // White space before the next line of JSON: it keeps the connection open
        // and is no line of its own, which the Python client could not read.
        let piece = Bytes::from_static(b" ");
        Some((Ok(piece), (None, Some((app, id, since)))))
    });
    let headers = [
        ("content-type", "application/x-ndjson"),
        // Proxies pass each line on at once.
        ("x-accel-buffering", "no"),
    ];
    Ok((headers, Body::from_stream(lines)).into_response())
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Redirect {
    redirect_uri: String,
}

/// `GET user.identity.authorize`: the page's address, for a program that waits
/// at one of its own machine.
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
    let base = address(&headers)?;
    let id = app.logins.begin(Program {
        redirect: Some(redirect),
        ..program(&headers, peer)
    })?;
    Ok(success(json!({"redirectTo": page(&base, &id)})))
}

/// Codes go nowhere else.
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
/// generation: a token for a code.
pub(crate) async fn grant(
    State(app): State<Arc<App>>,
    peer: Peer,
    Fields(GivenCode { code, state }): Fields<GivenCode>,
) -> Result<Json<Value>> {
    let user_id = app.logins.redeem(&Code { code, state });
    let user_id = user_id.ok_or_else(|| {
        ApiError::unauthenticated("this code was used, or has ended: log in again")
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
    let user = super::auth::by_token(&app, &token, Wanted::Personal, None).await?;
    Ok(success(json!({
        "token": token,
        "user": {"_id": user.person, "name": user.name, "nickname": user.name},
    })))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asking() -> Program {
        Program {
            name: "test".to_owned(),
            address: None,
            redirect: None,
        }
    }

    #[test]
    fn a_code_is_valid_once_and_only_with_its_state() {
        let logins = Logins::default();
        let id = logins.begin(asking()).unwrap();
        assert_eq!(logins.program(&id).unwrap().name, "test");
        let code = logins.answer(&id, Some("ada".to_owned())).unwrap();
        assert!(logins.program(&id).is_none(), "the login was answered");
        assert!(logins.answer(&id, Some("eve".to_owned())).is_none());
        let wrong = Code {
            state: "other".to_owned(),
            ..code.clone()
        };
        assert_eq!(logins.redeem(&wrong), None);
        assert_eq!(logins.redeem(&code).as_deref(), Some("ada"));
        assert_eq!(logins.redeem(&code), None);
        let id = logins.begin(asking()).unwrap();
        assert!(logins.answer(&id, None).is_none());
        assert!(logins.answer(&id, Some("ada".to_owned())).is_none());
    }

    fn asking_from(address: &str) -> Program {
        Program {
            address: Some(address.parse().unwrap()),
            ..asking()
        }
    }

    #[test]
    fn one_network_can_not_use_up_all_waiting_logins() {
        let logins = Logins::default();
        let ids: Vec<String> = (0..MAX_OF_NETWORK)
            .map(|_| logins.begin(asking_from("192.0.2.1")).unwrap())
            .collect();
        let error = logins.begin(asking_from("192.0.2.1")).unwrap_err();
        assert!(error.message().contains("from this network"));
        logins.begin(asking_from("192.0.2.2")).unwrap();
        // An answered login no longer counts.
        logins.answer(&ids[0], None);
        logins.begin(asking_from("192.0.2.1")).unwrap();
    }

    #[test]
    fn the_number_of_waiting_logins_is_limited() {
        let logins = Logins::default();
        for n in 0..MAX_WAITING {
            let address = format!("10.0.{}.{}", n / 256, n % 256);
            logins.begin(asking_from(&address)).unwrap();
        }
        assert!(logins.begin(asking_from("192.0.2.1")).is_err());
    }

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
