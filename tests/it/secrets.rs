//! Tokens appear in no printed text and in no address.

use std::sync::{Arc, Mutex};

use finetuner::{EvaluationCallback, Finetuner, MLFlowLogger, Secret, WandBLogger};
use finetuner_test::Fault;
use serde_json::json;

use crate::{
    mock::{finished_test_run, test_backend},
    process::in_child_process,
};

/// Token of the test backend.
const TOKEN: &str = "test-token";

/// Collects what the program logs.
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
async fn no_printed_text_contains_a_token() {
    // The log level applies to the whole process, and other tests log as well.
    if in_child_process("secrets::no_printed_text_contains_a_token", &[]) {
        return;
    }
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(move || writer.clone())
        .finish();
    let _guard = tracing::subscriber::set_default(subscriber);

    let (backend, finetuner, run) = finished_test_run().await;
    assert_eq!(backend.token(), TOKEN);
    // A server that echoes requests, as some proxies do.
    let echo = json!({"detail": format!("bad header: token {TOKEN}")}).to_string();
    backend.fault(Fault::status(400).body(echo).on("/experiments/echo"));
    let page = format!("<html>{TOKEN}</html>");
    backend.fault(Fault::garbage(page).on("/experiments/page"));
    let experiment = finetuner.get_experiment("default").await.unwrap();
    let watch = run.watch();
    backend.put_data("x", []).unwrap();
    let stream = finetuner.pull("x").stream().await.unwrap();
    let busy = Fault::status(503).body(TOKEN).on("/runs/r/status");
    backend.fault(busy.always());

    let builder = Finetuner::builder()
        .registry(format!("http://user:{TOKEN}@127.0.0.1:1"))
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
    assert!(created.expose().starts_with("token-"));
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
    assert!(logged.contains("finetuner.request"), "the log was captured");
    assert!(
        !logged.contains("default/runs/r/"),
        "names are data: {logged}"
    );
}

#[tokio::test]
async fn an_answer_with_a_secret_that_can_not_be_read_is_not_shown() {
    let (backend, finetuner) = test_backend().await;
    backend.put_data("x", []).unwrap();
    // Without the member `data`, and with a value of another type.
    for answer in [
        json!({"token": "new-secret", "download": "http://h/new-secret"}),
        json!({"data": "new-secret"}),
    ] {
        let answer = answer.to_string();
        backend.fault(Fault::garbage(answer.clone()).on("/user.pat.create"));
        backend.fault(Fault::garbage(answer).on("/artifact.getDownloadUrl"));
        for error in [
            finetuner.create_token("ci").await.unwrap_err(),
            finetuner.pull("x").await.unwrap_err(),
        ] {
            assert!(error.is_decode(), "{error}");
            let printed = format!("{error} {error:?} {:?}", error.body());
            assert!(!printed.contains("new-secret"), "{printed}");
        }
    }
}

#[tokio::test]
async fn every_call_but_the_download_sends_the_token_and_never_in_the_url() {
    let (backend, finetuner) = test_backend().await;
    backend.put_data("x", []).unwrap();
    finetuner.list_runs().await.unwrap();
    finetuner.pull("x").await.unwrap();
    assert_eq!(backend.count("/v2/download/"), 1);
    for request in backend.received() {
        let given = request.header("authorization");
        if request.path.starts_with("/v2/download/") {
            assert_eq!(given, None, "a download address is its own permission");
        } else {
            assert_eq!(given.unwrap(), format!("token {TOKEN}"));
        }
        assert!(!request.path.contains(TOKEN) && !request.query.contains(TOKEN));
        assert_eq!(request.header("x-request-id").unwrap().len(), 32);
        let agent = request.header("user-agent").unwrap();
        assert!(agent.starts_with("finetuner-rs/"), "{agent}");
    }
}

#[tokio::test]
async fn a_redirect_to_another_host_does_not_send_the_token() {
    let (other, _) = test_backend().await;
    let (backend, finetuner) = test_backend().await;
    finetuner.create_experiment("fashion").await.unwrap();
    let redirect = |from: &str, target: String| {
        backend.fault(Fault::status(307).header("location", &target).on(from));
    };
    redirect(
        "/moved",
        format!("{}/api/v1/experiments/moved", other.url()),
    );
    redirect(
        "/near",
        format!("{}/api/v1/experiments/fashion", backend.url()),
    );
    let refused = finetuner.get_experiment("moved").await.unwrap_err();
    assert!(refused.is_unauthorized(), "{refused}");
    let there = other.received();
    let followed = there.last().unwrap();
    assert_eq!(followed.path, "/api/v1/experiments/moved");
    assert_eq!(followed.header("authorization"), None);
    // The same host gets the token.
    finetuner.get_experiment("near").await.unwrap();
    let here = backend.received();
    let followed = here.last().unwrap();
    assert_eq!(followed.path, "/api/v1/experiments/fashion");
    assert!(followed.header("authorization").is_some());
}

#[tokio::test]
async fn plain_http_to_another_machine_must_be_allowed() {
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
