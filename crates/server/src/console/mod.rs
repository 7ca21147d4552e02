//! The console: what the server does, in a browser. HTML is made here, and
//! everything is there without JavaScript; a little script of our own follows
//! what is live. Nothing comes from another host.

mod account;
mod admin;
mod annotations;
mod chart;
mod compare;
mod data;
mod experiments;
mod frame;
mod guides;
mod mail;
mod metrics;
mod oidc;
mod project_form;
mod projects;
mod queue;
mod run;
mod runs;
mod sign_in;
mod snippets;
mod start;
mod state;
mod tokens;
mod try_it;
mod webhooks;
mod words;

use std::sync::Arc;

use axum::{
    Router,
    body::Body,
    extract::{DefaultBodyLimit, FromRequestParts, Request, State},
    http::{HeaderMap, HeaderValue, Method, StatusCode, header, request::Parts},
    middleware::{self, Next},
    response::{IntoResponse, Redirect, Response},
    routing::{MethodRouter, any, get, post},
};

use crate::{
    api::{self, by_token},
    app::App,
    database::{Identity, Role, Scope, Wanted},
    error::ApiError,
    peer::Peer,
};
use frame::{Failure, Page};
use project_form::{Nothing, ProjectForm};

/// The cookie with the session's token.
const COOKIE: &str = "finetuner_session";

/// What a page may load and where its forms may go: this server alone.
const POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; \
                      connect-src 'self'; form-action 'self'; base-uri 'none'; \
                      frame-ancestors 'none'";

