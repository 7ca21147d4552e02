//! The built-in HTTP client: TLS, proxies, redirects.

use std::time::Duration;

use reqwest::{Client, redirect};
use url::Url;

use super::{
    addresses::is_loopback,
    proxy::Proxies,
    settings::{HttpSettings, user_agent},
    tls,
};
use crate::error::{Error, Result};

/// Maximum number of redirects per call.
const MAX_REDIRECTS: usize = 5;

/// Default time limit for connecting.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

pub(crate) fn client(settings: &HttpSettings, proxies: &Proxies) -> Result<Client> {
    let builder = Client::builder()
        .connect_timeout(settings.connect_timeout.unwrap_or(CONNECT_TIMEOUT))
        .user_agent(user_agent(settings))
        .redirect(redirects(settings.allow_plain_http));
    let builder = proxies.apply(builder)?;
    tls::configure(builder, &settings.root_certificates)?
        .build()
        .map_err(|e| Error::setup(format!("no HTTP client: {e}")))
}

/// Returns the redirect policy. reqwest itself removes the token if a redirect
/// leads to another host, port or scheme.
fn redirects(allow_plain_http: bool) -> redirect::Policy {
    redirect::Policy::custom(move |attempt| {
        match refused(attempt.previous(), attempt.url(), allow_plain_http) {
            Some(reason) => attempt.error(reason),
            None => attempt.follow(),
        }
    })
}

/// Returns why a redirect is not followed; `None` if it is.
fn refused(previous: &[Url], next: &Url, allow_plain_http: bool) -> Option<&'static str> {
    if previous.len() > MAX_REDIRECTS {
        return Some("the server redirects too often");
    }
    let was_secret = previous.iter().any(|url| url.scheme() == "https");
    // Nor from https to this machine: a server must not choose what is requested here.
    if next.scheme() == "http" && !allow_plain_http && (was_secret || is_open(next)) {
        return Some("the server redirects to plain http, where others can read what is sent");
    }
    None
}

/// Whether others on the network path can read the traffic to this address.
pub(crate) fn is_open(url: &Url) -> bool {
    url.scheme() == "http" && !is_loopback(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_to_plain_http_are_not_followed() {
        let url = |text: &str| Url::parse(text).unwrap();
        let refused = |from: &str, to: &str, allow| refused(&[url(from)], &url(to), allow);
        for (from, to) in [
            ("https://a", "http://a"),
            ("https://a", "http://127.0.0.1:1"),
            ("http://127.0.0.1:1", "http://a"),
        ] {
            assert!(refused(from, to, false).is_some(), "{from} to {to}");
            assert!(refused(from, to, true).is_none(), "{from} to {to}");
        }
        for (from, to) in [
            ("https://a", "https://b"),
            ("http://127.0.0.1:1", "http://localhost:2"),
            ("http://127.0.0.1:1", "https://a"),
        ] {
            assert!(refused(from, to, false).is_none(), "{from} to {to}");
        }
    }
}
