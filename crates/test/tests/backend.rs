//! The SDK against the test backend, over a socket and without one.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use finetuner::{
    Document, DocumentArray, Error, Finetuner, RetryPolicy, Run, Status, SynthesisModels, Update,
};
use finetuner_test::{Fault, TestBackend};

fn builder(backend: &TestBackend) -> finetuner::Builder {
    Finetuner::builder()
        .registry(backend.url())
        .token(backend.token())
        .retry(RetryPolicy::default().first_pause(Duration::from_millis(1)))
}

/// Starts a backend, and a client that reaches it over a socket.
async fn over_a_socket() -> (TestBackend, Finetuner) {
    let backend = TestBackend::start().await.unwrap();
    let finetuner = builder(&backend).login().await.unwrap();
    (backend, finetuner)
}

/// Starts a backend, and a client without a socket, for a paused clock.
async fn without_a_socket() -> (TestBackend, Finetuner) {
    let backend = TestBackend::start().await.unwrap();
    let service = builder(&backend).http_service(backend.service());
    let finetuner = service.login().await.unwrap();
    (backend, finetuner)
}

fn texts(count: usize) -> DocumentArray {
    let text = |n| Document::text(format!("sentence {n}")).with_label(format!("{}", n % 2));
    (0..count).map(text).collect()
}

fn words(documents: &DocumentArray) -> Vec<&str> {
    documents.iter().filter_map(Document::as_text).collect()
}

/// Returns a run that the test controls.
async fn held(backend: &TestBackend, finetuner: &Finetuner) -> Run {
    backend.accept_any_data();
    backend.hold_runs();
    let fit = finetuner.fit("minilm-small", "train").run_name("r");
    fit.await.unwrap()
}

#[tokio::test]
async fn a_fit_runs_from_push_to_saved_model() {
    let (backend, finetuner) = over_a_socket().await;
    assert_eq!(finetuner.user().unwrap().name, "tester");
    let run = finetuner
        .fit("minilm-small", texts(8))
        .run_name("whole")
        .experiment_name("sentences")
        .description("all of it")
        .epochs(2)
        .await
        .unwrap();
    assert_eq!(run.wait().await.unwrap().status, Status::Finished);
    assert_eq!(run.description(), "all of it");

    let submitted = backend.submitted();
    assert_eq!((submitted.len(), submitted[0].name.as_str()), (1, "whole"));
    assert_eq!(submitted[0].experiment, "sentences");
    let config = submitted[0].training().unwrap();
    assert_eq!(config.hyper_parameters.epochs, 2);
    let pushed = backend.pushed(&config.data.train_data).unwrap();
    assert_eq!(words(&pushed.unwrap()), words(&texts(8)));
    let train_data = &config.data.train_data;
    assert_eq!(backend.data_names(), std::slice::from_ref(train_data));

    let folder = tempfile::tempdir().unwrap();
    let model = run.save_model(folder.path().join("model")).await.unwrap();
    assert!(model.join("model.safetensors").exists());
    let zip = run.save_artifact(folder.path()).await.unwrap();
    assert!(std::fs::read(zip).unwrap().starts_with(b"PK"));
    let id = run.artifact_id().await.unwrap().to_owned();
    assert_eq!(finetuner.describe_artifact(&id).await.unwrap().id, id);
    assert_eq!(finetuner.list_artifacts("model").await.unwrap().len(), 1);

    let taken = finetuner
        .fit("minilm-small", texts(8))
        .run_name("whole")
        .experiment_name("sentences");
    assert!(taken.await.unwrap_err().is_conflict());
    run.delete().await.unwrap();
    let gone = finetuner.describe_artifact(&id).await.unwrap_err();
    assert!(gone.is_not_found(), "{gone}");
}

