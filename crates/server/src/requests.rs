//! Requests to addresses that the operator configures, such as the server's own
//! address and the dashboard of a cluster: TLS trust, and readable errors.

use std::{error::Error, sync::Arc};

use rustls::{
    ClientConfig,
    pki_types::{CertificateDer, pem::PemObject},
};

/// Certificate authorities that are trusted in addition to those of the system.
#[derive(Clone, Default)]
pub(crate) struct Authorities(Vec<CertificateDer<'static>>);

impl Authorities {
    /// Parses one or more certificates in PEM form.
    pub(crate) fn in_pem(text: &[u8]) -> Result<Self, String> {
        let read = CertificateDer::pem_slice_iter(text).collect::<Result<Vec<_>, _>>();
        match read.map_err(|e| e.to_string())? {
            none if none.is_empty() => Err("it contains no certificate in PEM form".to_owned()),
            read => Ok(Self(read)),
        }
    }
}

/// Returns the TLS configuration of a client for `url`. Does not install a
/// default provider, since an embedding program may choose its own.
pub(crate) fn tls(url: &str, authorities: &Authorities) -> Result<ClientConfig, String> {
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
                    "the system has no usable certificate authorities: {e}; install its \
                     certificates (`ca-certificates`)"
                )
            })?;
            tls.dangerous()
                .with_custom_certificate_verifier(Arc::new(verifier))
        }
        // Plain http also works on a machine without trusted certificates.
        false => tls.with_root_certificates(rustls::RootCertStore::empty()),
    };
    Ok(tls.with_no_client_auth())
}

/// Returns the problem with a server's certificate, if it made a request fail.
pub(crate) fn distrust<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        // An I/O error does not report its inner error as the source.
        let inner = error
            .downcast_ref::<std::io::Error>()
            .and_then(std::io::Error::get_ref);
        let tls = match inner {
            Some(inner) => inner.downcast_ref::<rustls::Error>(),
            None => error.downcast_ref::<rustls::Error>(),
        };
        if let Some(tls @ rustls::Error::InvalidCertificate(_)) = tls {
            return Some(tls);
        }
        cause = match inner {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    None
}

/// Returns an error and its causes in words, without the address, which may
/// contain a signature.
pub(crate) fn in_words(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut words = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        // Some errors repeat their cause.
        if !words.contains(&more) {
            words = format!("{words}: {more}");
        }
        cause = error.source();
    }
    words
}

/// Returns the innermost cause of an error, without the address, which may
/// contain a secret.
pub(crate) fn root_cause(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut cause: &dyn Error = &error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}
