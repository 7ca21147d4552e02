//! Retries, time-outs, and the effects of repeated calls.

use std::{
    io::{Read, Write},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use finetuner::{Document, DocumentArray, Finetuner, RetryPolicy};
use serde_json::json;
use wiremock::{MockServer, ResponseTemplate};

use crate::mock::{
    ARTIFACT, Sequence, TOKEN, accept_all, count, login, on, proxy_that_loses, raw_server, send,
    short_pauses, with_run,
};

const RUN: &str = "/api/v1/experiments/default/runs/r";

fn status(code: u16) -> ResponseTemplate {
    ResponseTemplate::new(code)
}

async fn connect(url: String, policy: RetryPolicy) -> Finetuner {
    let builder = Finetuner::builder().registry(url).token(TOKEN);
    builder.retry(policy).connect().await.unwrap()
}

/// Time limit for servers that never answer.
async fn connect_with_time_limit(url: String, policy: RetryPolicy) -> Finetuner {
    Finetuner::builder()
        .registry(url)
        .token(TOKEN)
        .timeout(Duration::from_secs(1))
        .idle_timeout(Duration::from_secs(1))
        .outage_limit(Duration::ZERO)
        .retry(policy)
        .connect()
        .await
        .unwrap()
}

/// Error of a fault, and the number of calls made.
struct Seen {
    fault: &'static str,
    answer: ResponseTemplate,
    /// Number of calls of `status` (reads) and `create_experiment` (creates).
    attempts: (usize, usize),
    is: fn(&finetuner::Error) -> bool,
}

#[tokio::test]
async fn every_status_is_retried_only_if_safe_and_has_its_error_kind() {
    let soon = httpdate::fmt_http_date(std::time::SystemTime::now());
    let detail = |code: u16| status(code).set_body_json(json!({"detail": "no"}));
    let table = [
        Seen {
            fault: "400",
            answer: detail(400),
            attempts: (1, 1),
            is: |e| e.is_invalid() && !e.is_retryable(),
        },
        Seen {
            fault: "401",
            answer: detail(401),
            attempts: (1, 1),
            is: finetuner::Error::is_unauthorized,
        },
        Seen {
            fault: "403",
            answer: detail(403),
            attempts: (1, 1),
            is: finetuner::Error::is_forbidden,
        },
        Seen {
            fault: "408",
            answer: detail(408),
            attempts: (4, 1),
            is: |e| e.is_retryable() && e.status() == Some(408),
        },
        Seen {
            fault: "409",
            answer: detail(409),
            attempts: (1, 1),
            is: finetuner::Error::is_conflict,
        },
        Seen {
            fault: "413",
            answer: detail(413),
            attempts: (1, 1),
            is: finetuner::Error::is_too_large,
        },
        Seen {
            // Refused before execution, so repeating a creation is safe too.
            fault: "429 with seconds",
            answer: detail(429).insert_header("retry-after", "0"),
            attempts: (4, 4),
            is: finetuner::Error::is_rate_limited,
        },
        Seen {
            fault: "429 with a date",
            answer: detail(429).insert_header("retry-after", soon.as_str()),
            attempts: (4, 4),
            is: finetuner::Error::is_rate_limited,
        },
        Seen {
            fault: "500",
            answer: detail(500),
            attempts: (4, 1),
            is: |e| e.is_server() && e.is_retryable(),
        },
        Seen {
            fault: "501",
            answer: detail(501),
            attempts: (1, 1),
            is: |e| e.is_server() && !e.is_retryable(),
        },
        Seen {
            fault: "520 of a proxy",
            answer: status(520),
            attempts: (4, 1),
            is: |e| e.is_server() && e.is_retryable(),
        },
        Seen {
            fault: "502 with a web page",
            answer: status(502).set_body_raw("<html>Bad Gateway</html>", "text/html"),
            attempts: (4, 1),
            is: |e| e.is_server() && e.body() == Some("<html>Bad Gateway</html>"),
        },
        Seen {
            fault: "503",
            answer: detail(503),
            attempts: (4, 1),
            is: |e| e.is_server() && e.is_retryable(),
        },
        Seen {
            fault: "truncated JSON",
            answer: status(200).set_body_raw("{\"status\": \"STAR", "application/json"),
            attempts: (1, 1),
            is: finetuner::Error::is_decode,
        },
        Seen {
            fault: "another content type",
            answer: status(200).set_body_raw("<html>Log in</html>", "text/html"),
            attempts: (1, 1),
            is: |e| e.is_decode() && e.body().unwrap().contains("Log in"),
        },
    ];
    for Seen {
        fault,
        answer,
        attempts: (reading, creating),
        is,
    } in table
    {
        let (server, finetuner, run) = with_run("/status", answer.clone()).await;
        on(&server, "POST", "/api/v1/experiments/", answer).await;
        let error = run.status().await.unwrap_err();
        assert!(is(&error), "{fault}: {error:?}");
        assert_eq!(count(&server, "/status").await, reading, "{fault}");
        assert_eq!(error.attempts() as usize, reading, "{fault}");
        assert!(error.request_id().is_some(), "{fault}");
        let error = finetuner.create_experiment("e").await.unwrap_err();
        assert!(is(&error), "{fault}: {error:?}");
        assert_eq!(count(&server, "/experiments/").await, creating, "{fault}");
    }
}

#[tokio::test]
async fn a_deletion_with_a_lost_answer_succeeds() {
    let (server, finetuner) = accept_all().await;
    let gone = || status(404).set_body_json(json!({"detail": "there is no such run"}));
    let experiment = "/api/v1/experiments/e";
    let delete = "/v2/rpc/artifact.delete";
    for lost in [500, 502, 504, 520] {
        let server = MockServer::start().await;
        on(
            &server,
            "DELETE",
            RUN,
            Sequence::new([status(lost), gone()]),
        )
        .await;
        on(
            &server,
            "DELETE",
            experiment,
            Sequence::new([status(lost), gone()]),
        )
        .await;
        on(
            &server,
            "POST",
            delete,
            Sequence::new([status(lost), gone()]),
        )
        .await;
        let finetuner = connect(server.uri(), short_pauses()).await;
        finetuner.delete_run("r").await.unwrap();
        assert_eq!(finetuner.delete_experiment("e").await.unwrap().name(), "e");
        finetuner.delete_documents("d").await.unwrap();
    }
    // No earlier attempt took effect: the run never existed.
    for refused in [429, 503] {
        let server = MockServer::start().await;
        on(
            &server,
            "DELETE",
            RUN,
            Sequence::new([status(refused), gone()]),
        )
        .await;
        let finetuner = connect(server.uri(), short_pauses()).await;
        assert!(finetuner.delete_run("r").await.unwrap_err().is_not_found());
    }
    on(&server, "DELETE", RUN, gone()).await;
    assert!(finetuner.delete_run("r").await.unwrap_err().is_not_found());
}

#[tokio::test]
async fn objects_stay_deleted_when_the_answer_is_lost() {
    let (server, direct) = crate::backend::start().await;
    direct.create_experiment("shoes").await.unwrap();
    let mut documents = DocumentArray::new();
    documents.push(Document::text("a shoe"));
    direct.push("shoes", &documents).await.unwrap();
    let target = server.url().trim_start_matches("http://").to_owned();
    for lost in [
        "DELETE /api/v1/experiments/shoes ",
        "POST /v2/rpc/artifact.delete ",
    ] {
        let finetuner = Finetuner::builder()
            .registry(proxy_that_loses(target.clone(), lost))
            .token(server.first_token().unwrap())
            .retry(short_pauses())
            .connect()
            .await
            .unwrap();
        match lost.starts_with("DELETE") {
            true => drop(finetuner.delete_experiment("shoes").await.unwrap()),
            false => finetuner.delete_documents("shoes").await.unwrap(),
        }
    }
    assert!(direct.list_experiments().await.unwrap().is_empty());
    assert!(direct.list_documents().await.unwrap().is_empty());
}

#[tokio::test]
async fn the_start_of_an_incomplete_error_body_is_reported() {
    // A stream and an upload, which may take long in total.
    let url = raw_server(|n, connection| {
        let run = json!({"name": "r", "config": {}, "artifact_id": ARTIFACT}).to_string();
        if n == 0 {
            return send(connection, &run);
        }
        let head = "HTTP/1.1 507 Insufficient Storage\r\ncontent-length: 900\r\n\r\n";
        let _ = write!(connection, "{head}the disk is full");
        // Ends when the client disconnects.
        let _ = connection.read_to_end(&mut Vec::new());
    });
    let finetuner = connect_with_time_limit(url, short_pauses()).await;
    let run = finetuner.get_run("r").await.unwrap();
    let error = run.stream_logs().next().await.unwrap().unwrap_err();
    assert_eq!(error.body(), Some("the disk is full"), "{error}");
    let mut documents = DocumentArray::new();
    documents.push(Document::text("a shoe"));
    let error = finetuner.push("d", &documents).await.unwrap_err();
    assert_eq!(error.status(), Some(507), "{error}");
}

#[tokio::test]
async fn the_answer_to_an_upload_has_a_time_limit() {
    let url = raw_server(|_, connection| {
        let _ = write!(
            connection,
            "HTTP/1.1 200 OK\r\ncontent-length: 900\r\n\r\n{{"
        );
        let _ = connection.read_to_end(&mut Vec::new());
    });
    let finetuner = connect_with_time_limit(url, RetryPolicy::never()).await;
    let mut documents = DocumentArray::new();
    documents.push(Document::text("a shoe"));
    let error = finetuner.push("d", &documents).await.unwrap_err();
    assert!(error.is_timeout(), "{error}");
}

#[tokio::test]
async fn a_status_call_has_the_configured_timeout() {
    let url = raw_server(|n, connection| {
        let run = json!({"name": "r", "config": {}, "artifact_id": ARTIFACT}).to_string();
        match n {
            0 => send(connection, &run),
            _ => drop(connection.read(&mut [0; 1])),
        }
    });
    let run = connect_with_time_limit(url, RetryPolicy::never())
        .await
        .get_run("r")
        .await
        .unwrap();
    let error = run.status().await.unwrap_err();
    assert!(
        error.is_timeout() && error.to_string().contains("no answer in 1s"),
        "{error}"
    );
}

#[tokio::test]
async fn a_broken_download_has_as_many_attempts_as_a_call() {
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked);
    let url = raw_server(move |n, connection| match n {
        0 => {
            let data = r#"{"data": {"download": "/v2/download/key"}}"#;
            send(connection, data);
        }
        1 => {
            counted.fetch_add(1, Ordering::SeqCst);
            let head = "HTTP/1.1 200 OK\r\ncontent-length: 900\r\n\r\n";
            let _ = write!(connection, "{head}the first bytes");
        }
        _ => {
            counted.fetch_add(1, Ordering::SeqCst);
            let head = "HTTP/1.1 503 Busy\r\ncontent-length: 0\r\nconnection: close";
            let _ = write!(connection, "{head}\r\n\r\n");
        }
    });
    let error = connect(url, short_pauses())
        .await
        .pull("d")
        .await
        .unwrap_err();
    assert_eq!(error.status(), Some(503), "{error}");
    assert_eq!(error.attempts(), 4);
    assert_eq!(asked.load(Ordering::SeqCst), 4);
}

