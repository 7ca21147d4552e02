//! Runs with callbacks: early stopping, evaluation, averaged weights, logs.

use std::collections::HashMap;

use serde_json::json;

use super::{config, features, run};

#[test]
fn callbacks_stop_early_average_weights_evaluate_and_log() {
    let data = HashMap::from([("train", features()), ("eval", features())]);
    let model = json!({"name": "mlp", "options": {"input_size": 5, "hidden_sizes": [4]}});
    let hyper = json!({"loss": "TripletMarginLoss", "epochs": 20, "batch_size": 12,
        "learning_rate": 1e-12});
    let callbacks = json!([
        {"name": "EvaluationCallback", "options": {"query_data": "eval", "index_data": "train",
            "caption": "mine", "output_model_names": true, "query_sample_size": 5, "limit": 3,
            "metrics": ["hit_at_k", "recall_at_k", "ndcg@50", "recall@50"], "steps_per_interval": 3, "distance": "euclidean"}},
        {"name": "EarlyStopping", "options": {"monitor": "train_loss", "patience": 2, "min_delta": 1e9}},
        {"name": "WiSEFTCallback", "options": {"alpha": 0.25}},
        {"name": "WandBLogger", "options": {"metrics_logger_step": "batch",
            "wandb_args": {"project": "p"}}},
        {"name": "MLFlowLogger", "options": {"experiment": "x", "tracking_uri": "file:///mlruns"}},
    ]);
    let run = run(config(model, hyper, callbacks), &data).unwrap();
    assert!(run.logged("Training is stopping, no improvement for 2 epochs"));
    // The first epoch counts as an improvement.
    assert_eq!(
        run.notes
            .log
            .iter()
            .filter(|l| l.starts_with("Training ["))
            .count(),
        3
    );
    let names: Vec<&str> = run.finished.after.keys().map(String::as_str).collect();
    let measured = ["hit_at_k", "ndcg@50", "recall@50", "recall_at_k"];
    assert_eq!(names, measured.map(|name| format!("mine_model_{name}")));
    // The index has fewer than 50 documents, so all relevant ones are found.
    // `recall_at_k` uses the list cut at `limit`.
    let after = |name: &str| run.finished.after[&format!("mine_model_{name}")];
    assert_eq!(after("recall@50"), 1.0);
    assert!(after("recall_at_k") < 1.0);
    assert!(run.logged("Metric: 'mine_model_hit_at_k' after 3 steps"));
    assert!(run.logged("the artifact has the run under logs/wandb"));
    let file = std::fs::File::open(&run.finished.artifact).unwrap();
    let zip = zip::ZipArchive::new(file).unwrap();
    let has = |part: &str| zip.file_names().any(|name| name.unwrap().contains(part));
    for part in [
        "r/logs/tensorboard/events.out.tfevents.",
        "r/logs/wandb/offline-run-",
        "/metrics/epoch/train_loss",
        "r/finetuner.json",
    ] {
        assert!(has(part), "{part}");
    }
}

#[test]
fn the_best_model_is_evaluated_after_training() {
    let data = HashMap::from([("train", features()), ("eval", features())]);
    let model = json!({"name": "mlp", "options": {"input_size": 5, "hidden_sizes": [4]}});
    // Nothing changes, so the first epoch stays the best.
    let hyper = json!({"loss": "TripletMarginLoss", "epochs": 3, "batch_size": 12,
        "learning_rate": 1e-12});
    let callbacks = json!([
        {"name": "EvaluationCallback", "options": {"query_data": "eval", "metrics": ["recall@3"]}},
        {"name": "BestModelCheckpoint", "options": {"monitor": "recall@3"}},
        {"name": "MLFlowLogger", "options": {"experiment": "x", "tracking_uri": "file:///mlruns"}},
    ]);
    let run = run(config(model, hyper, callbacks), &data).unwrap();
    let file = std::fs::File::open(&run.finished.artifact).unwrap();
    let mut zip = zip::ZipArchive::new(file).unwrap();
    let is_metric = |name: &&str| name.ends_with("/metrics/eval/recall_3");
    let names: Vec<String> = zip
        .file_names()
        .map(|name| name.unwrap().to_string())
        .collect();
    let name = names.iter().map(String::as_str).find(is_metric).unwrap();
    let mut text = String::new();
    std::io::Read::read_to_string(&mut zip.by_name(name).unwrap(), &mut text).unwrap();
    // A line of MLflow is a time, a value and a step. Its metric names have no `@`.
    let steps: Vec<&str> = text
        .lines()
        .filter_map(|line| line.split(' ').nth(2))
        .collect();
    assert_eq!(steps, ["0", "2", "4", "6", "6"]);
}
