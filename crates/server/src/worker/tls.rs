//! Which servers a worker trusts: those whose certificate is signed by an
//! authority of its system, or by one that the order names.

use std::{error::Error, path::Path, sync::Arc};

use rustls::{
    ClientConfig,
    pki_types::{CertificateDer, pem::PemObject},
};

use super::variables::WORKER_CA;

/// Authorities that are trusted beside those of the system.
#[derive(Clone, Default)]
pub(super) struct Authorities(Vec<CertificateDer<'static>>);

impl Authorities {
    /// Those that the environment names.
    pub(super) fn of_this_process() -> Result<Self, String> {
        match std::env::var_os(WORKER_CA).filter(|path| !path.is_empty()) {
            Some(path) => Self::in_file(Path::new(&path)),
            None => Ok(Self::default()),
        }
    }

    fn in_file(path: &Path) -> Result<Self, String> {
        let bad = |reason: &dyn std::fmt::Display| {
            format!(
                "{WORKER_CA} ({}): {reason}; it must name a PEM file of certificate authorities \
                 that the worker can read",
                path.display()
            )
        };
        let read = CertificateDer::pem_file_iter(path)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(|e| bad(&e))?;
        match read.is_empty() {
            true => Err(bad(&"it holds no certificate")),
            false => Ok(Self(read)),
        }
    }
}

/// What a client for an address needs. It leaves a program around us the choice
/// of its own TLS.
pub(super) fn config(url: &str, authorities: &Authorities) -> Result<ClientConfig, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?;
    let tls = match url.starts_with("https:") {
        true => {
            let more = authorities.0.iter().cloned();
            let verifier = rustls_platform_verifier::Verifier::new_with_extra_roots(more, provider);
            let verifier = verifier.map_err(|e| {
                format!(
                    "no authority can be trusted: {e}; install the system's certificates \
                     (`ca-certificates`), or name a PEM file in {WORKER_CA}"
                )
            })?;
            tls.dangerous()
                .with_custom_certificate_verifier(Arc::new(verifier))
        }
        false => tls.with_root_certificates(rustls::RootCertStore::empty()),
    };
    Ok(tls.with_no_client_auth())
}

/// Says what to do where a call has failed because of the server's certificate.
pub(super) fn distrust(error: &(dyn Error + 'static)) -> Option<String> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        // An I/O error hides the error that it was made of.
        let inner = error
            .downcast_ref::<std::io::Error>()
            .and_then(std::io::Error::get_ref);
        let tls = match inner {
            Some(inner) => inner.downcast_ref::<rustls::Error>(),
            None => error.downcast_ref::<rustls::Error>(),
        };
        if let Some(tls @ rustls::Error::InvalidCertificate(_)) = tls {
            return Some(format!(
                "the server's certificate is not trusted ({tls}): {WORKER_CA} must name a PEM file \
                 with the authority that has signed it, and it must be good for the server's \
                 address now"
            ));
        }
        cause = match inner {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    None
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

    use super::*;
    use crate::{
        http,
        worker::calls::{Server, in_words},
    };

    /// An authority, and a server's certificate and key that it has signed.
    fn authority(name: &str) -> (String, String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let ca = params.self_signed(&key).unwrap();
        let issuer = Issuer::new(params, key);
        let own = KeyPair::generate().unwrap();
        let names = vec!["127.0.0.1".to_owned()];
        let leaf = CertificateParams::new(names).unwrap();
        let leaf = leaf.signed_by(&own, &issuer).unwrap();
        (ca.pem(), leaf.pem(), own.serialize_pem())
    }

    #[tokio::test]
    async fn a_server_is_trusted_by_the_authority_that_the_order_names() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: String| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let (ca, certificate, key) = authority("ours");
        let (ca, other) = (
            write("ca.pem", ca),
            write("other.pem", authority("another").0),
        );
        let tls = http::tls(&write("cert.pem", certificate), &write("key.pem", key)).unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        let answer = axum::routing::get(async || axum::Json("work"));
        let routes = axum::Router::new().route("/api/v1/worker/job", answer);
        let (_stop, stopped) = tokio::sync::watch::channel(false);
        tokio::spawn(http::serve(listener, Some(tls), routes, stopped));

        let server = |path: Option<&Path>| {
            let authorities = path.map(|path| Authorities::in_file(path).unwrap());
            Server::new(&url, "t".into(), &authorities.unwrap_or_default()).unwrap()
        };
        let job: String = server(Some(&ca)).json("job").await.unwrap();
        assert_eq!(job, "work");
        for path in [None, Some(other.as_path())] {
            let failed = server(path).get("job").send().await.unwrap_err();
            let words = in_words(failed);
            assert!(
                words.contains("UnknownIssuer") && words.contains("FINETUNER_WORKER_CA must name"),
                "{words}"
            );
        }
    }

    #[test]
    fn a_file_without_authorities_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("ca.pem");
        for text in [None, Some(""), Some("none")] {
            if let Some(text) = text {
                std::fs::write(&file, text).unwrap();
            }
            let error = Authorities::in_file(&file).err().unwrap();
            assert!(
                error.contains("FINETUNER_WORKER_CA (") && error.contains("ca.pem"),
                "{error}"
            );
        }
    }
}
