//! Tests of trackers against fake servers of both APIs.

use std::sync::{Arc, Mutex};

use axum::{
    Json, Router,
    extract::{Request, State},
    http::StatusCode,
    response::IntoResponse,
};
use finetuner_protocol::{
    Callback, Event, RunConfig,
    callback::{MLFlowLogger, WandBLogger},
};
use serde_json::{Value, json};
use tokio::runtime::Handle;

use super::*;

/// A call to a fake server: path, authorization and body.
type Call = (String, String, Value);

/// A fake server of a tracker.
struct FakeTracker {
    calls: Mutex<Vec<Call>>,
    /// Answers to calls, chosen by the path's end and the body.
    answer: fn(&str, &Value, usize) -> (StatusCode, Value),
}

async fn take(State(tracker): State<Arc<FakeTracker>>, request: Request) -> impl IntoResponse {
    let path = request.uri().path().to_owned();
    let login = request.headers().get("authorization");
    let login = login.map_or("", |login| login.to_str().unwrap()).to_owned();
    let body = axum::body::to_bytes(request.into_body(), 1 << 20)
        .await
        .unwrap();
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    let mut calls = tracker.calls.lock().unwrap();
    let before = calls.iter().filter(|(known, ..)| *known == path).count();
    let (status, answer) = (tracker.answer)(&path, &body, before);
    calls.push((path, login, body));
    (status, Json(answer))
}

impl FakeTracker {
    /// Starts the server. Returns its address and a handle.
    async fn start(answer: fn(&str, &Value, usize) -> (StatusCode, Value)) -> (String, Arc<Self>) {
        let tracker = Arc::new(Self {
            calls: Mutex::default(),
            answer,
        });
        let router = Router::new()
            .fallback(take)
            .with_state(Arc::clone(&tracker));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await });
        (address, tracker)
    }

    /// Returns the bodies of the calls whose path ends with `end`.
    fn bodies(&self, end: &str) -> Vec<Value> {
        let calls = self.calls.lock().unwrap();
        let calls = calls.iter().filter(|(path, ..)| path.ends_with(end));
        calls.map(|(_, _, body)| body.clone()).collect()
    }

    fn logins(&self) -> Vec<String> {
        let calls = self.calls.lock().unwrap();
        calls.iter().map(|(_, login, _)| login.clone()).collect()
    }
}

/// Simulates a run of two epochs of two steps, from step `from` on. Returns the
/// lines of its log.
async fn run(callback: impl Into<Callback>, environment: &Environment, from: u64) -> Vec<String> {
    run_until(End::Finished, callback, environment, from).await
}

/// Like [`run`], with another end of the run.
async fn run_until(
    end: End,
    callback: impl Into<Callback>,
    environment: &Environment,
    from: u64,
) -> Vec<String> {
    let mut config = RunConfig::default();
    config.run_name = "shoes".to_owned();
    config.experiment_name = "fashion".to_owned();
    config.callbacks = vec![callback.into()];
    let tracked = Tracked {
        config: &config,
        run: "0123456789abcdef",
        private: true,
    };
    let lines = Arc::new(Mutex::new(Vec::new()));
    let mut trackers = Trackers::of_run(&tracked, environment, &Handle::current(), || {
        let lines = Arc::clone(&lines);
        Box::new(move |_, line| lines.lock().unwrap().push(line))
    });
    for step in from..4 {
        trackers.event(&Event::Step {
            epoch: step / 2 + 1,
            epochs: 2,
            step: step % 2 + 1,
            steps: 2,
            loss: 1.0 / (step + 1) as f64,
            mean_loss: 0.5,
            learning_rate: 1e-3,
        });
        if step % 2 == 1 {
            trackers.event(&Event::Epoch {
                epoch: step / 2 + 1,
                epochs: 2,
                train_loss: 0.25,
                val_loss: None,
            });
        }
    }
    trackers.end(end).await;
    let lines = lines.lock().unwrap();
    lines.clone()
}

fn of_mlflow(path: &str, body: &Value, _: usize) -> (StatusCode, Value) {
    let absent = json!({"error_code": "RESOURCE_DOES_NOT_EXIST"});
    match path.rsplit_once("/api/2.0/mlflow/").unwrap().1 {
        "experiments/get-by-name" => (StatusCode::NOT_FOUND, absent),
        "experiments/create" => (StatusCode::OK, json!({"experiment_id": "7"})),
        "runs/search" => (StatusCode::OK, json!({})),
        "runs/create" => {
            assert_eq!(body["experiment_id"], "7");
            (StatusCode::OK, json!({"run": {"info": {"run_id": "r1"}}}))
        }
        _ => (StatusCode::OK, json!({})),
    }
}