#[tokio::test]
async fn a_redirect_loop_is_not_retried() {
    let (server, _, run) = with_run(
        "/status",
        status(302).insert_header("location", format!("{RUN}/status")),
    )
    .await;
    let error = run.status().await.unwrap_err();
    assert!(error.is_decode() && !error.is_retryable(), "{error:?}");
    assert!(error.to_string().contains("too often"), "{error}");
    assert_eq!(error.attempts(), 1);
    assert_eq!(count(&server, "/status").await, 6);
}

#[tokio::test]
async fn a_web_server_that_is_not_a_backend_is_recognised() {
    let page = "<!DOCTYPE html><html><body>Log in to the hotel</body></html>";
    for (code, attempts) in [(200, 1), (404, 1), (502, 4)] {
        let server = MockServer::start().await;
        let answer = status(code).set_body_raw(page, "text/html; charset=utf-8");
        on(&server, "POST", "/v2/rpc/user.identity.whoami", answer).await;
        let error = login(&server).await.unwrap_err();
        let text = error.to_string();
        assert!(text.contains("not a Finetuner backend"), "{text}");
        assert!(text.contains("Log in to the hotel"), "{text}");
        assert_eq!(error.attempts(), attempts, "{code}");
    }
    // Nor does a log stream.
    let answer = status(200).set_body_raw(page, "text/html");
    let (_server, _, run) = with_run("/logs", answer).await;
    assert!(run.logs().await.unwrap_err().is_decode());
}
