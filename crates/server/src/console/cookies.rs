//! Reading and setting the console's cookies.

use axum::{
    http::{HeaderMap, HeaderValue, header},
    response::Response,
};

use crate::origin::address;

/// Name of the cookie with the session's token.
pub(super) const COOKIE: &str = "finetuner_session";

/// Returns the value of a cookie of a request.
pub(super) fn cookie<'a>(headers: &'a HeaderMap, wanted: &str) -> Option<&'a str> {
    let all = headers.get_all(header::COOKIE).into_iter();
    all.filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .find(|(name, _)| *name == wanted)
        .map(|(_, value)| value)
}

/// Adds a `Set-Cookie` header to an answer. The cookie expires after `age`
/// seconds. `headers` are the request's.
pub(super) fn add_cookie(
    headers: &HeaderMap,
    answer: &mut Response,
    name: &str,
    value: &str,
    age: u32,
) {
    let is_secure = address(headers).is_ok_and(|address| address.starts_with("https"));
    let secure = if is_secure { "; Secure" } else { "" };
    let cookie = format!("{name}={value}; Path=/; HttpOnly; SameSite=Lax; Max-Age={age}{secure}");
    if let Ok(cookie) = HeaderValue::from_str(&cookie) {
        answer.headers_mut().append(header::SET_COOKIE, cookie);
    }
}
