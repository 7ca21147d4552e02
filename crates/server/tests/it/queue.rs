//! Runs and their workers: in order, cancelled, lost, and resumed.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use finetuner::{Status, TrainingCheckpoint};
use finetuner_server::{
    Server, Settings,
    launcher::{JobState, LaunchError, Launcher, WorkOrder},
};
use futures_util::future::{BoxFuture, join_all};
use serde_json::json;

use crate::support::{
    Http, connect, exchange, fit, losses, pairs, start, start_with, wait_for_step,
};

/// Checkpoints at every opportunity, so that little work is lost.
fn checkpoint_always() -> Settings {
    Settings {
        checkpoint_every: Duration::ZERO,
        ..Settings::default()
    }
}

#[tokio::test]
async fn concurrent_identical_requests_create_one_run() {
    let backend = start().await;
    backend.finetuner.push("train", pairs(8)).await.unwrap();
    backend.finetuner.create_experiment("e").await.unwrap();
    let request = |name: &str, key: &str| {
        let config = json!({
            "model": {"name": "clip-small"},
            "data": {"train_data": "train"},
            "hyper_parameters": {"loss": "CLIPLoss", "epochs": 1},
        });
        let body = json!({"name": name, "config": config, "device": "cpu"});
        let request = backend.http.post("/api/v1/experiments/e/runs").json(&body);
        request.header("idempotency-key", key).send()
    };
    let answers = join_all((0..16).map(|_| request("r", "k"))).await;
    let mut ids = Vec::new();
    for answer in answers {
        let answer = answer.unwrap();
        assert!(answer.status().is_success(), "{}", answer.status());
        let run: serde_json::Value = answer.json().await.unwrap();
        ids.push(run["artifact_id"].as_str().unwrap().to_owned());
    }
    ids.dedup();
    assert_eq!(ids.len(), 1, "{ids:?}");
    // A lost answer is repeated, whatever the run's status is.
    let run = backend.finetuner.get_experiment("e").await.unwrap();
    let run = run.get_run("r").await.unwrap();
    run.wait().await.unwrap();
    let again = request("r", "k").await.unwrap();
    assert_eq!(again.status(), 200);
    let other = request("r", "other").await.unwrap();
    assert_eq!(other.status(), 409);
}

#[tokio::test]
async fn a_cancelled_run_frees_its_slot_at_once() {
    let backend = start_with(Settings {
        runs_at_once: 2,
        ..Settings::default()
    })
    .await;
    let finetuner = &backend.finetuner;
    finetuner.push("train", pairs(144)).await.unwrap();
    let long = fit(finetuner, "long", 49).await.unwrap();
    let equally_long = fit(finetuner, "equally-long", 49).await.unwrap();
    wait_for_step(&long, 1).await;
    wait_for_step(&equally_long, 1).await;
    finetuner.push("train", pairs(8)).await.unwrap();
    let next = fit(finetuner, "next", 1).await.unwrap();
    let last = fit(finetuner, "last", 1).await.unwrap();
    let waits = next.status().await.unwrap();
    assert_eq!(waits.details, "Run submitted and awaits execution");
    let waits = last.status().await.unwrap();
    let place = "Run submitted and awaits execution: 1 run is before it";
    assert_eq!(
        (waits.status, waits.details.as_str()),
        (Status::Created, place)
    );
    let details = long.status().await.unwrap().details;
    assert!(
        details.starts_with("Run is being executed: epoch "),
        "{details}"
    );

    long.cancel().await.unwrap();
    let ended = long.status().await.unwrap();
    assert_eq!(ended.status, Status::Failed);
    assert_eq!(ended.details, "Run cancelled by finetuner");
    next.wait().await.unwrap();
    last.wait().await.unwrap();
    // The cancelled run had as much work left as this one.
    let report = equally_long.status().await.unwrap();
    assert_eq!(report.status, Status::Started, "{}", report.details);
    equally_long.cancel().await.unwrap();
    let log = long.logs().await.unwrap();
    assert!(log.ends_with("Run cancelled by finetuner\n"), "{log}");
    assert!(long.cancel().await.is_ok(), "an ended run does not change");
}

