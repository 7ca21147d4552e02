//! The console: what the server does, in a browser. HTML is made here, and
//! everything is there without JavaScript; a little script of our own follows
//! what is live. Nothing comes from another host.

mod account;
mod chart;
mod compare;
mod data;
mod guides;
mod runs;
mod sign_in;
mod snippets;
mod tokens;
mod try_it;

use std::sync::Arc;

use axum::{
    Router,
    body::Body,
    extract::{DefaultBodyLimit, FromRequestParts, Request},
    http::{HeaderMap, HeaderValue, Method, StatusCode, header, request::Parts},
    middleware::{self, Next},
    response::{IntoResponse, Redirect, Response},
    routing::{MethodRouter, get, post},
};
use maud::{DOCTYPE, Markup, PreEscaped, html};

use crate::{
    api::{self, by_token},
    app::App,
    database::{Scope, UserRow},
    error::ApiError,
};

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
        .route("/console/", get(runs::experiments))
        .route("/console", get(async || Redirect::to("/console/")))
        .route("/console/experiments/{experiment}", get(runs::list))
        .route(run, get(runs::page))
        .route(&format!("{run}/live"), get(runs::live))
        .route(&format!("{run}/cancel"), post(runs::cancel))
        .route(&format!("{run}/delete"), post(runs::delete))
        .route(
            &format!("{run}/try"),
            get(try_it::page)
                .post(try_it::search)
                .layer(DefaultBodyLimit::max(try_it::MAX_FORM)),
        )
        .route("/console/compare", get(compare::page))
        .route("/console/data", get(data::list))
        .route("/console/data/{id}", get(data::page))
        .route("/console/data/{id}/picture", get(data::picture))
        .route("/console/data/{id}/download", get(data::download))
        .route("/console/account", get(account::show))
        .route("/console/tokens", get(tokens::list).post(tokens::create))
        .route("/console/tokens/delete", post(tokens::delete))
        .route("/console/signin", get(sign_in::page).post(sign_in::sign_in))
        .route("/console/signout", post(sign_in::sign_out))
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
            "/console/icon.svg",
            asset("image/svg+xml", include_str!("icon.svg")),
        )
        .merge(guides::router())
        .layer(middleware::from_fn(guarded))
        .with_state(Arc::clone(app))
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

/// Refuses forms that other sites send, and says to the browser what pages may
/// do.
async fn guarded(request: Request<Body>, next: Next) -> Response {
    let changes = !matches!(*request.method(), Method::GET | Method::HEAD);
    if changes && !is_own_form(request.headers()) {
        let text = "This form did not come from a page of this server.";
        return (StatusCode::FORBIDDEN, text).into_response();
    }
    let mut answer = next.run(request).await;
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
    pub(crate) user: UserRow,
}

impl FromRequestParts<Arc<App>> for Session {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Response> {
        let signed_in = match cookie(&parts.headers, COOKIE) {
            Some(token) => by_token(app, token).await.ok().map(|user| Self { user }),
            None => None,
        };
        signed_in.ok_or_else(|| {
            let wanted = parts
                .uri
                .path_and_query()
                .map_or("/console/", |p| p.as_str());
            let next = match parts.method {
                Method::GET => wanted,
                _ => "/console/",
            };
            let query = url::form_urlencoded::Serializer::new(String::new())
                .append_pair("next", next)
                .finish();
            Redirect::to(&format!("/console/signin?{query}")).into_response()
        })
    }
}

