//! TLS trust of a worker: the certificate authorities of its system, and those
//! that the work order names.

use std::path::Path;

use super::variables::WORKER_CA;
use crate::requests::{self, Authorities};

/// Reads the authorities from the file that the environment names.
pub(crate) fn authorities_of_this_process() -> Result<Authorities, String> {
    match std::env::var_os(WORKER_CA).filter(|path| !path.is_empty()) {
        Some(path) => in_file(Path::new(&path)),
        None => Ok(Authorities::default()),
    }
}

fn in_file(path: &Path) -> Result<Authorities, String> {
    let read = std::fs::read(path).map_err(|e| e.to_string());
    let read = read.and_then(|text| Authorities::in_pem(&text));
    read.map_err(|reason| {
        format!(
            "{WORKER_CA} ({}): {reason}; it must name a readable PEM file of certificate \
             authorities",
            path.display()
        )
    })
}

/// Describes a failed request, with the remedy if the server is not trusted.
pub(super) fn in_words(error: reqwest::Error) -> String {
    match requests::distrust(&error) {
        Some(reason) => format!(
            "the server's certificate is not trusted ({reason}): {WORKER_CA} must name a PEM file \
             with the authority that signed it, and the certificate must be valid now and for the \
             server's address"
        ),
        None => requests::in_words(error),
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

    use super::*;
    use crate::{http, worker::calls::Server};

    /// Returns an authority, and a server's certificate and key signed by it, as
    /// PEM.
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
    async fn the_worker_trusts_the_certificate_authority_of_its_order() {
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
            let authorities = path.map(|path| in_file(path).unwrap());
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
    fn a_file_without_certificates_is_an_error_with_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("ca.pem");
        for text in [None, Some(""), Some("none")] {
            if let Some(text) = text {
                std::fs::write(&file, text).unwrap();
            }
            let error = in_file(&file).err().unwrap();
            assert!(
                error.contains("FINETUNER_WORKER_CA (") && error.contains("ca.pem"),
                "{error}"
            );
        }
    }
}
