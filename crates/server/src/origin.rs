//! The server's own address, as a client has used it.

use axum::http::{HeaderMap, HeaderValue, header};

use crate::error::{ApiError, Result};

/// Whether a request came over TLS; said by the connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Secure(pub(crate) bool);

/// The address by which a client has reached us, which is one that it can
/// reach again: `https://host:port`.
pub(crate) fn address(headers: &HeaderMap) -> Result<String> {
    let text = |name| {
        headers
            .get(name)
            .and_then(|value: &HeaderValue| value.to_str().ok())
    };
    let host = text(header::HOST).filter(|host| is_host(host));
    let host = host.ok_or_else(|| ApiError::bad_request("the header `Host` is needed"))?;
    let scheme = match text(header::HeaderName::from_static(SCHEME)) {
        Some("https") => "https",
        _ => "http",
    };
    Ok(format!("{scheme}://{host}"))
}

/// Says by which scheme a client has come: set by a proxy before us, or by
/// ourselves where we speak TLS.
pub(crate) const SCHEME: &str = "x-forwarded-proto";

/// Returns whether a text can be a host, with or without a port.
fn is_host(host: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:[]".contains(&byte);
    !host.is_empty() && host.len() <= 255 && host.bytes().all(plain)
}