#[tokio::test]
async fn a_run_continues_from_a_checkpoint_of_another_run() {
    let backend = start().await;
    let finetuner = &backend.finetuner;
    finetuner.push("train", pairs(8)).await.unwrap();
    let keeps = TrainingCheckpoint::new().last_k_epochs(2);
    let short = fit(finetuner, "short", 3).callback(keeps.clone());
    let short = short.await.unwrap();
    short.wait().await.unwrap();
    let kept = short.checkpoints().await.unwrap();
    let epochs: Vec<(u64, u64)> = kept.iter().map(|c| (c.epoch, c.step)).collect();
    assert_eq!(epochs, [(2, 0), (3, 0)]);

    let longer = short
        .resume_from(kept[0].number, "longer")
        .epochs(5)
        .await
        .unwrap();
    longer.wait().await.unwrap();
    let whole = fit(finetuner, "whole", 5).callback(keeps).await.unwrap();
    whole.wait().await.unwrap();
    let (longer_losses, whole_losses) = (losses(&longer).await, losses(&whole).await);
    assert_eq!(longer_losses[0].0, 3, "two epochs were done");
    assert_eq!(longer_losses, whole_losses[2 * 2..]);
    let log = longer.logs().await.unwrap();
    assert!(
        log.contains("Resuming from a checkpoint after 2 epochs"),
        "{log}"
    );

    let error = short.resume_from(99, "none").await.unwrap_err();
    assert!(error.is_not_found(), "{error}");
    let error = short
        .resume_from(kept[0].number, "longer")
        .await
        .unwrap_err();
    assert!(error.is_conflict(), "{error}");
    // A checkpoint in use survives the deletion of its own run.
    short.delete().await.unwrap();
    let report = longer.status().await.unwrap();
    assert_eq!(report.status, Status::Finished);
}

#[tokio::test]
async fn a_run_trains_on_the_data_of_its_submission() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::embedded()
        .folder(folder.path())
        .start()
        .await
        .unwrap();
    let finetuner = connect(&server.url(), server.first_token().unwrap()).await;
    finetuner.push("train", pairs(16)).await.unwrap();
    let first = fit(&finetuner, "first", 49).await.unwrap();
    let waits = fit(&finetuner, "waits", 1).await.unwrap();
    // The data is replaced and then deleted before the run starts.
    finetuner.push("train", pairs(4)).await.unwrap();
    finetuner.delete_documents("train").await.unwrap();
    first.cancel().await.unwrap();
    waits.wait().await.unwrap();
    assert!(waits.logs().await.unwrap().contains("16 pairs to train on"));
    // The data is removed once no run needs it.
    let report = finetuner_server::check(folder.path(), None).await.unwrap();
    assert_eq!((report.good, report.unused_bytes), (1, 0), "{report:?}");
}

/// The configuration mixes options of both client generations.
#[tokio::test]
async fn a_configuration_is_used_exactly_as_sent() {
    let backend = start().await;
    backend.finetuner.push("train", pairs(8)).await.unwrap();
    backend.finetuner.create_experiment("e").await.unwrap();
    let evaluation = json!({"query_data": "train", "gather_examples": true, "limit": 3});
    let config = json!({
        "model": {"name": "clip-small", "multi_modal": true},
        "data": {"train_data": "train", "val_split": 0.25},
        "callbacks": [{"name": "EvaluationCallback", "options": evaluation}],
        "hyper_parameters": {"loss": "CLIPLoss", "epochs": 1, "scheduler_step": "batch"},
    });
    let body = json!({"name": "r", "config": config});
    let sent = backend.http.post("/api/v1/experiments/e/runs").json(&body);
    assert_eq!(sent.send().await.unwrap().status(), 201);
    let experiment = backend.finetuner.get_experiment("e").await.unwrap();
    let run = experiment.get_run("r").await.unwrap();
    run.wait().await.unwrap();
    let found = run.example_results().await.unwrap();
    assert!(!found.after.is_empty() && found.after.len() <= 5);
    assert!(found.after.values().all(|matches| matches.len() == 3));
    assert!(run.logs().await.unwrap().contains("2 to validate with"));
}