#[tokio::test]
async fn data_is_pushed_pulled_listed_and_deleted() {
    let (backend, finetuner) = over_a_socket().await;
    finetuner.push("sentences", texts(3)).await.unwrap();
    backend.put_data("more", texts(2)).unwrap();
    let pulled = finetuner.pull("more").await.unwrap();
    assert_eq!(words(&pulled), ["sentence 0", "sentence 1"]);
    let list = finetuner.list_documents().await.unwrap();
    let names: Vec<_> = list.into_iter().filter_map(|data| data.name).collect();
    assert_eq!(names, ["sentences", "more"]);
    let about = finetuner.describe_documents("sentences").await.unwrap();
    assert_eq!(about.length(), Some(3));
    finetuner.delete_documents("sentences").await.unwrap();
    assert!(backend.pushed("sentences").unwrap().is_none());
    let missing = finetuner.pull("sentences").await.unwrap_err();
    assert!(missing.is_not_found(), "{missing}");
    let refused = finetuner.fit("minilm-small", "sentences").await;
    let refused = refused.unwrap_err().to_string();
    assert!(refused.contains("no data named `sentences`"), "{refused}");
}

#[tokio::test]
async fn large_data_is_transferred_in_parts() {
    let (backend, finetuner) = over_a_socket().await;
    // Incompressible bytes.
    let mut state = 1_u32;
    let noise = std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    });
    let noise: Vec<u8> = noise.take(9 << 20).collect();
    let document = || Document::blob(noise.clone()).with_modality("image");
    backend.fault(Fault::lost().on("uploadPart"));
    let documents: DocumentArray = [document(), document()].into_iter().collect();
    finetuner.push("pictures", documents).await.unwrap();
    assert!(backend.count("artifact.uploadPart") >= 3);
    assert_eq!(backend.pushed("pictures").unwrap().unwrap().len(), 2);
}

#[tokio::test]
async fn experiments_runs_and_tokens_are_listed_and_deleted() {
    let (backend, finetuner) = over_a_socket().await;
    backend.accept_any_data();
    let shoes = finetuner.create_experiment("shoes").await.unwrap();
    let again = finetuner.create_experiment("shoes").await.unwrap_err();
    assert!(again.is_conflict(), "{again}");
    for name in ["a", "b", "c"] {
        let fit = finetuner.fit("minilm-small", "t").run_name(name);
        fit.experiment_name("shoes").await.unwrap();
    }
    let page = shoes.list_runs().page(2, 2).await.unwrap();
    assert_eq!((page.total, page.items[0].name()), (3, "c"));
    let run = shoes.get_run("b").await.unwrap();
    run.add_tags(["baseline", "long"]).await.unwrap();
    run.set_note("keep").await.unwrap();
    let run = shoes.get_run("b").await.unwrap();
    assert_eq!(
        (run.tags().join(" "), run.note()),
        ("baseline long".into(), "keep")
    );
    assert_eq!(run.set_tags([""; 0]).await.unwrap().note, "keep");
    assert!(run.annotations().await.unwrap().tags.is_empty());
    assert!(run.add_tags(["a,b"]).await.unwrap_err().is_invalid());
    let first = finetuner.fit("minilm-small", "t").tags(["first"]).note("n");
    let first = first.experiment_name("shoes").run_name("d").await.unwrap();
    assert_eq!(
        (first.tags().join(" "), first.note()),
        ("first".into(), "n")
    );
    shoes.delete_run("a").await.unwrap();
    assert!(shoes.get_run("a").await.unwrap_err().is_not_found());
    assert_eq!(finetuner.delete_experiments().await.unwrap().len(), 1);
    assert!(backend.submitted().is_empty());

    let token = finetuner.create_token("ci").await.unwrap();
    let with_token = Finetuner::builder().registry(backend.url()).token(token);
    with_token.clone().login().await.unwrap();
    assert_eq!(finetuner.list_tokens().await.unwrap()[0].name, "ci");
    finetuner.delete_token("ci").await.unwrap();
    let refused = with_token.login().interactive(false).await.unwrap_err();
    assert!(refused.is_unauthorized(), "{refused}");
}

