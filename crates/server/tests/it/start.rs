//! The start token of a job: whoever has it gets one worker in, once.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use finetuner_server::{
    Server,
    launcher::{JobState, Launcher, StartError, WorkOrder},
};
use futures_util::future::BoxFuture;
use reqwest::StatusCode;
use serde_json::json;

use crate::support::{Http, connect, exchange, fit, pairs};

/// Hands out the start tokens of its jobs, and runs none.
#[derive(Clone, Default)]
struct Orders(Arc<Mutex<Vec<WorkOrder>>>);

impl Launcher for Orders {
    fn start<'a>(&'a self, order: &'a WorkOrder) -> BoxFuture<'a, Result<(), StartError>> {
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
async fn a_start_token_is_good_once_and_for_nothing_else() {
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
    // What is no hash spends nothing.
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