/// The routes of the console.
pub(crate) fn router(app: &Arc<App>) -> Router<Arc<App>> {
    let run = "/console/experiments/{experiment}/runs/{run}";
    Router::new()
        .route("/console/", get(experiments::page))
        .route("/console", get(async || Redirect::to("/console/")))
        .route("/console/experiments/{experiment}", get(runs::page))
        .route(run, get(run::page))
        .route(&format!("{run}/live"), get(run::live))
        .route(
            &format!("{run}/cancel"),
            get(run::ask_to_cancel).post(run::cancel),
        )
        .route(
            &format!("{run}/delete"),
            get(run::ask_to_delete).post(run::delete),
        )
        .route(
            &format!("{run}/clone"),
            get(run::clone_form).post(run::clone),
        )
        .route(
            &format!("{run}/continue"),
            get(run::continue_form).post(run::go_on),
        )
        .route(
            &format!("{run}/share"),
            get(run::list_shares).post(run::create_share),
        )
        .route(&format!("{run}/share/revoke"), post(run::revoke_share))
        .route("/share/{key}", get(run::shared_page))
        .route("/share/{key}/picture", get(run::shared_picture))
        .route("/share/{key}/download", get(run::shared_download))
        .route(
            &format!("{run}/annotations"),
            get(annotations::run_form).post(annotations::save_run),
        )
        .route(
            &format!("{run}/try"),
            get(try_it::page)
                .post(try_it::search)
                .layer(DefaultBodyLimit::max(try_it::MAX_FORM)),
        )
        .route("/console/runs", get(runs::all))
        .route("/console/runs/csv", get(runs::csv))
        .route("/console/runs/selected", post(runs::act))
        .route("/console/compare", get(compare::page))
        .route("/console/start", get(start::form).post(start::start))
        .route("/console/queue", get(queue::page))
        .route("/console/data", get(data::list))
        .route(
            "/console/data/new",
            get(data::upload_form)
                .post(data::upload)
                .layer(DefaultBodyLimit::disable()),
        )
        .route("/console/data/{id}", get(data::page))
        .route("/console/data/{id}/picture", get(data::picture))
        .route("/console/data/{id}/download", get(data::download))
        .route(
            "/console/projects",
            get(projects::list).post(projects::create),
        )
        .route("/console/projects/switch", post(projects::switch))
        .route("/console/project", get(projects::page))
        .route("/console/project/members", post(projects::set_member))
        .route(
            "/console/project/members/remove",
            get(projects::ask_to_remove).post(projects::remove_member),
        )
        .route(
            "/console/project/delete",
            get(projects::ask_to_delete).post(projects::delete),
        )
        .route(
            "/console/data/{id}/annotations",
            get(annotations::artifact_form).post(annotations::save_artifact),
        )
        .route("/console/account", get(account::show))
        .route("/console/tokens", get(tokens::list).post(tokens::create))
        .route("/console/tokens/delete", post(tokens::delete))
        .route("/console/mail", get(mail::show).post(mail::put))
        .route("/console/mail/confirm", post(mail::confirm))
        .route("/console/mail/off", post(mail::turn_off))
        .route(
            "/console/webhooks",
            get(webhooks::list).post(webhooks::create),
        )
        .route("/console/webhooks/{webhook}", get(webhooks::show_one))
        .route("/console/webhooks/{webhook}/test", post(webhooks::test))
        .route(
            "/console/webhooks/{webhook}/delete",
            get(webhooks::ask_to_delete).post(webhooks::delete),
        )
        .route(
            "/console/webhooks/{webhook}/deliveries/{message}",
            post(webhooks::redeliver),
        )
        .route("/console/signin", get(sign_in::page).post(sign_in::sign_in))
        .route("/console/signout", post(sign_in::sign_out))
        .route("/console/oidc/start", get(oidc::start))
        .route("/console/oidc/callback", get(oidc::callback))
        .route("/console/oidc/account", get(oidc::account))
        .route("/console/oidc/account/link", post(oidc::link))
        .route("/console/oidc/account/create", post(oidc::create))
        .route(
            "/console/oidc/unlink",
            get(oidc::ask_to_unlink).post(oidc::unlink),
        )
        .route(
            "/console/password",
            get(sign_in::password).post(sign_in::set_password),
        )
        .route(
            "/console/authorize",
            get(sign_in::consent).post(sign_in::answer),
        )
        .route(
            "/console/style.css",
            asset("text/css", include_str!("style.css")),
        )
        .route(
            "/console/live.js",
            asset("text/javascript", include_str!("live.js")),
        )
        .route(
            "/console/charts.js",
            asset("text/javascript", include_str!("charts.js")),
        )
        .route(
            "/console/icon.svg",
            asset("image/svg+xml", include_str!("icon.svg")),
        )
        .merge(guides::router())
        .merge(admin::router())
        .route("/console/{*rest}", any(nothing_here))
        .method_not_allowed_fallback(async || Failure::from(ApiError::method_not_allowed()))
        .layer(middleware::from_fn_with_state(Arc::clone(app), guarded))
        .with_state(Arc::clone(app))
}

async fn nothing_here() -> Failure {
    ApiError::not_found("there is no page at this address").into()
}

fn asset(kind: &'static str, text: &'static str) -> MethodRouter<Arc<App>> {
    get(move || async move {
        let headers = [
            (header::CONTENT_TYPE, kind),
            (header::CACHE_CONTROL, "max-age=300"),
        ];
        (headers, text)
    })
}

/// Refuses forms that other sites send, makes pages of refusals, and says to the
/// browser what pages may do.
async fn guarded(State(app): State<Arc<App>>, request: Request<Body>, next: Next) -> Response {
    let changes = !matches!(*request.method(), Method::GET | Method::HEAD);
    let token = cookie(request.headers(), COOKIE).map(str::to_owned);
    let mut answer = if changes && !is_own_form(request.headers()) {
        let text = "This form did not come from a page of this server.";
        frame::refusal(None, (StatusCode::FORBIDDEN, text).into_response()).await
    } else {
        next.run(request).await
    };
    if frame::is_refusal(&answer) {
        let user = match &token {
            Some(token) => by_token(&app, token, Wanted::OfSession, None).await.ok(),
            None => None,
        };
        let session = user.map(|user| Session { user });
        answer = frame::refusal(session.as_ref(), answer).await;
    }
    let headers = answer.headers_mut();
    let mut set = |name: header::HeaderName, value: &'static str| {
        if !headers.contains_key(&name) {
            headers.insert(name, HeaderValue::from_static(value));
        }
    };
    set(header::CONTENT_SECURITY_POLICY, POLICY);
    set(header::REFERRER_POLICY, "same-origin");
    set(header::X_FRAME_OPTIONS, "DENY");
    set(header::CACHE_CONTROL, "no-store");
    answer
}

