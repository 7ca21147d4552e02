//! Tests of contents with a server and a store that count requests.

use std::sync::{Arc, Mutex, atomic::AtomicUsize};

use axum::{
    Json, Router,
    http::{HeaderMap, StatusCode, header},
    routing::get,
};
use sha2::{Digest, Sha256};

use super::*;

const BYTES: &str = "documents";

/// Counts of requests, and the warnings in the run's log.
#[derive(Default)]
struct Seen {
    from_server: AtomicUsize,
    from_store: AtomicUsize,
    warnings: Mutex<Vec<String>>,
}

impl Seen {
    fn counts(&self) -> (usize, usize) {
        let count = |counter: &AtomicUsize| counter.load(Ordering::Relaxed);
        (count(&self.from_server), count(&self.from_store))
    }
}

async fn listen(routes: Router) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, routes).await });
    url
}

/// Starts a server with one content, and optionally a store that answers with
/// this status and body.
async fn server(seen: &Arc<Seen>, store: Option<(StatusCode, &'static str)>) -> Server {
    let mut url = None;
    if let Some((status, body)) = store {
        let counted = Arc::clone(seen);
        let answer = get(async move |headers: HeaderMap| {
            assert!(!headers.contains_key(header::AUTHORIZATION));
            counted.from_store.fetch_add(1, Ordering::Relaxed);
            (status, body)
        });
        let address = listen(Router::new().route("/object", answer)).await;
        url = Some(format!("{address}/object?X-Amz-Signature=s3cret"));
    }
    let content = WorkContent {
        sha256: hex::encode(Sha256::digest(BYTES)),
        size: BYTES.len() as u64,
        url,
    };
    let counted = Arc::clone(seen);
    let data = get(async move || {
        counted.from_server.fetch_add(1, Ordering::Relaxed);
        BYTES
    });
    let routes = Router::new()
        .route("/api/v1/worker/content", get(async || Json(content)))
        .route("/api/v1/worker/data", data);
    Server::new(&listen(routes).await, "t".into(), &Authorities::default()).unwrap()
}

fn contents(server: Server, cache: Option<Cache>, seen: &Arc<Seen>) -> Contents {
    let seen = Arc::clone(seen);
    Contents::new(server, Authorities::default(), cache, move |words| {
        seen.warnings.lock().unwrap().push(words);
    })
}

#[tokio::test]
async fn workers_of_one_machine_fetch_content_once() {
    let (seen, folder) = (Arc::default(), tempfile::tempdir().unwrap());
    let server = server(&seen, None).await;
    for worker in ["a", "b"] {
        let cache = Cache::open(&folder.path().join("cache"), 1000).unwrap();
        let path = folder.path().join(worker);
        let contents = contents(server.clone(), Some(cache), &seen);
        contents.fetch("train_data", &path).await.unwrap();
        assert_eq!(std::fs::read_to_string(path).unwrap(), BYTES);
    }
    assert_eq!(seen.counts(), (1, 0));
    assert!(seen.warnings.lock().unwrap().is_empty());
}

#[tokio::test]
async fn an_unusable_cache_only_gives_a_warning() {
    let (seen, folder) = (Arc::default(), tempfile::tempdir().unwrap());
    let server = server(&seen, None).await;
    let cache = Cache::open(&folder.path().join("cache"), 1000).unwrap();
    // A file in place of the folder fails for every user, including root.
    std::fs::remove_dir(cache.folder()).unwrap();
    std::fs::write(cache.folder(), "").unwrap();
    let contents = contents(server, Some(cache), &seen);
    let path = folder.path().join("file");
    for _ in 0..2 {
        contents.fetch("train_data", &path).await.unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), BYTES);
    }
    let warnings = seen.warnings.lock().unwrap();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("does not work"), "{warnings:?}");
}

#[tokio::test]
async fn content_is_fetched_directly_from_the_store() {
    let (seen, folder) = (Arc::default(), tempfile::tempdir().unwrap());
    let server = server(&seen, Some((StatusCode::OK, BYTES))).await;
    let path = folder.path().join("file");
    let contents = contents(server, None, &seen);
    contents.fetch("train_data", &path).await.unwrap();
    assert_eq!(std::fs::read_to_string(path).unwrap(), BYTES);
    assert_eq!(seen.counts(), (0, 1));
}

#[tokio::test]
async fn content_that_the_store_refuses_is_fetched_from_the_server() {
    for answer in [
        (StatusCode::FORBIDDEN, "expired"),
        (StatusCode::OK, "damaged!!"),
        (StatusCode::OK, "documents and more"),
        (StatusCode::TEMPORARY_REDIRECT, ""),
    ] {
        let (seen, folder) = (Arc::default(), tempfile::tempdir().unwrap());
        let server = server(&seen, Some(answer)).await;
        let path = folder.path().join("file");
        let contents = contents(server, None, &seen);
        contents.fetch("train_data", &path).await.unwrap();
        assert_eq!(std::fs::read_to_string(path).unwrap(), BYTES);
        assert_eq!(seen.counts(), (1, 1), "{answer:?}");
        let warnings = seen.warnings.lock().unwrap();
        assert!(warnings[0].contains("through the server"), "{warnings:?}");
        assert!(!warnings[0].contains("s3cret"), "{warnings:?}");
    }
}

#[tokio::test]
async fn an_unreachable_store_is_not_fatal_and_its_address_stays_secret() {
    let (seen, folder) = (Arc::default(), tempfile::tempdir().unwrap());
    let server = server(&seen, None).await;
    let contents = contents(server, None, &seen);
    let gone = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!(
        "http://{}/o?X-Amz-Signature=s3cret",
        gone.local_addr().unwrap()
    );
    drop(gone);
    let content = WorkContent {
        sha256: hex::encode(Sha256::digest(BYTES)),
        size: BYTES.len() as u64,
        url: Some(url),
    };
    assert!(!format!("{content:?}").contains("s3cret"));
    let path = folder.path().join("file");
    let fetched = contents.fetched_from_store(&content, &path).await.unwrap();
    assert!(!fetched);
    let warnings = seen.warnings.lock().unwrap();
    assert!(!warnings[0].contains("s3cret"), "{warnings:?}");
}
