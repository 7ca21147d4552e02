//! Requests through the program's own HTTP service.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use finetuner::{Document, DocumentArray, Finetuner, RequestBody};
use finetuner_test::TestBackend;

use crate::mock::{short_pauses, test_backend};

fn builder() -> finetuner::Builder {
    Finetuner::builder()
        .registry("http://127.0.0.1:1")
        .token("t")
        .retry(short_pauses())
}

#[tokio::test]
async fn a_service_sends_all_requests_with_their_headers_and_bodies() {
    let backend = TestBackend::start().await.unwrap();
    let inner = backend.service();
    let count = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&count);
    let service = tower::service_fn(move |request: http::Request<RequestBody>| {
        counted.fetch_add(1, Ordering::SeqCst);
        let mut inner = inner.clone();
        async move { tower::Service::call(&mut inner, request).await }
    });
    // Nobody listens at this address.
    let finetuner = builder()
        .token(backend.token())
        .user_agent("my-app/1.2")
        .http_service(service)
        .login()
        .await
        .unwrap();
    let documents: DocumentArray = [Document::text("a")].into_iter().collect();
    finetuner.push("texts", documents).await.unwrap();
    assert_eq!(finetuner.pull("texts").await.unwrap().len(), 1);
    let received = backend.received();
    assert_eq!(received.len(), count.load(Ordering::SeqCst));
    for request in received {
        let agent = request.header("user-agent").unwrap();
        assert!(agent.starts_with("my-app/1.2 finetuner-rs/"), "{agent}");
        assert_eq!(request.header("x-request-id").unwrap().len(), 32);
    }
}

#[tokio::test]
async fn errors_of_a_service_keep_their_cause() {
    let failing = |kind: io::ErrorKind| {
        let calls = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&calls);
        let service = tower::service_fn(move |_: http::Request<RequestBody>| {
            counted.fetch_add(1, Ordering::SeqCst);
            async move { Err::<http::Response<String>, _>(io::Error::from(kind)) }
        });
        (builder().http_service(service), calls)
    };
    let (refusing, calls) = failing(io::ErrorKind::ConnectionRefused);
    let error = refusing.login().await.unwrap_err();
    assert!(error.is_connect(), "{error:?}");
    assert_eq!(calls.load(Ordering::SeqCst), 4, "the policy's attempts");
    let (slow, _) = failing(io::ErrorKind::TimedOut);
    assert!(slow.login().await.unwrap_err().is_timeout());
    let (broken, _) = failing(io::ErrorKind::BrokenPipe);
    let error = broken.login().await.unwrap_err();
    assert!(error.is_retryable() && !error.is_connect(), "{error:?}");
    assert!(
        error.to_string().contains("the connection broke"),
        "{error}"
    );
}

#[tokio::test]
async fn transport_settings_are_refused_with_a_custom_service() {
    let (backend, _) = test_backend().await;
    let builder = || builder().http_service(backend.service());
    for (builder, setting) in [
        (builder().proxy("http://proxy:3128"), "proxy"),
        (
            builder().add_root_certificate("pem"),
            "add_root_certificate",
        ),
        (
            builder().connect_timeout(std::time::Duration::from_secs(1)),
            "connect_timeout",
        ),
    ] {
        let error = builder.connect().await.unwrap_err().to_string();
        assert!(error.contains(&format!("`{setting}`")), "{error}");
        assert!(error.contains("http_service"), "{error}");
    }
    assert!(builder().connect().await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_service_without_an_answer_times_out() {
    let silent = tower::service_fn(|_: http::Request<RequestBody>| {
        std::future::pending::<io::Result<http::Response<String>>>()
    });
    let error = builder().http_service(silent).login().await.unwrap_err();
    assert!(error.is_timeout(), "{error:?}");
}