/// Starts a server that answers every request with a picture.
fn picture_server(picture: Vec<u8>) -> String {
    use std::io::{Read, Write};

    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/shoe.png", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for mut connection in listener.incoming().flatten() {
            let _ = connection.read(&mut [0; 4096]);
            let length = picture.len();
            let head =
                format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n");
            let _ = connection.write_all(&[head.as_bytes(), &picture].concat());
        }
    });
    url
}

#[tokio::test]
async fn the_worker_fetches_image_urls_if_allowed() {
    let mut documents = pairs(8);
    let picture = documents[0].chunks[0].as_blob().unwrap().to_vec();
    let url = picture_server(picture);
    documents[0].chunks[0].content = None;
    documents[0].chunks[0].uri = url;
    for allowed in [true, false] {
        let backend = start_with(Settings {
            private_addresses: allowed,
            ..Settings::default()
        })
        .await;
        backend.finetuner.push("train", &documents).await.unwrap();
        let run = fit(&backend.finetuner, "r", 1).await.unwrap();
        match run.wait().await {
            Ok(_) => assert!(allowed),
            Err(error) => {
                let error = error.to_string();
                assert!(!allowed && error.contains("a private network"), "{error}");
            }
        }
    }
}

/// A launcher whose workers fetch their job and do nothing more. It counts the
/// starts. The first one fails.
#[derive(Clone, Default)]
struct Idle {
    starts: Arc<AtomicUsize>,
    jobs: Arc<Mutex<Vec<String>>>,
}

impl Launcher for Idle {
    fn start<'a>(&'a self, order: &'a WorkOrder) -> BoxFuture<'a, Result<(), LaunchError>> {
        assert!(order.url.starts_with("http://127.0.0.1:"));
        assert!(!format!("{order:?}").contains(&order.start_token));
        let number = self.starts.fetch_add(1, Ordering::SeqCst);
        Box::pin(async move {
            if number == 0 {
                return Err(LaunchError::Retry("the cluster is full".to_owned()));
            }
            assert!(order.name.ends_with(&format!("-1-{}", number + 1)));
            let token = format!("the token of worker {number}");
            let starter = Http::new(&order.url, Some(&order.start_token));
            assert_eq!(exchange(&starter, &token).await, 204);
            let worker = Http::new(&order.url, Some(&token));
            let job = worker.get("/api/v1/worker/job").send().await;
            assert!(job.unwrap().status().is_success());
            self.jobs.lock().unwrap().push(order.name.clone());
            Ok(())
        })
    }

    fn stop<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<(), String>> {
        self.jobs.lock().unwrap().clear();
        Box::pin(std::future::ready(Ok(())))
    }

    fn list(&self) -> BoxFuture<'_, Result<HashMap<String, JobState>, String>> {
        let states = [
            JobState::Ended("node 7 is down".to_owned()),
            JobState::Running,
        ];
        let jobs = self.jobs.lock().unwrap().clone().into_iter();
        let listed = jobs.zip(states).collect();
        Box::pin(std::future::ready(Ok(listed)))
    }

    fn engine(&self) -> &'static str {
        "a test"
    }
}

#[tokio::test]
async fn a_run_that_loses_all_workers_fails_with_the_reason() {
    let idle = Idle::default();
    let settings = Settings {
        lease: Duration::from_millis(300),
        attempts: 2,
        runs_at_once: 2,
        ..Settings::default()
    };
    let server = Server::embedded().settings(settings).launcher(idle.clone());
    let server = server.start().await.unwrap();
    let finetuner = connect(&server.url(), server.first_token().unwrap()).await;
    finetuner.push("train", pairs(4)).await.unwrap();
    let run = fit(&finetuner, "lost", 1).await.unwrap();
    let error = run.wait().await.unwrap_err().to_string();
    // The failed first start does not count as an attempt.
    assert!(error.contains("attempt 2 of 2"), "{error}");
    assert!(error.contains("no sign of life for 0.3 seconds"), "{error}");
    let log = run.logs().await.unwrap();
    for reason in ["the cluster is full", "node 7 is down"] {
        assert!(log.contains(reason), "{log}");
    }
    assert_eq!(idle.starts.load(Ordering::SeqCst), 3);
    server.stop().await;
}

