//! No token is shown by anything that can be printed, and none is in an address.

use std::sync::{Arc, Mutex};

use finetuner::{EvaluationCallback, Finetuner, MLFlowLogger, Secret, WandBLogger};
use serde_json::json;
use wiremock::ResponseTemplate;

use crate::mock::{TOKEN, agreeable, on};

/// A place for what the program logs.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn nothing_that_is_printed_shows_a_token() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(move || writer.clone())
        .finish();
    let _guard = tracing::subscriber::set_default(subscriber);

    let (server, finetuner) = agreeable().await;
    // A server that repeats what it was sent, as some proxies do.
    let echo = json!({"detail": format!("bad header: token {TOKEN}")});
    let echo = ResponseTemplate::new(400).set_body_json(echo);
    on(&server, "GET", "/api/v1/experiments/echo", echo).await;
    let page = ResponseTemplate::new(200).set_body_string(format!("<html>{TOKEN}</html>"));
    on(&server, "GET", "/api/v1/experiments/page", page).await;
    let status = "/api/v1/experiments/default/runs/r/status";
    let cut = ResponseTemplate::new(503).set_body_string(TOKEN);
    let run = finetuner.get_run("r").await.unwrap();
    let experiment = finetuner.get_experiment("fashion").await.unwrap();
    let watch = run.watch();
    let stream = finetuner.pull("x").stream().await.unwrap();
    on(&server, "GET", status, cut).await;

    let builder = Finetuner::builder()
        .registry("http://user:secret-token@127.0.0.1:1")
        .proxy(format!("http://user:{TOKEN}@proxy:1"))
        .token(TOKEN);
    let fit = finetuner
        .fit("m", "t")
        .callback(WandBLogger::new().api_key(TOKEN))
        .callback(MLFlowLogger::new(
            "e",
            format!("https://user:{TOKEN}@example.org"),
        ))
        .callback(EvaluationCallback::new("q"));
    let errors = [
        finetuner.get_experiment("echo").await.unwrap_err(),
        finetuner.get_experiment("page").await.unwrap_err(),
        run.status().await.unwrap_err(),
        builder.clone().login().await.unwrap_err(),
    ];
    let created = finetuner.create_token("ci").await.unwrap();
    assert_eq!(created.expose(), "pat");
    let printed = [
        format!("{finetuner:?} {run:?} {experiment:?} {watch:?} {stream:?}"),
        format!("{builder:?} {:?} {fit:?}", builder.clone().login()),
        format!("{:?} {:?}", finetuner.push("n", "x"), finetuner.pull("n")),
        format!("{:?} {:?}", run.save_model("m"), finetuner.list_runs()),
        format!(
            "{:?} {:?}",
            finetuner.create_token("n"),
            finetuner.synthesize("q", "c")
        ),
        format!("{:?} {:?}", Secret::from(TOKEN), finetuner.get_token()),
        format!("{:?}", finetuner.list_experiments()),
        errors
            .map(|error| format!("{error} {error:?} {error:#?}"))
            .join("\n"),
        String::from_utf8(log.0.lock().unwrap().clone()).unwrap(),
    ];
    for text in printed {
        assert!(!text.contains(TOKEN), "{text}");
    }
    let logged = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(
        logged.contains("finetuner.request"),
        "the log was looked at"
    );
    assert!(
        !logged.contains("default/runs/r/"),
        "names are data: {logged}"
    );
}

#[tokio::test]
async fn every_call_but_the_download_carries_the_token_and_no_address_does() {
    let (server, finetuner) = agreeable().await;
    finetuner.get_run("r").await.unwrap();
    finetuner.pull("x").await.unwrap();
    let requests = server.received_requests().await.unwrap();
    assert!(requests.iter().any(|r| r.url.path() == "/v2/download/key"));
    for request in requests {
        let given = request.headers.get("authorization");
        if request.url.path() == "/v2/download/key" {
            assert_eq!(given, None, "a download address is its own permission");
        } else {
            assert_eq!(given.unwrap(), format!("token {TOKEN}").as_str());
        }
        assert!(!request.url.as_str().contains(TOKEN));
        assert_eq!(request.headers["x-request-id"].len(), 32);
        let agent = request.headers["user-agent"].to_str().unwrap();
        assert!(agent.starts_with("finetuner-rs/"), "{agent}");
    }
}

#[tokio::test]
async fn a_redirect_to_another_host_does_not_take_the_token_along() {
    let (elsewhere, _) = agreeable().await;
    let (server, finetuner) = agreeable().await;
    let target = format!("{}/api/v1/experiments/moved", elsewhere.uri());
    let moved = ResponseTemplate::new(307).insert_header("location", target.as_str());
    on(&server, "GET", "/api/v1/experiments/moved", moved).await;
    let target = format!("{}/api/v1/experiments/fashion", server.uri());
    let near = ResponseTemplate::new(307).insert_header("location", target.as_str());
    on(&server, "GET", "/api/v1/experiments/near", near).await;
    finetuner.get_experiment("moved").await.unwrap();
    let there = elsewhere.received_requests().await.unwrap();
    let followed = there.last().unwrap();
    assert_eq!(followed.url.path(), "/api/v1/experiments/moved");
    assert!(!followed.headers.contains_key("authorization"));
    // On the same host it goes along.
    finetuner.get_experiment("near").await.unwrap();
    let here = server.received_requests().await.unwrap();
    assert_eq!(
        here.last().unwrap().url.path(),
        "/api/v1/experiments/fashion"
    );
    assert!(here.last().unwrap().headers.contains_key("authorization"));
}

#[tokio::test]
async fn plain_http_to_another_machine_has_to_be_allowed() {
    let login = || {
        Finetuner::builder()
            .registry("http://192.0.2.1:1")
            .token(TOKEN)
    };
    let error = login().login().await.unwrap_err();
    for part in [
        "192.0.2.1",
        "plain http",
        "allow_plain_http",
        "FINETUNER_ALLOW_PLAIN_HTTP",
    ] {
        assert!(error.to_string().contains(part), "{error}");
    }
    let allowed = login().allow_plain_http(true).connect().await;
    assert!(allowed.is_ok(), "{allowed:?}");
    for local in [
        "http://127.0.0.1:1",
        "http://localhost:1",
        "http://[::1]:1",
        "https://a.example",
    ] {
        let local = Finetuner::builder().registry(local).token(TOKEN);
        assert!(local.connect().await.is_ok());
    }
}