#[tokio::test(start_paused = true)]
async fn the_test_controls_a_run() {
    let (backend, finetuner) = without_a_socket().await;
    let run = held(&backend, &finetuner).await;
    let control = backend.run("r");
    assert_eq!(control.submitted().await.name, "r");
    assert!(run.logs().await.unwrap_err().is_run_preparing());
    assert!(run.metrics().await.unwrap_err().is_run_in_progress());
    let mut watch = run.watch();
    let first = watch.next().await.unwrap().unwrap();
    assert!(matches!(first, Update::Status(s) if s.status == Status::Created));
    control.start().step((1, 2), (1, 4), 0.5);
    control.epoch((1, 2), 0.4, Some(0.3)).checkpoint(1);
    control.finish_with([("recall_at_k", 0.75)]);
    let (mut progress, mut points) = (Vec::new(), 0);
    while let Some(update) = watch.next().await {
        match update.unwrap() {
            Update::Progress(p) => progress.push(p),
            Update::Point(_) => points += 1,
            _ => {}
        }
    }
    assert_eq!(progress, [finetuner::RunProgress::new(1, 8, 1, 2)]);
    assert_eq!(points, 2);
    assert_eq!(run.metrics().await.unwrap().after["recall_at_k"], 0.75);
    let checkpoint = run.checkpoints().await.unwrap()[0].number;
    let next = run.resume_from(checkpoint, "next").epochs(5).await.unwrap();
    let submitted = backend.submitted();
    let config = submitted[1].training().unwrap();
    assert_eq!((next.name(), config.hyper_parameters.epochs), ("next", 5));
    // A run that has ended does not change.
    control.fail("too late");
    assert_eq!(control.status(), Status::Finished);
}

#[tokio::test(start_paused = true)]
async fn a_run_can_fail_or_be_cancelled() {
    let (backend, finetuner) = without_a_socket().await;
    backend.accept_any_data();
    backend
        .run("bad")
        .log("epoch 1")
        .fail("the loss is not finite");
    let bad = finetuner.fit("minilm-small", "t").run_name("bad");
    let bad = bad.await.unwrap();
    let error = bad.wait().await.unwrap_err();
    assert!(error.is_run_failed(), "{error}");
    assert!(error.to_string().contains("not finite"), "{error}");
    assert!(bad.logs().await.unwrap().contains("epoch 1"));
    assert!(bad.save_model("never").await.unwrap_err().is_run_failed());

    let control = backend.run("long");
    control.start();
    let long = finetuner.fit("minilm-small", "t").run_name("long");
    let long = long.await.unwrap();
    let (ended, cancelled) = tokio::join!(control.ended(), long.cancel());
    cancelled.unwrap();
    assert_eq!(ended, Status::Failed);
    let error = long.wait().await.unwrap_err().to_string();
    assert!(error.contains("cancelled by tester"), "{error}");
}

#[tokio::test]
async fn a_log_stream_follows_the_run_and_resumes_after_a_break() {
    let (backend, finetuner) = over_a_socket().await;
    let run = held(&backend, &finetuner).await;
    let control = backend.run("r");
    control.start().log("one");
    // The second line is cut.
    backend.fault(Fault::cut_after(60).on("/logstream"));
    let mut lines = run.stream_logs();
    let mut next = async || lines.next().await.unwrap().unwrap();
    assert!(next().await.ends_with("one"));
    control.log("two");
    assert!(next().await.ends_with("two"));
    control.log("three\nfour").finish();
    assert!(next().await.ends_with("three"));
    assert!(next().await.ends_with("four"));
    assert!(lines.next().await.is_none());
    let received = backend.received();
    let mut streams = received.iter().filter(|r| r.path.ends_with("/logstream"));
    assert_eq!(streams.next().unwrap().header("last-event-id"), None);
    assert_eq!(streams.next().unwrap().header("last-event-id"), Some("0"));
}

#[tokio::test(start_paused = true)]
async fn a_synthesis_creates_data() {
    let (backend, finetuner) = without_a_socket().await;
    backend.accept_any_data();
    backend.run("pairs").data(&texts(4)).unwrap().finish();
    let models = SynthesisModels::new(["minilm-small"], "cross-encoder");
    let run = finetuner.synthesize("queries", "corpus").models(models);
    let run = run.run_name("pairs").await.unwrap();
    let name = run.train_data().await.unwrap();
    let pulled = finetuner.pull(name).await.unwrap();
    assert_eq!(words(&pulled), words(&texts(4)));
    assert!(backend.submitted()[0].config.synthesis().is_some());
}

/// Returns the error of one call of `status`, and the number of calls made.
async fn status_with(fault: Fault) -> (Result<Status, Error>, usize) {
    let (backend, finetuner) = over_a_socket().await;
    let run = held(&backend, &finetuner).await;
    backend.fault(fault.on("/status"));
    let status = run.status().await.map(|status| status.status);
    (status, backend.count("/status"))
}