#[tokio::test]
async fn runs_over_their_limits_are_stopped() {
    let backend = start_with(Settings {
        max_run_time: Some(Duration::from_secs(1)),
        ..Settings::default()
    })
    .await;
    backend.finetuner.push("train", pairs(16)).await.unwrap();
    let run = fit(&backend.finetuner, "slow", 49).await.unwrap();
    let error = run.wait().await.unwrap_err().to_string();
    assert!(
        error.contains("longer than this server allows, 1 seconds"),
        "{error}"
    );

    let backend = start_with(Settings {
        max_run_memory: Some(1 << 20),
        ..Settings::default()
    })
    .await;
    backend.finetuner.push("train", pairs(16)).await.unwrap();
    let run = fit(&backend.finetuner, "large", 49).await.unwrap();
    let error = run.wait().await.unwrap_err().to_string();
    assert!(
        error.contains("this server allows 1 MiB: a smaller `batch_size`"),
        "{error}"
    );
}

#[tokio::test]
async fn a_stopping_server_pauses_its_runs() {
    let folder = tempfile::tempdir().unwrap();
    let server = || Server::embedded().folder(folder.path());
    let first = server().start().await.unwrap();
    let token = first.first_token().unwrap().to_owned();
    let finetuner = connect(&first.url(), &token).await;
    finetuner.push("train", pairs(16)).await.unwrap();
    let run = fit(&finetuner, "paused", 12).await.unwrap();
    wait_for_step(&run, 3).await;
    // The folder is locked against a second server.
    let error = server().start().await.unwrap_err().to_string();
    assert!(error.contains("another server uses it"), "{error}");
    first.stop().await;

    let second = server().start().await.unwrap();
    assert!(second.first_token().is_none());
    let finetuner = connect(&second.url(), &token).await;
    let run = finetuner.get_run("paused").await.unwrap();
    run.wait().await.unwrap();
    let log = run.logs().await.unwrap();
    assert!(log.contains("The run has paused"), "{log}");
    assert!(log.contains("Resuming from a checkpoint"), "{log}");
    assert!(!log.contains("attempt"), "it was not lost: {log}");
    let whole = fit(&finetuner, "whole", 12).await.unwrap();
    whole.wait().await.unwrap();
    assert_eq!(losses(&run).await, losses(&whole).await);
    second.stop().await;
}

#[tokio::test]
async fn log_lines_are_numbered_and_resume_after_the_last_event_id() {
    let backend = start_with(checkpoint_always()).await;
    backend.finetuner.push("train", pairs(8)).await.unwrap();
    let run = fit(&backend.finetuner, "r", 2).await.unwrap();
    run.wait().await.unwrap();
    let stream = async |last: Option<&str>| {
        let path = "/api/v1/experiments/default/runs/r/logstream";
        let mut request = backend.http.get(path);
        if let Some(last) = last {
            request = request.header("last-event-id", last);
        }
        let answer = request.send().await.unwrap();
        assert_eq!(answer.headers()["x-accel-buffering"], "no");
        answer.text().await.unwrap()
    };
    let whole = stream(None).await;
    let lines: Vec<&str> = whole
        .split("\n\n")
        .filter(|part| !part.is_empty())
        .collect();
    let half = lines.len() / 2;
    let id = lines[half]
        .lines()
        .find_map(|line| line.strip_prefix("id: "));
    let rest = stream(id).await;
    assert_eq!(rest.trim_end(), lines[half + 1..].join("\n\n"));
    let said = whole.lines().filter_map(|line| line.strip_prefix("data: "));
    let said: String = said.map(|line| format!("{line}\n")).collect();
    assert_eq!(said, run.logs().await.unwrap());
}
