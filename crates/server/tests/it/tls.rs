//! https with a custom certificate.

use finetuner::Finetuner;
use finetuner_server::Server;
use reqwest::Version;

use crate::support::{fit, pairs};

#[tokio::test]
async fn a_self_signed_certificate_is_trusted_if_configured() {
    let folder = tempfile::tempdir().unwrap();
    let names = vec!["127.0.0.1".to_owned(), "localhost".to_owned()];
    let made = rcgen::generate_simple_self_signed(names).unwrap();
    let (certificate, key) = (
        folder.path().join("cert.pem"),
        folder.path().join("key.pem"),
    );
    let pem = made.cert.pem();
    std::fs::write(&certificate, &pem).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let server = Server::embedded()
        .tls(&certificate, &key)
        .start()
        .await
        .unwrap();
    assert!(server.url().starts_with("https://127.0.0.1:"));

    let token = server.first_token().unwrap();
    let builder = || {
        let retry = finetuner::RetryPolicy::never();
        Finetuner::builder()
            .registry(server.url())
            .token(token)
            .retry(retry)
    };
    let finetuner = builder()
        .add_root_certificate(pem.clone())
        .login()
        .await
        .unwrap();
    // Addresses of downloads are https as well, and workers connect.
    finetuner.push("train", pairs(8)).await.unwrap();
    assert_eq!(finetuner.pull("train").await.unwrap().len(), 8);
    let run = fit(&finetuner, "r", 1).await.unwrap();
    run.wait().await.unwrap();
    run.save_model(folder.path().join("model")).await.unwrap();
    assert!(folder.path().join("model/model.safetensors").is_file());

    let error = builder().login().await.err().unwrap();
    assert!(
        error.is_connect(),
        "the certificate is not trusted: {error}"
    );
    let other = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
    let error = builder()
        .add_root_certificate(other.cert.pem())
        .login()
        .await;
    assert!(error.err().unwrap().is_connect());

    // The server supports both versions of HTTP.
    for (only, version) in [(true, Version::HTTP_11), (false, Version::HTTP_2)] {
        let client = tls_client(&pem, only);
        let answer = client
            .get(format!("{}/healthz", server.url()))
            .send()
            .await
            .unwrap();
        assert_eq!(answer.version(), version);
        assert_eq!(answer.text().await.unwrap(), "ok\n");
    }
    server.stop().await;

    // A file without a certificate is reported.
    std::fs::write(&certificate, "none").unwrap();
    let error = Server::embedded().tls(&certificate, &key).start().await;
    let error = error.err().unwrap().to_string();
    assert!(
        error.contains("`tls-cert`") && error.contains("cert.pem"),
        "{error}"
    );
}

/// Returns a client that trusts one certificate and speaks HTTP/1.1 only, or
/// both.
fn tls_client(pem: &str, old: bool) -> reqwest::Client {
    use rustls::pki_types::{CertificateDer, pem::PemObject};

    let mut roots = rustls::RootCertStore::empty();
    let certificate = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
    roots.add(certificate).unwrap();
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let mut tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    tls.alpn_protocols = match old {
        true => vec![b"http/1.1".to_vec()],
        false => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
    };
    let builder = reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .no_proxy();
    builder.build().unwrap()
}
