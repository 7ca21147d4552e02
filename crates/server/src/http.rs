//! Connections: accepted, encrypted if configured, and shut down gracefully.

use std::{convert::Infallible, io, path::Path, sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    http::{Request, Version},
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto::Builder, graceful::GracefulShutdown},
    service::TowerToHyperService,
};
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    sync::{Semaphore, watch},
};
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt;

use crate::{
    error::StartError,
    origin::Secure,
    pace::{self, Paced, answers::Answers},
    peer::Peer,
};

/// Maximum number of connections. Further clients wait.
const MAX_CONNECTIONS: usize = 8192;
/// Time limit for the head of a request, and for an idle connection.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// Time limit for the TLS handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Maximum size of a request's head, in bytes.
const MAX_HEAD: usize = 64 << 10;
/// Maximum number of concurrent requests on one HTTP/2 connection.
const MAX_STREAMS: u32 = 256;
/// Time limit for requests in progress when the server stops.
const LAST_REQUESTS: Duration = Duration::from_secs(3);

/// Loads a certificate and its key from PEM files.
pub(crate) fn tls(certificate: &Path, key: &Path) -> Result<TlsAcceptor, StartError> {
    let bad = |setting, path: &Path, reason: &dyn std::fmt::Display| StartError::Setting {
        setting,
        reason: format!("{}: {reason}", path.display()),
    };
    let chain = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|e| bad("tls-cert", certificate, &e))?;
    if chain.is_empty() {
        return Err(bad(
            "tls-cert",
            certificate,
            &"it contains no certificate in PEM form",
        ));
    }
    let private = PrivateKeyDer::from_pem_file(key).map_err(|e| bad("tls-key", key, &e))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| bad("tls-cert", certificate, &e))?
        .with_no_client_auth()
        .with_single_cert(chain, private);
    let mut config = config.map_err(|e| bad("tls-key", key, &e))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Serves connections until `stop` changes, then waits for requests in
/// progress.
pub(crate) async fn serve(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    router: Router,
    mut stop: watch::Receiver<bool>,
) {
    let graceful = GracefulShutdown::new();
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        // The semaphore is never closed.
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            break;
        };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stop.changed() => break,
        };
        let (stream, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // For example too many open files. Connections in use end eventually.
                tracing::warn!("A connection can't be accepted: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let _ = stream.set_nodelay(true);
        let stream = Paced::new(stream);
        let (tls, router, watcher) = (tls.clone(), router.clone(), graceful.watcher());
        tokio::spawn(async move {
            let peer = Peer(Some(address.ip()));
            let served = match tls {
                None => {
                    let answers = Answers::new(pace::PATIENCE);
                    converse(stream, router, peer, Secure(false), watcher, answers).await
                }
                Some(tls) => {
                    let agreed = tokio::time::timeout(HANDSHAKE_TIMEOUT, tls.accept(stream));
                    match agreed.await {
                        Ok(Ok(stream)) => {
                            let answers = Answers::new(pace::PATIENCE);
                            converse(stream, router, peer, Secure(true), watcher, answers).await
                        }
                        Ok(Err(error)) => Err(error.into()),
                        Err(_) => Err(io::Error::from(io::ErrorKind::TimedOut).into()),
                    }
                }
            };
            if let Err(error) = served {
                tracing::debug!("A connection ended: {error}");
            }
            drop(place);
        });
    }
    drop(listener);
    // Followers of a log would never end.
    let _ = tokio::time::timeout(LAST_REQUESTS, graceful.shutdown()).await;
}

async fn converse(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    router: Router,
    peer: Peer,
    secure: Secure,
    watcher: hyper_util::server::graceful::Watcher,
    answers: Arc<Answers>,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let watched = Arc::clone(&answers);
    let service = tower::service_fn(move |request: Request<hyper::body::Incoming>| {
        let has_streams = request.version() == Version::HTTP_2;
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(peer);
        request.extensions_mut().insert(secure);
        let (router, watched) = (router.clone(), Arc::clone(&watched));
        async move {
            let answer = router.oneshot(request).await?;
            Ok::<_, Infallible>(match has_streams {
                true => answer.map(|body| watched.watch(body)),
                false => answer,
            })
        }
    });
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_HEAD as u32)
        .keep_alive_interval(HEAD_TIMEOUT)
        .keep_alive_timeout(HEAD_TIMEOUT);
    let service = TowerToHyperService::new(service);
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        served = watcher.watch(connection.into_owned()) => served,
        () = answers.stalled() => Err("the client does not read an answer".into()),
    }
}

#[cfg(test)]
mod tests {
    use axum::{body::Bytes, routing::get};
    use futures_util::stream;

    use super::*;

    const SIZE: usize = 1 << 20;

    /// Sends a request over HTTP/2 to a server with this patience. Returns the
    /// number of bytes read and the error with which the server ended the
    /// connection.
    async fn ask(patience: Duration, window: u32) -> (usize, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let body = || {
            let pieces = (0..4).map(|_| Ok::<_, io::Error>(Bytes::from(vec![7; SIZE / 4])));
            Body::from_stream(stream::iter(pieces))
        };
        let router = Router::new().route("/", get(async move || body()));
        let graceful = GracefulShutdown::new();
        let watcher = graceful.watcher();
        let serving = tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let answers = Answers::new(patience);
            let (peer, secure) = (Peer(None), Secure(false));
            let served = converse(stream, router, peer, secure, watcher, answers).await;
            served.map_or_else(|e| e.to_string(), |()| String::new())
        });
        // The client needs a TLS provider, although it does not use TLS here.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder()
            .http2_prior_knowledge()
            .http2_initial_stream_window_size(window)
            .build()
            .unwrap();
        let answer = client.get(format!("http://{address}/")).send().await;
        let mut read = 0;
        if window > 0 {
            let mut answer = answer.unwrap();
            while let Ok(Some(bytes)) = answer.chunk().await {
                read += bytes.len();
            }
            drop((answer, client));
            return (read, serving.await.unwrap());
        }
        // The answer is kept but never read.
        let ended = serving.await.unwrap();
        drop((answer, client));
        (read, ended)
    }

    #[tokio::test]
    async fn an_http_2_client_without_a_window_is_cut_off() {
        let (read, ended) = ask(Duration::from_millis(20), 0).await;
        assert_eq!(read, 0);
        assert!(ended.contains("does not read"), "{ended}");
        // A client that reads receives everything.
        let (read, ended) = ask(pace::PATIENCE, 70_000).await;
        assert_eq!((read, ended.as_str()), (SIZE, ""));
    }
}
