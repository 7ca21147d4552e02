//! The server's own address, from the headers of a request.

use axum::http::{HeaderMap, HeaderValue, header};

use crate::error::{ApiError, Result};

/// Whether a request's connection uses TLS. The connection sets it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Secure(pub(crate) bool);

/// Returns the address that the client used, `https://host:port`. The client can
/// reach the server there again.
pub(crate) fn address(headers: &HeaderMap) -> Result<String> {
    let text = |name| {
        headers
            .get(name)
            .and_then(|value: &HeaderValue| value.to_str().ok())
    };
    let host = text(header::HOST).filter(|host| is_host(host));
    let host = host.ok_or_else(|| ApiError::bad_request("the header `Host` is missing"))?;
    let scheme = match text(header::HeaderName::from_static(SCHEME)) {
        Some("https") => "https",
        _ => "http",
    };
    Ok(format!("{scheme}://{host}"))
}

/// Header with the scheme that the client used. A proxy sets it, or
/// [`crate::routes`] for a TLS connection of this server.
pub(crate) const SCHEME: &str = "x-forwarded-proto";

/// Returns whether a text can be a host, with or without a port.
fn is_host(host: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:[]".contains(&byte);
    !host.is_empty() && host.len() <= 255 && host.bytes().all(plain)
}
