//! Middleware of every page: rejects cross-site forms, converts errors into
//! pages, and sets security headers.

use std::sync::Arc;

use axum::{
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};

use super::{
    cookies::{COOKIE, cookie},
    frame,
    session::Session,
};
use crate::{accounts::by_token, app::App, database::Wanted};

/// Content security policy: pages load from and submit to this server only.
pub(super) const POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; \
                      connect-src 'self'; form-action 'self'; base-uri 'none'; \
                      frame-ancestors 'none'";

/// Rejects cross-site forms, converts errors into pages, and sets security
/// headers.
pub(super) async fn guarded(
    State(app): State<Arc<App>>,
    request: Request<Body>,
    next: Next,
) -> Response {
    let changes = !matches!(*request.method(), Method::GET | Method::HEAD);
    let token = cookie(request.headers(), COOKIE).map(str::to_owned);
    let mut answer = if changes && !is_own_form(request.headers()) {
        let text = "This form did not come from a page of this server. Open the page here and \
                    send the form again.";
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

/// Returns whether the browser's headers say that a form comes from this server.
/// Browsers without `Sec-Fetch-Site` are judged by `Origin`; without both, the form
/// is rejected.
fn is_own_form(headers: &HeaderMap) -> bool {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    if let Some(site) = text("sec-fetch-site") {
        return site == "same-origin";
    }
    let origin = text("origin").and_then(|origin| origin.split_once("://"));
    origin.is_some_and(|(_, host)| Some(host) == text("host"))
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