impl Session {
    /// Fails where the session's token is good for reading alone.
    pub(crate) fn may_write(&self) -> Result<(), Failure> {
        match self.user.scope {
            Scope::All => Ok(()),
            Scope::Read => Err(ApiError::forbidden(
                "you are signed in with a token that is good for reading alone",
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

/// What went wrong, as a page.
pub(crate) struct Failure(ApiError);

impl<E: Into<ApiError>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let status = self.0.status();
        let title = status.canonical_reason().unwrap_or("Error");
        let body = html! {
            main {
                h1 { (title) }
                p { (self.0.message()) }
                p { a href="/console/" { "To the experiments" } }
            }
        };
        let mut answer = (status, document(title, &body)).into_response();
        if let Some(seconds) = self.0.retry_after() {
            let seconds = HeaderValue::from(seconds);
            answer.headers_mut().insert(header::RETRY_AFTER, seconds);
        }
        answer
    }
}

pub(crate) type Page<T = Markup> = Result<T, Failure>;

/// A whole page for somebody who is signed in. `here` is which part of the
/// console it belongs to.
fn page(session: &Session, here: &str, title: &str, content: &Markup) -> Markup {
    let part = |name: &str, href: &str| {
        html! {
            a href=(href) aria-current=[(name == here).then_some("page")] { (name) }
        }
    };
    let body = html! {
        a .skip href="#content" { "To the content" }
        header {
            nav aria-label="Parts" {
                a .brand href="/console/" { "finetuner" }
                (part("Experiments", "/console/"))
                (part("Data", "/console/data"))
                (part("Tokens", "/console/tokens"))
                (part("Guides", "/docs/"))
            }
            form method="post" action="/console/signout" {
                span .who { a href="/console/account" { (session.user.name) } }
                button .quiet type="submit" { "Sign out" }
            }
        }
        main id="content" { (content) }
    };
    document(title, &body)
}

/// A whole page.
fn document(title: &str, body: &Markup) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (title) " · finetuner" }
                link rel="stylesheet" href="/console/style.css";
                link rel="icon" href="/console/icon.svg";
                script src="/console/live.js" defer {}
            }
            body { (body) }
        }
    }
}

/// A time of the database's, `2026-01-31T12:34:56.789Z`, for people.
fn time(text: &str) -> Markup {
    let shown = text.get(..16).unwrap_or(text).replace('T', " ");
    html! { time datetime=(text) { (shown) } }
}

/// Bytes, for people.
fn bytes(count: u64) -> String {
    let units = ["bytes", "KiB", "MiB", "GiB"];
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    match unit {
        0 => format!("{count} bytes"),
        _ => format!("{value:.1} {}", units[unit]),
    }
}

/// A status as a coloured word.
fn status(text: &str) -> Markup {
    html! { span class={ "status " (text.to_ascii_lowercase()) } { (text) } }
}

/// Names in an address.
fn path(parts: &[&str]) -> String {
    let mut url = match url::Url::parse("http://x/console/") {
        Ok(url) => url,
        Err(_) => return "/console/".to_owned(),
    };
    if let Ok(mut segments) = url.path_segments_mut() {
        segments.pop_if_empty().extend(parts);
    }
    url.path().to_owned()
}

/// Links to other pages of a list, where there are any.
fn pager(total: u64, number: u64, size: u64, link: impl Fn(u64) -> String) -> Markup {
    let pages = total.div_ceil(size).max(1);
    html! {
        @if pages > 1 {
            nav .pager aria-label="Pages" {
                @if number > 1 { a rel="prev" href=(link(number - 1)) { "Previous" } }
                span { "Page " (number) " of " (pages) }
                @if number < pages { a rel="next" href=(link(number + 1)) { "Next" } }
            }
        }
    }
}

/// A query string of those fields that are not empty.
fn query(fields: &[(&str, &str)]) -> String {
    let mut text = url::form_urlencoded::Serializer::new(String::new());
    for (name, value) in fields.iter().filter(|(_, value)| !value.is_empty()) {
        text.append_pair(name, value);
    }
    match text.finish() {
        empty if empty.is_empty() => empty,
        text => format!("?{text}"),
    }
}

/// JSON, indented, for people.
fn pretty(value: &serde_json::Value) -> String {
    serde_json::to_string_pretty(value).unwrap_or_default()
}

/// SVG and other markup that was made here.
fn raw(text: String) -> PreEscaped<String> {
    PreEscaped(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_of_other_sites_are_known() {
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

    #[test]
    fn names_are_quoted_in_addresses() {
        let address = path(&["experiments", "a/b ?\"<x>", "runs", "r"]);
        assert_eq!(address, "/console/experiments/a%2Fb%20%3F%22%3Cx%3E/runs/r");
        assert_eq!(query(&[("q", "a&b"), ("x", "")]), "?q=a%26b");
        assert_eq!(query(&[("x", "")]), "");
    }

    #[test]
    fn sizes_are_told_in_their_unit() {
        assert_eq!(bytes(10), "10 bytes");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(5 << 40), "5120.0 GiB");
    }
}
