//! The kinds and details of errors.

use std::{error::Error as _, io, time::Duration};

use finetuner::{Error, ErrorKind, Finetuner};
use finetuner_test::Fault;

use crate::mock::test_backend;

#[test]
fn every_status_maps_to_an_error_kind() {
    let kinds = [
        (400, ErrorKind::Invalid),
        (401, ErrorKind::Unauthorized),
        (403, ErrorKind::Forbidden),
        (404, ErrorKind::NotFound),
        (409, ErrorKind::Conflict),
        (413, ErrorKind::TooLarge),
        (418, ErrorKind::Status),
        (422, ErrorKind::Invalid),
        (429, ErrorKind::RateLimited),
        (500, ErrorKind::Server),
        (599, ErrorKind::Server),
    ];
    for (status, kind) in kinds {
        let error = Error::from_response(status, "");
        assert_eq!((error.kind(), error.status()), (kind, Some(status)));
    }
    let error = Error::from_connection(io::ErrorKind::ConnectionRefused.into());
    assert_eq!(error.kind(), ErrorKind::Connect);
    assert_eq!(error.io_kind(), Some(io::ErrorKind::ConnectionRefused));
    assert_eq!(
        Error::from_failed_run("r", "x").kind(),
        ErrorKind::RunFailed
    );
}

#[tokio::test]
async fn a_report_of_all_sources_names_each_cause_once() {
    let refused = io::Error::new(io::ErrorKind::ConnectionRefused, "nobody at home");
    let missing = finetuner::load_documents("no/such/file.da").await;
    let broken = io::Error::new(io::ErrorKind::BrokenPipe, "pipe of clay");
    let errors = [
        (Error::from_connection(refused), "nobody at home"),
        (Error::from_connection(broken), "pipe of clay"),
        (missing.unwrap_err(), "no/such/file.da"),
    ];
    for (error, cause) in errors {
        let mut report = error.to_string();
        let mut source = error.source();
        while let Some(error) = source {
            report += &format!(": {error}");
            source = error.source();
        }
        assert_eq!(report.matches(cause).count(), 1, "{report}");
        assert!(error.get_ref().is_some(), "{report}");
    }
}

#[tokio::test]
async fn an_invalid_argument_has_field_and_reason() {
    let (_backend, finetuner) = test_backend().await;
    let fit = finetuner.fit("clip-small", "train").epochs(50);
    let error = fit.await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    let invalid = error.invalid_field().unwrap();
    let told = [&invalid.field, &invalid.value, &invalid.limit];
    assert_eq!(told, ["epochs", "50", "1 to 49 are allowed"]);
}

#[tokio::test]
async fn errors_expose_retry_after() {
    let (backend, _) = test_backend().await;
    backend.fault(Fault::status(429).retry_after(Duration::from_secs(3600)));
    let builder = Finetuner::builder()
        .registry(backend.url())
        .token(backend.token());
    let error = builder.login().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::RateLimited);
    assert_eq!(error.retry_after(), Some(Duration::from_secs(3600)));
}
