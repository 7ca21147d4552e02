//! The HTTP client under it all: TLS, proxies, redirects.

use std::time::Duration;

use reqwest::{Client, redirect};
use url::Url;

use super::{proxy::Proxies, service::HttpService};
use crate::{Error, Result, address::is_loopback};

/// Redirects followed for one call.
const MAX_REDIRECTS: usize = 5;

/// How a connection is made.
#[derive(Clone, Debug, Default)]
pub(crate) struct HttpSettings {
    pub(crate) connect_timeout: Option<Duration>,
    pub(crate) proxy: Option<crate::Secret>,
    /// PEM, each with one certificate or more.
    pub(crate) root_certificates: Vec<Vec<u8>>,
    pub(crate) allow_plain_http: bool,
    pub(crate) user_agent: Option<String>,
    /// Sends requests in the place of our own client.
    pub(crate) service: Option<HttpService>,
}

impl HttpSettings {
    /// Refuses settings of our own client that a service of the program's would
    /// not know.
    pub(crate) fn check_service(&self) -> Result<()> {
        let unused = [
            ("connect_timeout", self.connect_timeout.is_some()),
            ("proxy", self.proxy.is_some()),
            ("root_certificate", !self.root_certificates.is_empty()),
        ];
        match unused.iter().find(|(_, is_set)| *is_set) {
            Some((setting, _)) if self.service.is_some() => Err(Error::setup(format!(
                "`{setting}` has no effect together with `http_service`, which makes connections \
                 itself: set it there, and leave it out here"
            ))),
            _ => Ok(()),
        }
    }
}

/// What the program and this client call themselves.
pub(super) fn user_agent(settings: &HttpSettings) -> String {
    let ours = concat!("finetuner-rs/", env!("CARGO_PKG_VERSION"));
    match &settings.user_agent {
        Some(theirs) => format!("{theirs} {ours}"),
        None => ours.to_owned(),
    }
}

/// How long it may take to reach the server.
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

/// reqwest takes the token away where a redirect leads to another host, port or
/// scheme. Here is what else is not followed.
fn redirects(allow_plain_http: bool) -> redirect::Policy {
    redirect::Policy::custom(move |attempt| {
        match refused(attempt.previous(), attempt.url(), allow_plain_http) {
            Some(reason) => attempt.error(reason),
            None => attempt.follow(),
        }
    })
}

/// Why a redirect is not followed, if it is not.
fn refused(previous: &[Url], next: &Url, allow_plain_http: bool) -> Option<&'static str> {
    if previous.len() > MAX_REDIRECTS {
        return Some("the server redirects in circles");
    }
    let was_secret = previous.iter().any(|url| url.scheme() == "https");
    // From https not even to this machine: a server must not choose what is asked here.
    if next.scheme() == "http" && !allow_plain_http && (was_secret || is_open(next)) {
        return Some("the server redirects to plain http, where others can read what is sent");
    }
    None
}

/// Whether others on the way can read what goes there.
pub(crate) fn is_open(url: &Url) -> bool {
    url.scheme() == "http" && !is_loopback(url)
}

#[cfg(feature = "rustls")]
mod tls {
    use std::sync::Arc;

    use reqwest::ClientBuilder;
    use rustls::{
        ClientConfig, RootCertStore,
        crypto::CryptoProvider,
        pki_types::{CertificateDer, pem::PemObject},
    };

    use crate::{Error, Result};

    /// TLS of our own, so that a program around us keeps the choice of its own.
    /// Where the machine has no root certificates, plain HTTP still works.
    pub(super) fn configure(builder: ClientBuilder, roots: &[Vec<u8>]) -> Result<ClientBuilder> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut extra = Vec::new();
        for pem in roots {
            let before = extra.len();
            for certificate in CertificateDer::pem_slice_iter(pem) {
                extra.push(certificate.map_err(|e| bad_certificate(&e))?);
            }
            if extra.len() == before {
                return Err(bad_certificate(&"it holds none"));
            }
        }
        let with = |provider: Arc<CryptoProvider>| {
            ClientConfig::builder_with_provider(provider)
                .with_safe_default_protocol_versions()
                .map_err(|e| Error::setup(format!("no TLS: {e}")))
        };
        let verifier = rustls_platform_verifier::Verifier::new_with_extra_roots(
            extra.iter().cloned(),
            Arc::clone(&provider),
        );
        let config = match verifier {
            Ok(verifier) => with(provider)?
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(verifier))
                .with_no_client_auth(),
            Err(_) => {
                let mut store = RootCertStore::empty();
                for certificate in extra {
                    store.add(certificate).map_err(|e| bad_certificate(&e))?;
                }
                with(provider)?
                    .with_root_certificates(store)
                    .with_no_client_auth()
            }
        };
        Ok(builder.tls_backend_preconfigured(config))
    }

    fn bad_certificate(reason: &dyn std::fmt::Display) -> Error {
        Error::setup(format!(
            "`root_certificate` is no certificate in PEM form: {reason}"
        ))
    }
}

#[cfg(all(feature = "native-tls", not(feature = "rustls")))]
mod tls {
    use reqwest::{Certificate, ClientBuilder};

    use crate::{Error, Result};

    /// The system's own TLS.
    pub(super) fn configure(builder: ClientBuilder, roots: &[Vec<u8>]) -> Result<ClientBuilder> {
        let mut certificates = Vec::new();
        for pem in roots {
            certificates.extend(Certificate::from_pem_bundle(pem).map_err(|e| {
                Error::setup(format!(
                    "`root_certificate` is no certificate in PEM form: {e}"
                ))
            })?);
        }
        Ok(builder.tls_backend_native().tls_certs_merge(certificates))
    }
}

#[cfg(not(any(feature = "rustls", feature = "native-tls")))]
mod tls {
    use reqwest::ClientBuilder;

    use crate::{Error, Result};

    /// Without either feature there is plain HTTP alone.
    pub(super) fn configure(builder: ClientBuilder, roots: &[Vec<u8>]) -> Result<ClientBuilder> {
        if roots.is_empty() {
            return Ok(builder);
        }
        Err(Error::setup(
            "`root_certificate` needs the feature `rustls` or `native-tls`",
        ))
    }
}

/// Whether https can be spoken.
pub(crate) const HAS_TLS: bool = cfg!(any(feature = "rustls", feature = "native-tls"));

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
