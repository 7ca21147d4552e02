//! The start token of a job starts exactly one worker.

use std::{
    collections::HashMap,
    process::Stdio,
    sync::{Arc, Mutex},
};

use axum::{Router, extract::State, http::Uri};
use finetuner_server::{
    Server,
    launcher::{JobState, LaunchError, Launcher, WorkOrder},
};
use futures_util::future::BoxFuture;
use reqwest::StatusCode;
use serde_json::json;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::support::{self, Http, connect, exchange, fit, pairs};

/// A launcher that collects orders and runs no workers.
#[derive(Clone, Default)]
struct Orders(Arc<Mutex<Vec<WorkOrder>>>);

impl Launcher for Orders {
    fn start<'a>(&'a self, order: &'a WorkOrder) -> BoxFuture<'a, Result<(), LaunchError>> {
        self.0.lock().unwrap().push(order.clone());
        Box::pin(std::future::ready(Ok(())))
    }

    fn stop<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<(), String>> {
        self.0.lock().unwrap().retain(|order| order.name != name);
        Box::pin(std::future::ready(Ok(())))
    }

    fn list(&self) -> BoxFuture<'_, Result<HashMap<String, JobState>, String>> {
        let orders = self.0.lock().unwrap();
        let jobs = orders
            .iter()
            .map(|order| (order.name.clone(), JobState::Running));
        let jobs = jobs.collect();
        Box::pin(std::future::ready(Ok(jobs)))
    }

    fn engine(&self) -> &'static str {
        "a test"
    }
}

#[tokio::test]
async fn a_start_token_is_valid_once_and_only_to_start() {
    let orders = Orders::default();
    let server = Server::embedded().launcher(orders.clone());
    let server = server.start().await.unwrap();
    let finetuner = connect(&server.url(), server.first_token().unwrap()).await;
    finetuner.push("train", pairs(4)).await.unwrap();
    let run = fit(&finetuner, "r", 1).await.unwrap();
    let order = loop {
        if let Some(order) = orders.0.lock().unwrap().first() {
            break order.clone();
        }
        tokio::task::yield_now().await;
    };
    let starter = Http::new(&order.url, Some(&order.start_token));
    let own = Http::new(&order.url, Some("own"));
    let job = async |http: &Http| {
        let answer = http.get("/api/v1/worker/job").send().await;
        answer.unwrap().status()
    };
    assert_eq!(job(&starter).await, StatusCode::UNAUTHORIZED);
    assert_eq!(exchange(&own, "own").await, StatusCode::UNAUTHORIZED);
    // A body without a valid hash does not use up the token.
    for wrong in [json!({}), json!({"token_sha256": "ab"}), json!([])] {
        let call = starter.post("/api/v1/worker/start").json(&wrong);
        let status = call.send().await.unwrap().status();
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{wrong}");
    }
    assert_eq!(exchange(&starter, "own").await, StatusCode::NO_CONTENT);
    assert_eq!(
        exchange(&starter, "own").await,
        StatusCode::NO_CONTENT,
        "again"
    );
    assert_eq!(exchange(&starter, "other").await, StatusCode::UNAUTHORIZED);
    assert_eq!(job(&starter).await, StatusCode::UNAUTHORIZED);
    let other = Http::new(&order.url, Some("other"));
    assert_eq!(job(&other).await, StatusCode::UNAUTHORIZED);
    assert_eq!(job(&own).await, StatusCode::OK);
    run.cancel().await.unwrap();
    assert_eq!(exchange(&starter, "own").await, StatusCode::UNAUTHORIZED);
    assert_eq!(job(&own).await, StatusCode::GONE);
    server.stop().await;
}

/// A call to the fake server, and its body.
type Asked = (String, String);

/// Answers every call except `silent`.
async fn answer(
    State((asked, silent)): State<(UnboundedSender<Asked>, &'static str)>,
    uri: Uri,
    body: String,
) -> StatusCode {
    let call = uri.path().trim_start_matches("/api/v1/worker/").to_owned();
    let is_silent = call == silent;
    asked.send((call, body)).unwrap();
    if is_silent {
        std::future::pending::<()>().await;
    }
    StatusCode::NO_CONTENT
}

/// Starts a fake server that reports its calls and never answers the call
/// `silent`.
async fn fake_server(silent: &'static str) -> (String, UnboundedReceiver<Asked>) {
    let (asked, calls) = unbounded_channel();
    let routes = Router::new().fallback(answer).with_state((asked, silent));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, routes).await });
    (url, calls)
}

/// An engine may stop a job that has just started.
#[tokio::test]
async fn a_worker_handles_sigterm_before_it_has_its_job() {
    for silent in ["start", "job"] {
        let (url, mut calls) = fake_server(silent).await;
        let worker = support::server()
            .arg("worker")
            .env("FINETUNER_WORKER_URL", url)
            .env("FINETUNER_WORKER_TOKEN", "ft_start")
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        while calls.recv().await.unwrap().0 != silent {}
        let pid = i32::try_from(worker.id().unwrap()).unwrap();
        let pid = rustix::process::Pid::from_raw(pid).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        let ended = worker.wait_with_output().await.unwrap();
        let said = String::from_utf8_lossy(&ended.stderr);
        if silent == "start" {
            assert_eq!(ended.status.code(), Some(1), "{said}");
            assert!(said.contains("told to stop before it started"), "{said}");
        } else {
            assert_eq!(ended.status.code(), Some(0), "{said}");
            let (call, outcome) = calls.recv().await.unwrap();
            assert_eq!(call, "outcome");
            assert!(outcome.to_lowercase().contains("paused"), "{outcome}");
        }
    }
}