/// Whether a form comes from one of our own pages, as the browser says.
fn is_own_form(headers: &HeaderMap) -> bool {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    if let Some(site) = text("sec-fetch-site") {
        return site == "same-origin";
    }
    let origin = text("origin").and_then(|origin| origin.split_once("://"));
    origin.is_some_and(|(_, host)| Some(host) == text("host"))
}

/// Somebody who is signed in.
pub(crate) struct Session {
    pub(crate) user: Identity,
}

impl FromRequestParts<Arc<App>> for Session {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Response> {
        // Whoever asks again in the same request gets the same project, whatever another
        // tab does meanwhile.
        if let Some(user) = parts.extensions.get::<Identity>() {
            return Ok(Self { user: user.clone() });
        }
        let peer = parts.extensions.get::<Peer>().and_then(|peer| peer.0);
        let signed_in = match cookie(&parts.headers, COOKIE) {
            Some(token) => {
                let user = by_token(app, token, Wanted::OfSession, peer).await;
                user.ok().map(|user| Self { user })
            }
            None => None,
        };
        if let Some(session) = &signed_in {
            parts.extensions.insert(session.user.clone());
        }
        signed_in.ok_or_else(|| {
            let wanted = parts
                .uri
                .path_and_query()
                .map_or("/console/", |p| p.as_str());
            let next = match parts.method {
                Method::GET => wanted,
                _ => "/console/",
            };
            let query = words::query(&[("next", next)]);
            Redirect::to(&format!("/console/signin{query}")).into_response()
        })
    }
}

impl Session {
    /// Whether the user may add to the project.
    fn writes(&self) -> bool {
        self.is_full() && self.user.role >= Role::Member
    }

    /// Whether the user may change what `creator` added to the project.
    fn changes(&self, creator: Option<&str>) -> bool {
        let own = self.user.role == Role::Owner || creator == Some(&self.user.person);
        self.writes() && own
    }

    /// Fails unless the user may add to the project.
    pub(crate) fn may_write(&self) -> Result<(), Failure> {
        self.must_be_full()?;
        Ok(self.user.may(Role::Member)?)
    }

    /// Fails unless the user may change everything in the project.
    pub(crate) fn may_own(&self) -> Result<(), Failure> {
        self.must_be_full()?;
        Ok(self.user.may(Role::Owner)?)
    }

    /// Whether the session's token is good for changing things.
    fn is_full(&self) -> bool {
        self.user.scope == Scope::All
    }

    /// Fails if the session's token is good for reading alone.
    pub(crate) fn must_be_full(&self) -> Result<(), Failure> {
        match self.is_full() {
            true => Ok(()),
            false => Err(ApiError::forbidden(
                "you are signed in with a read-only token: sign in with one of full access",
            )
            .into()),
        }
    }
}

/// The value of a request's cookie.
fn cookie<'a>(headers: &'a HeaderMap, wanted: &str) -> Option<&'a str> {
    let all = headers.get_all(header::COOKIE).into_iter();
    all.filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .find(|(name, _)| *name == wanted)
        .map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_of_other_sites_are_recognised() {
        let own = |pairs: &[(&'static str, &'static str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in pairs {
                headers.insert(*name, HeaderValue::from_static(value));
            }
            is_own_form(&headers)
        };
        let host = ("host", "ft.example:8642");
        assert!(own(&[host, ("sec-fetch-site", "same-origin")]));
        assert!(!own(&[host, ("sec-fetch-site", "cross-site")]));
        assert!(!own(&[host, ("sec-fetch-site", "same-site")]));
        assert!(own(&[host, ("origin", "https://ft.example:8642")]));
        assert!(!own(&[host, ("origin", "https://evil.example")]));
        assert!(!own(&[host, ("origin", "null")]));
        assert!(!own(&[host]));
    }
}
