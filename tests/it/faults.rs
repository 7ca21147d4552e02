//! Failures of the network and of the backend.

use std::{
    io::{Read, Write},
    net::TcpListener,
    time::Duration,
};

use finetuner::Finetuner;
use finetuner_test::{Fault, TestBackend};
use serde_json::json;
use wiremock::{MockServer, ResponseTemplate};

use crate::mock::{
    ARTIFACT, Sequence, TOKEN, WHOAMI, accept_all, count, finished_test_run, login, on,
    proxy_that_loses, raw_server, send, short_pauses, test_backend, with_run,
};

const STATUS: &str = "/api/v1/experiments/default/runs/r/status";

fn status(code: u16) -> ResponseTemplate {
    ResponseTemplate::new(code)
}

fn good_status() -> ResponseTemplate {
    status(200).set_body_json(json!({"status": "STARTED", "details": ""}))
}

#[tokio::test]
async fn an_unreachable_server_is_reported_with_the_command_to_start_one() {
    // A port that was free a moment ago, so nobody listens on it.
    let free = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let login = Finetuner::builder()
        .registry(format!("http://{free}"))
        .token(TOKEN)
        .retry(short_pauses())
        .login();
    let error = login.await.unwrap_err();
    assert!(error.is_connect(), "{error:?}");
    let text = error.to_string();
    for part in [
        "finetuner-server -- serve",
        "JINA_FINETUNER_REGISTRY",
        &free.to_string(),
    ] {
        assert!(text.contains(part), "{part} is not in: {text}");
    }
}

#[tokio::test]
async fn a_wrong_token_fails_at_login() {
    let server = MockServer::start().await;
    let denied = status(401).set_body_json(json!({
        "code": 401, "status": 40103, "message": "Authentication required",
        "readableMessage": "the token is not known", "data": null,
    }));
    on(&server, "POST", "/v2/rpc/user.identity.whoami", denied).await;
    let error = login(&server).await.unwrap_err();
    assert!(error.is_unauthorized() && !error.is_retryable());
    assert_eq!(error.status(), Some(401));
    assert_eq!(error.server_message(), Some("the token is not known"));
    assert_eq!(
        count(&server, "whoami").await,
        1,
        "a wrong token is not retried"
    );
}

#[tokio::test]
async fn reads_are_retried_until_the_server_recovers() {
    let (backend, _, run) = finished_test_run().await;
    backend.fault(Fault::status(502).on("/status"));
    backend.fault(Fault::status(503).on("/status"));
    assert_eq!(run.status().await.unwrap().status.as_str(), "FINISHED");
    assert_eq!(backend.count("/status"), 3);
}

#[tokio::test(start_paused = true)]
async fn retry_after_is_honoured() {
    let backend = TestBackend::start().await.unwrap();
    let finetuner = Finetuner::builder()
        .registry(backend.url())
        .token(backend.token())
        .http_service(backend.service());
    let finetuner = finetuner.login().await.unwrap();
    let minute = Duration::from_secs(60);
    backend.fault(Fault::status(429).retry_after(minute).on("whoami"));
    let started = tokio::time::Instant::now();
    finetuner.whoami().await.unwrap();
    assert!(started.elapsed() >= minute);
    assert_eq!(backend.count("whoami"), 3, "one of them at login");
}

#[tokio::test]
async fn an_html_answer_is_kept_in_the_error() {
    let page = "<html><body>504 Gateway Time-out</body></html>";
    let (backend, _, run) = finished_test_run().await;
    backend.fault(Fault::status(504).body(page).on("/status").always());
    let error = run.status().await.unwrap_err();
    assert_eq!(error.status(), Some(504));
    assert!(error.is_retryable());
    assert_eq!(error.body(), Some(page));
    assert!(error.to_string().contains("504"), "{error}");
    assert_eq!(backend.count("/status"), 4, "the policy's attempts");
}

#[tokio::test]
async fn invalid_json_is_reported_with_its_path() {
    let answer = status(200).set_body_json(json!({"status": 7, "details": ""}));
    let (_server, _, run) = with_run("/status", answer).await;
    let error = run.status().await.unwrap_err();
    assert!(
        error.to_string().contains("status: invalid type"),
        "{error}"
    );

    let (_server, _, run) = with_run("/metrics", status(200).set_body_string("<ok>")).await;
    let error = run.metrics().await.unwrap_err();
    assert_eq!(error.body(), Some("<ok>"));
}