/// Returns key and step of each metric that was sent.
fn sent(tracker: &FakeTracker) -> Vec<(String, u64)> {
    let bodies = tracker.bodies("runs/log-batch");
    let metrics = bodies
        .iter()
        .filter_map(|body| body["metrics"].as_array())
        .flatten();
    let metrics = metrics.map(|metric| {
        let key = metric["key"].as_str().unwrap().to_owned();
        (key, metric["step"].as_u64().unwrap())
    });
    metrics.collect()
}

#[tokio::test]
async fn mlflow_is_updated_during_the_run() {
    let (address, tracker) = FakeTracker::start(of_mlflow).await;
    let with_login = address.replace("http://", "http://ann:secret@");
    let log = run(
        MLFlowLogger::new("", with_login),
        &Environment::default(),
        0,
    )
    .await;
    assert!(
        log[0].contains(&format!("{address}/#/experiments/7/runs/r1")),
        "{log:?}"
    );
    assert!(!log.concat().contains("secret"), "{log:?}");
    assert_eq!(
        tracker.bodies("experiments/create"),
        [json!({"name": "fashion"})]
    );
    let created = &tracker.bodies("runs/create")[0];
    assert_eq!(created["run_name"], "shoes");
    let tags = created["tags"].as_array().unwrap();
    assert!(tags.contains(&json!({"key": "finetuner.run", "value": "0123456789abcdef"})));
    let params = &tracker.bodies("runs/log-batch")[0]["params"];
    assert!(
        params
            .as_array()
            .unwrap()
            .contains(&json!({"key": "epochs", "value": "5"}))
    );
    let metrics = sent(&tracker);
    for (key, steps) in [
        ("step/loss", vec![1, 2, 3, 4]),
        ("epoch/train_loss", vec![2, 4]),
    ] {
        let found = metrics.iter().filter(|(name, _)| name == key);
        let found: Vec<u64> = found.map(|(_, step)| *step).collect();
        assert_eq!(found, steps, "{key}");
    }
    let end = tracker.bodies("runs/update");
    assert_eq!(end.len(), 1);
    assert_eq!(end[0]["status"], "FINISHED");
    // `ann:secret`
    assert!(
        tracker
            .logins()
            .iter()
            .all(|login| login == "Basic YW5uOnNlY3JldA==")
    );
}

#[tokio::test]
async fn a_resumed_run_continues_its_mlflow_run() {
    let (address, tracker) = FakeTracker::start(|path, body, before| {
        if path.ends_with("runs/search") {
            assert!(
                body["filter"]
                    .as_str()
                    .unwrap()
                    .contains("0123456789abcdef")
            );
            let metrics =
                json!([{"key": "step/loss", "step": 3}, {"key": "epoch/train_loss", "step": "2"}]);
            let known = json!({"info": {"run_id": "r0"}, "data": {"metrics": metrics}});
            return (StatusCode::OK, json!({"runs": [known]}));
        }
        of_mlflow(path, body, before)
    })
    .await;
    run(MLFlowLogger::new("", address), &Environment::default(), 1).await;
    assert!(tracker.bodies("runs/create").is_empty());
    let updates = tracker.bodies("runs/update");
    assert_eq!(updates[0], json!({"run_id": "r0", "status": "RUNNING"}));
    let metrics = sent(&tracker);
    // Steps that the server had are not sent again.
    assert!(metrics.contains(&("step/loss".to_owned(), 4)));
    assert!(!metrics.contains(&("step/loss".to_owned(), 3)));
    assert!(metrics.contains(&("epoch/train_loss".to_owned(), 4)));
}

#[tokio::test]
async fn a_cancelled_run_ends_in_mlflow_and_a_paused_one_stays_open() {
    for (end, expected) in [
        (End::Cancelled, Some("KILLED")),
        (End::Failed, Some("FAILED")),
        (End::Left, None),
    ] {
        let (address, tracker) = FakeTracker::start(of_mlflow).await;
        let logger = MLFlowLogger::new("", address);
        run_until(end, logger, &Environment::default(), 0).await;
        let updates = tracker.bodies("runs/update");
        let status = updates
            .last()
            .map(|update| update["status"].as_str().unwrap());
        assert_eq!(status, expected, "{end:?}");
    }
}

#[tokio::test]
async fn a_tracker_outage_fails_no_run_and_is_retried() {
    let (address, tracker) = FakeTracker::start(|path, body, before| match before {
        0 if path.ends_with("get-by-name") => (StatusCode::BAD_GATEWAY, json!({})),
        _ => of_mlflow(path, body, before),
    })
    .await;
    let log = run(MLFlowLogger::new("", address), &Environment::default(), 0).await;
    assert!(
        log[0].contains("MLflow can't be reached: the answer is 502"),
        "{log:?}"
    );
    assert!(
        log.iter().any(|line| line.contains("can be reached again")),
        "{log:?}"
    );
    assert_eq!(tracker.bodies("runs/update")[0]["status"], "FINISHED");
    // No server listens at this address.
    let log = run(
        MLFlowLogger::new("", "http://127.0.0.1:1"),
        &Environment::default(),
        0,
    )
    .await;
    assert!(log[0].contains("MLflow can't be reached"), "{log:?}");
}

