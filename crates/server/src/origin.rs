//! The server's own address, from the headers of a request.

use axum::http::{HeaderMap, HeaderValue, header};
use url::Url;

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

/// Like [`address`], with the path of `public_url` if the client used its host.
///
/// A proxy on this host serves the server under the path, and removes the path from
/// requests.
pub(crate) fn public_address(headers: &HeaderMap, public_url: Option<&str>) -> Result<String> {
    let address = address(headers)?;
    let origin = |text: &str| Url::parse(text).ok().map(|url| url.origin());
    Ok(match public_url {
        Some(public) if origin(public) == origin(&address) => {
            public.trim_end_matches('/').to_owned()
        }
        _ => address,
    })
}

/// Header with the scheme that the client used. A proxy sets it, or
/// [`crate::routes`] for a TLS connection of this server.
pub(crate) const SCHEME: &str = "x-forwarded-proto";

/// Returns whether a text can be a host, with or without a port.
fn is_host(host: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:[]".contains(&byte);
    !host.is_empty() && host.len() <= 255 && host.bytes().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_have_the_path_under_which_a_proxy_serves_the_server() {
        let made = |host: &str, public: Option<&str>| {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, host.parse().unwrap());
            headers.insert(SCHEME, HeaderValue::from_static("https"));
            public_address(&headers, public).unwrap()
        };
        let public = Some("https://ft.example/finetuner/");
        assert_eq!(made("ft.example", public), "https://ft.example/finetuner");
        assert_eq!(
            made("FT.example:443", public),
            "https://ft.example/finetuner"
        );
        // Not through the proxy.
        assert_eq!(made("10.0.0.1:8642", public), "https://10.0.0.1:8642");
        assert_eq!(made("ft.example", None), "https://ft.example");
        let public = Some("https://ft.example");
        assert_eq!(made("ft.example", public), "https://ft.example");
    }
}