#[tokio::test]
async fn a_truncated_answer_is_requested_again() {
    let url = raw_server(|n, connection| match n {
        0 => {
            let head = "HTTP/1.1 200 OK\r\ncontent-length: 900\r\n\r\n{\"code\": 2";
            let _ = connection.write_all(head.as_bytes());
        }
        _ => send(connection, WHOAMI),
    });
    let login = Finetuner::builder()
        .registry(url)
        .token(TOKEN)
        .retry(short_pauses());
    assert_eq!(login.login().await.unwrap().user().unwrap().name, "ada");
}

#[tokio::test]
async fn connections_closed_without_an_answer_become_an_error() {
    let url = raw_server(|_, connection| {
        let _ = connection.shutdown(std::net::Shutdown::Both);
    });
    let login = Finetuner::builder()
        .registry(url)
        .token(TOKEN)
        .retry(short_pauses().attempts(2));
    let error = login.login().await.unwrap_err();
    assert!(!error.is_connect() && error.is_retryable(), "{error:?}");
    assert!(error.to_string().contains("2 tries"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_missing_answer_times_out() {
    // The paused clock advances whenever all tasks wait.
    let url = raw_server(|_, connection| {
        let _ = connection.read(&mut [0; 1]);
    });
    let login = Finetuner::builder()
        .registry(url)
        .token(TOKEN)
        .retry(short_pauses().attempts(1));
    let error = login.login().await.unwrap_err();
    assert!(error.is_timeout(), "{error}");
}

#[tokio::test]
async fn a_fit_is_retried_with_the_same_idempotency_key() {
    let (server, finetuner) = accept_all().await;
    let created = status(201).set_body_json(json!({"name": "once", "artifact_id": ARTIFACT}));
    let runs = "/api/v1/experiments/default/runs";
    on(&server, "POST", runs, Sequence::new([status(503), created])).await;
    finetuner
        .fit("clip-small", "t")
        .run_name("once")
        .await
        .unwrap();
    let requests = server.received_requests().await.unwrap();
    let keys: Vec<_> = requests
        .iter()
        .filter(|r| r.url.path() == runs)
        .map(|r| r.headers["idempotency-key"].clone())
        .collect();
    assert_eq!(keys.len(), 2);
    assert_eq!(keys[0], keys[1]);

    finetuner
        .fit("clip-small", "t")
        .run_name("twice")
        .await
        .unwrap();
    let requests = server.received_requests().await.unwrap();
    assert_ne!(requests.last().unwrap().headers["idempotency-key"], keys[0]);
}

#[tokio::test]
async fn creating_an_experiment_is_not_retried() {
    let (server, finetuner) = accept_all().await;
    on(&server, "POST", "/api/v1/experiments/", status(500)).await;
    let error = finetuner.create_experiment("tests").await.unwrap_err();
    assert_eq!(error.status(), Some(500));
    assert_eq!(count(&server, "/experiments/").await, 1);
}

#[tokio::test]
async fn a_broken_log_stream_resumes() {
    // The second connection starts over, as from a server that can't resume.
    let first = "id: 1\ndata: one\n\nid: 2\ndata: two\n\nid: 3\nda";
    let second = "id: 2\ndata: two\n\nid: 3\ndata: three\n\n";
    let stream = |text: &str| status(200).set_body_raw(text, "text/event-stream");
    let (server, _, run) =
        with_run("/logstream", Sequence::new([stream(first), stream(second)])).await;
    let finished = status(200).set_body_json(json!({"status": "FINISHED", "details": ""}));
    on(
        &server,
        "GET",
        STATUS,
        Sequence::new([good_status(), finished]),
    )
    .await;
    let mut lines = Vec::new();
    let mut stream = run.stream_logs();
    while let Some(line) = stream.next().await {
        lines.push(line.unwrap());
    }
    assert_eq!(lines, ["one", "two", "three"]);
    let requests = server.received_requests().await.unwrap();
    let mut streams = requests
        .iter()
        .filter(|r| r.url.path().ends_with("/logstream"));
    let resumed = streams.nth(1).unwrap();
    assert_eq!(resumed.headers["last-event-id"], "2");
}

#[tokio::test]
async fn a_broken_log_stream_without_ids_repeats_no_line() {
    let stream = |text: &str| status(200).set_body_raw(text, "text/event-stream");
    // The lines need not be in the same events.
    let streams = [
        "data: one\n\ndata: two\n\ndata: thr",
        "data: one\ndata: two\ndata: three\n\nda",
        "data: one\n\ndata: two\n\ndata: three\n\ndata: four\n\n",
    ];
    let (server, _, run) = with_run("/logstream", Sequence::new(streams.map(stream))).await;
    let finished = status(200).set_body_json(json!({"status": "FINISHED", "details": ""}));
    let states = Sequence::new([good_status(), good_status(), finished]);
    on(&server, "GET", STATUS, states).await;
    let mut lines = Vec::new();
    let mut stream = run.stream_logs();
    while let Some(line) = stream.next().await {
        lines.push(line.unwrap());
    }
    assert_eq!(lines, ["one", "two", "three", "four"]);
}

#[tokio::test]
async fn a_log_stream_that_ends_too_early_loses_no_line() {
    let cases = [
        ("FINISHED", false, false),
        ("FINISHED", false, true),
        ("FAILED", true, false),
    ];
    for (state, has_failed, is_deleted) in cases {
        let stream = |text: &str| status(200).set_body_raw(text, "text/event-stream");
        let texts = ["id: 1\ndata: one\n\n", "id: 2\ndata: two\n\n", ""];
        let mut streams = texts.map(stream);
        if is_deleted {
            streams[2] = status(404);
        }
        let (server, _, run) = with_run("/logstream", Sequence::new(streams)).await;
        let ended = status(200).set_body_json(json!({"status": state, "details": ""}));
        on(&server, "GET", STATUS, ended).await;
        let mut lines = run.stream_logs();
        assert_eq!(lines.next().await.unwrap().unwrap(), "one");
        assert_eq!(lines.next().await.unwrap().unwrap(), "two");
        match lines.next().await {
            Some(end) => assert!(has_failed && end.unwrap_err().is_run_failed()),
            None => assert!(!has_failed),
        }
        assert!(lines.next().await.is_none());
        assert_eq!(count(&server, "/logstream").await, 3);
    }
}

#[tokio::test]
async fn a_download_with_a_wrong_checksum_leaves_no_file() {
    let (server, finetuner) = accept_all().await;
    let address = format!("{}/v2/download/key", server.uri());
    let data = json!({"code": 200, "status": 20000, "data": {"download": address}});
    let answer = status(200).set_body_json(data);
    on(&server, "POST", "/v2/rpc/artifact.getDownloadUrl", answer).await;
    let changed = status(200)
        .insert_header("etag", format!("\"{}\"", "0".repeat(64)).as_str())
        .set_body_bytes("not the artifact");
    on(&server, "GET", "/v2/download/key", changed).await;
    let folder = tempfile::tempdir().unwrap();
    let run = finetuner.get_run("r").await.unwrap();
    let error = run
        .save_model(folder.path().join("model"))
        .await
        .unwrap_err();
    let text = error.to_string();
    assert!(text.contains("SHA-256") && !text.contains("key"), "{text}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);

    // A download address needs no token.
    let requests = server.received_requests().await.unwrap();
    let download = requests
        .iter()
        .find(|r| r.url.path() == "/v2/download/key")
        .unwrap();
    assert!(!download.headers.contains_key("authorization"));
}

#[tokio::test]
async fn results_of_an_unfinished_run_are_refused() {
    let (backend, finetuner) = test_backend().await;
    let control = backend.run("r");
    control.start();
    let run = finetuner.fit("clip-small", "t").run_name("r");
    let run = run.await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    for error in [
        run.save_model(folder.path().join("m"))
            .await
            .map(drop)
            .unwrap_err(),
        run.metrics().await.map(drop).unwrap_err(),
        run.artifact_id().await.map(drop).unwrap_err(),
    ] {
        assert!(error.is_run_in_progress(), "{error}");
    }
    control.fail("out of memory");
    let error = run.wait().await.unwrap_err();
    assert!(
        error.is_run_failed() && error.to_string().contains("out of memory"),
        "{error}"
    );
}

#[tokio::test]
async fn unknown_values_of_a_newer_server_are_kept() {
    let paused = json!({"status": "PAUSED", "details": "until noon", "since": 3});
    let (_server, _, run) = with_run("/status", status(200).set_body_json(paused)).await;
    let status_now = run.status().await.unwrap();
    assert_eq!(
        status_now.status,
        finetuner::Status::Other("PAUSED".to_owned())
    );
    // The run has neither finished nor failed.
    assert!(run.artifact_id().await.unwrap_err().is_run_in_progress());
    let (server, _) = accept_all().await;
    let newer = json!({
        "name": "r", "kind": "new", "config": {"shape": "unknown"}, "task": "distillation",
        "created_at": "2030", "artifact_id": null,
    });
    let at = "/api/v1/experiments/default/runs/newer";
    on(&server, "GET", at, status(200).set_body_json(newer)).await;
    let newer_there = login(&server).await.unwrap();
    let run = newer_there.get_run("newer").await.unwrap();
    assert_eq!(run.task().as_str(), "distillation");
    assert!(run.config().training().is_none());
}

#[tokio::test]
async fn an_answer_cut_by_a_reset_is_requested_again() {
    let url = raw_server(|n, connection| match n {
        0 | 1 => {
            let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\n{\"cod\r\n";
            let _ = connection.write_all(head.as_bytes());
            // Unread bytes make the system send a reset.
            let _ = connection.shutdown(std::net::Shutdown::Both);
        }
        _ => send(connection, WHOAMI),
    });
    let login = Finetuner::builder()
        .registry(url)
        .token(TOKEN)
        .retry(short_pauses());
    assert!(login.login().await.is_ok());
}

#[tokio::test]
async fn slow_headers_time_out() {
    let url = raw_server(|_, connection| {
        let _ = connection.write_all(b"HTTP/1.1 200 OK\r\ncontent-le");
        // Ends when the client gives up.
        let _ = connection.read(&mut [0; 1]);
    });
    let login = Finetuner::builder()
        .registry(url)
        .token(TOKEN)
        .timeout(Duration::from_millis(50))
        .retry(short_pauses().attempts(2));
    let error = login.login().await.unwrap_err();
    assert!(error.is_timeout(), "{error}");
    assert_eq!(error.attempts(), 2);
}

#[tokio::test]
async fn a_creation_with_a_lost_answer_creates_one_object() {
    let (server, direct) = crate::backend::with_data(16).await;
    direct.create_experiment("default").await.unwrap();
    let target = server.url().trim_start_matches("http://").to_owned();
    let through = async |lost| {
        Finetuner::builder()
            .registry(proxy_that_loses(target.clone(), lost))
            .token(server.first_token().unwrap())
            .retry(short_pauses())
            .connect()
            .await
            .unwrap()
    };
    // A run: repeated under its key, and recognized by the server.
    let finetuner = through("POST /api/v1/experiments/default/runs ").await;
    let run = crate::backend::short_fit(&finetuner, "once").await.unwrap();
    assert_eq!(direct.list_runs().await.unwrap().len(), 1);
    run.wait().await.unwrap();
    // An experiment: not repeated, because not every server supports the key.
    let finetuner = through("POST /api/v1/experiments/ ").await;
    let error = finetuner.create_experiment("shoes").await.unwrap_err();
    assert_eq!(error.attempts(), 1, "{error}");
    let names = direct.list_experiments().await.unwrap();
    assert_eq!(names.iter().filter(|e| e.name() == "shoes").count(), 1);
    // A token.
    let finetuner = through("POST /v2/rpc/user.pat.create ").await;
    assert!(finetuner.create_token("ci").await.is_err());
    let tokens = direct.list_tokens().await.unwrap();
    assert_eq!(tokens.iter().filter(|t| t.name == "ci").count(), 1);
}