#[tokio::test]
async fn a_tracker_that_refuses_is_not_called_again() {
    let (address, tracker) = FakeTracker::start(|_, _, _| {
        (StatusCode::UNAUTHORIZED, json!({"message": "who are you?"}))
    })
    .await;
    let log = run(MLFlowLogger::new("", address), &Environment::default(), 0).await;
    assert!(
        log[0].contains("MLflow refused the run: the answer is 401"),
        "{log:?}"
    );
    assert!(log[0].contains("who are you?"), "{log:?}");
    assert_eq!(tracker.calls.lock().unwrap().len(), 1);
}

fn of_wandb(path: &str, body: &Value, _: usize) -> (StatusCode, Value) {
    if path != "/graphql" {
        return (StatusCode::OK, json!({}));
    }
    assert!(body["query"].as_str().unwrap().contains("upsertBucket"));
    let project = json!({"name": "fashion", "entity": {"name": "ann"}});
    let bucket = json!({"id": "x", "project": project, "historyLineCount": 0});
    let data = json!({"upsertBucket": {"bucket": bucket, "inserted": true}});
    (StatusCode::OK, json!({"data": data}))
}

fn at(address: &str) -> Environment {
    Environment::of(|name| (name == "WANDB_BASE_URL").then(|| address.to_owned()))
}

/// Returns the lines of the history that were sent, each with its number.
fn history(tracker: &FakeTracker) -> Vec<(u64, Value)> {
    let mut lines = Vec::new();
    for body in tracker.bodies("/file_stream") {
        let history = &body["files"]["wandb-history.jsonl"];
        let first = history["offset"].as_u64().unwrap_or(0);
        let content = history["content"].as_array().cloned().unwrap_or_default();
        for (number, line) in (first..).zip(content) {
            lines.push((
                number,
                serde_json::from_str(line.as_str().unwrap()).unwrap(),
            ));
        }
    }
    lines
}

#[tokio::test]
async fn weights_and_biases_is_updated_during_the_run() {
    let (address, tracker) = FakeTracker::start(of_wandb).await;
    let options = WandBLogger::new()
        .api_key("secret")
        .metrics_logger_step("batch")
        .wandb_arg("tags", vec!["shoes"]);
    let log = run(options, &at(&address), 0).await;
    assert!(
        log[0].contains(&format!("{address}/ann/fashion/runs/")),
        "{log:?}"
    );
    assert!(!log.concat().contains("secret"), "{log:?}");
    let asked = &tracker.bodies("/graphql")[0]["variables"];
    assert_eq!(
        (&asked["project"], &asked["displayName"]),
        (&json!("fashion"), &json!("shoes"))
    );
    assert_eq!(asked["tags"], json!(["shoes"]));
    let config: Value = serde_json::from_str(asked["config"].as_str().unwrap()).unwrap();
    assert_eq!(config["epochs"], json!({"value": 5}));
    let lines = history(&tracker);
    let numbers: Vec<u64> = lines.iter().map(|(number, _)| *number).collect();
    assert_eq!(numbers, (0..lines.len() as u64).collect::<Vec<_>>());
    let losses = lines
        .iter()
        .filter_map(|(_, line)| line["step/loss"].as_f64());
    assert_eq!(losses.collect::<Vec<_>>(), [1.0, 0.5, 1.0 / 3.0, 0.25]);
    let streamed = tracker.bodies("/file_stream");
    assert_eq!(
        *streamed.last().unwrap(),
        json!({"complete": true, "exitcode": 0})
    );
    // `api:secret`
    assert!(
        tracker
            .logins()
            .iter()
            .all(|login| login == "Basic YXBpOnNlY3JldA==")
    );
}

#[tokio::test]
async fn a_resumed_run_continues_its_weights_and_biases_run() {
    let (address, tracker) = FakeTracker::start(|path, body, before| {
        let (status, mut answer) = match path {
            "/graphql" if body["query"].as_str().unwrap().starts_with("query") => {
                let tail = json!([json!({"_step": 3}).to_string()]).to_string();
                let bucket = json!({"historyLineCount": 5, "historyTail": tail});
                (
                    StatusCode::OK,
                    json!({"data": {"model": {"bucket": bucket}}}),
                )
            }
            _ => of_wandb(path, body, before),
        };
        if let Some(bucket) = answer.pointer_mut("/data/upsertBucket/bucket") {
            bucket["historyLineCount"] = 5.into();
        }
        (status, answer)
    })
    .await;
    let options = WandBLogger::new().api_key("k").metrics_logger_step("batch");
    run(options, &at(&address), 1).await;
    let lines = history(&tracker);
    assert_eq!(lines[0].0, 5);
    assert!(
        lines.iter().all(|(_, line)| line["_step"] == 4),
        "{lines:?}"
    );
}
