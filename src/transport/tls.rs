//! TLS configuration for the features `rustls` and `native-tls`.

#[cfg(feature = "rustls")]
mod backend {
    use std::sync::Arc;

    use reqwest::ClientBuilder;
    use rustls::{
        ClientConfig, RootCertStore,
        crypto::CryptoProvider,
        pki_types::{CertificateDer, pem::PemObject},
    };

    use crate::error::{Error, Result};

    /// Uses its own crypto provider, so that the program can choose another one
    /// for itself. On a machine without root certificates, plain http still works.
    pub(in crate::transport) fn configure(
        builder: ClientBuilder,
        roots: &[Vec<u8>],
    ) -> Result<ClientBuilder> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut extra = Vec::new();
        for pem in roots {
            let before = extra.len();
            for certificate in CertificateDer::pem_slice_iter(pem) {
                extra.push(certificate.map_err(|e| bad_certificate(&e))?);
            }
            if extra.len() == before {
                return Err(bad_certificate(&"it contains none"));
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
            "`add_root_certificate`: not a certificate in PEM format: {reason}"
        ))
    }
}

#[cfg(all(feature = "native-tls", not(feature = "rustls")))]
mod backend {
    use reqwest::{Certificate, ClientBuilder};

    use crate::error::{Error, Result};

    /// Uses the system's TLS library.
    pub(in crate::transport) fn configure(
        builder: ClientBuilder,
        roots: &[Vec<u8>],
    ) -> Result<ClientBuilder> {
        let mut certificates = Vec::new();
        for pem in roots {
            certificates.extend(Certificate::from_pem_bundle(pem).map_err(|e| {
                Error::setup(format!(
                    "`add_root_certificate`: not a certificate in PEM format: {e}"
                ))
            })?);
        }
        Ok(builder.tls_backend_native().tls_certs_merge(certificates))
    }
}

#[cfg(not(any(feature = "rustls", feature = "native-tls")))]
mod backend {
    use reqwest::ClientBuilder;

    use crate::error::{Error, Result};

    /// Without either feature, only plain http is available.
    pub(in crate::transport) fn configure(
        builder: ClientBuilder,
        roots: &[Vec<u8>],
    ) -> Result<ClientBuilder> {
        if roots.is_empty() {
            return Ok(builder);
        }
        Err(Error::setup(
            "`add_root_certificate` needs the feature `rustls` or `native-tls`",
        ))
    }
}

/// Whether https is available.
pub(crate) const HAS_TLS: bool = cfg!(any(feature = "rustls", feature = "native-tls"));

pub(super) use backend::configure;