#[tokio::test]
async fn injected_faults_become_the_sdks_errors() {
    let (status, calls) = status_with(Fault::status(503).times(2)).await;
    assert_eq!((status.unwrap(), calls), (Status::Created, 3));
    let (status, calls) = status_with(Fault::dropped()).await;
    assert_eq!((status.unwrap(), calls), (Status::Created, 2));
    let (status, calls) = status_with(Fault::lost()).await;
    assert_eq!((status.unwrap(), calls), (Status::Created, 2));
    let (status, calls) = status_with(Fault::cut_after(5)).await;
    assert_eq!((status.unwrap(), calls), (Status::Created, 2));
    let (status, _) = status_with(Fault::cut_after(5).always()).await;
    let error = status.unwrap_err();
    assert!(error.is_retryable() && !error.is_connect(), "{error:?}");
    let (status, calls) = status_with(Fault::status(409).body("{\"detail\": \"no\"}")).await;
    let error = status.unwrap_err();
    assert_eq!((error.server_message(), calls), (Some("no"), 1));
    let (status, _) = status_with(Fault::garbage("{\"status\": 7}")).await;
    assert!(status.unwrap_err().is_decode());
    let (status, _) = status_with(Fault::garbage("<html>Log in</html>")).await;
    let error = status.unwrap_err();
    assert!(
        error.is_decode() && error.to_string().contains("Log in"),
        "{error}"
    );
}

#[tokio::test(start_paused = true)]
async fn pauses_and_time_outs_are_instant_without_a_socket() {
    let (backend, finetuner) = without_a_socket().await;
    let run = held(&backend, &finetuner).await;
    let started = tokio::time::Instant::now();
    let minute = Duration::from_secs(60);
    backend.fault(Fault::status(429).retry_after(minute).on("/status"));
    run.status().await.unwrap();
    assert!(started.elapsed() >= minute);
    backend.fault(Fault::slow(Duration::MAX).on("/status").always());
    assert!(run.status().await.unwrap_err().is_timeout());
    backend.clear_faults();
    run.status().await.unwrap();
    backend.fault(Fault::dropped().on("/status").always());
    let error = run.status().await.unwrap_err();
    assert!(error.is_retryable() && error.attempts() == 4, "{error:?}");
}

#[tokio::test]
async fn a_submission_with_a_lost_answer_creates_one_run() {
    let (backend, finetuner) = over_a_socket().await;
    backend.accept_any_data();
    finetuner.create_experiment("default").await.unwrap();
    backend.fault(Fault::lost().method("POST").on("/runs"));
    let run = finetuner.fit("minilm-small", "t").run_name("once");
    assert_eq!(run.await.unwrap().name(), "once");
    assert_eq!(backend.submitted().len(), 1);
    assert_eq!(backend.count("/runs"), 2);
}

#[tokio::test]
async fn a_broken_download_resumes() {
    let (backend, finetuner) = over_a_socket().await;
    backend.put_data("sentences", texts(50)).unwrap();
    backend.fault(Fault::cut_after(100).on("/v2/download/").times(2));
    let pulled = finetuner.pull("sentences").await.unwrap();
    assert_eq!(words(&pulled), words(&texts(50)));
    let received = backend.received();
    let ranges = received
        .iter()
        .filter_map(|request| request.header("range"));
    assert_eq!(ranges.collect::<Vec<_>>(), ["bytes=100-", "bytes=200-"]);
}

#[tokio::test]
async fn a_stopped_backend_refuses_connections_until_it_returns() {
    let (backend, finetuner) = over_a_socket().await;
    let run = held(&backend, &finetuner).await;
    let once = builder(&backend).retry(RetryPolicy::never());
    backend.disconnect().await;
    let error = once.clone().login().await.unwrap_err();
    assert!(error.is_connect(), "{error:?}");
    let service = once.clone().http_service(backend.service());
    let error = service.login().await.unwrap_err();
    assert!(error.is_connect(), "{error:?}");
    let waiting = tokio::spawn(async move { run.wait().await });
    backend.run("r").finish();
    backend.reconnect().await.unwrap();
    assert_eq!(waiting.await.unwrap().unwrap().status, Status::Finished);
    once.login().await.unwrap();
}
