//! The history of a run from backends that answer in unusual ways.

use finetuner::{RunProgress, Update};
use serde_json::{Value, json};
use wiremock::ResponseTemplate;

use crate::mock::{count, with_run};

#[tokio::test]
async fn a_history_from_a_backend_that_repeats_it_has_each_point_once() {
    let point = |number: u64| {
        json!({"number": number, "at": 0, "kind": "epoch", "epoch": 1, "epochs": 1,
            "train_loss": 0.5, "val_loss": null})
    };
    // As many as one answer may have.
    let points: Vec<Value> = (1..=10_000).map(point).collect();
    let answer = ResponseTemplate::new(200).set_body_json(points);
    let (server, _finetuner, run) = with_run("/history", answer).await;
    assert_eq!(run.metric_history(None).await.unwrap().len(), 10_000);
    assert_eq!(count(&server, "/history").await, 2);
    let rest = run.metric_history(Some(9_990)).await.unwrap();
    assert_eq!(rest.len(), 10);
}

#[tokio::test]
async fn progress_with_numbers_that_are_too_large_is_the_largest() {
    let most = u64::MAX;
    let step = json!([{"number": 1, "at": 0, "kind": "step", "epoch": most, "epochs": most,
        "step": 2, "steps": most, "loss": 0.5, "mean_loss": 0.5, "learning_rate": 0.1}]);
    let answer = ResponseTemplate::new(200).set_body_json(step);
    let (_server, _finetuner, run) = with_run("/history", answer).await;
    let first = run.watch().next().await.unwrap().unwrap();
    let progress = RunProgress::new(most, most, most, most);
    assert_eq!(first, Update::Progress(progress));
}
