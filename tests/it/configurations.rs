//! Runs described by a complete configuration.

use finetuner::{RunConfig, protocol::callback};
use serde_json::{Value, json};

use crate::mock::accept_all;

fn as_json(config: &RunConfig) -> Value {
    serde_json::to_value(config).unwrap()
}

#[tokio::test]
async fn a_configuration_is_sent_unchanged_except_for_later_settings() {
    let (_server, finetuner) = accept_all().await;
    let config: RunConfig = serde_json::from_value(json!({
        "public": true,
        "run_name": "again",
        "experiment_name": "fashion",
        "model": {"name": "clip-small", "freeze": true, "options": {"seed": 3}},
        "data": {
            "train_data": "train", "eval_data": "eval", "num_workers": 2,
            "more_train_data": [{"name": "more", "weight": 0.5}],
        },
        "callbacks": [{"name": "EvaluationCallback", "options": {"query_data": "test", "limit": 7}}],
        "hyper_parameters": {
            "loss": "MultipleNegativeRankingLoss", "epochs": 2,
            "mine_hard_negatives": {"corpus": "all", "num_negatives": 2},
        },
    }))
    .unwrap();
    let fit = finetuner.fit("other", "other").epochs(9).eval_data("other");
    let run = fit.config(config.clone()).await.unwrap();
    assert_eq!(run.name(), "again");
    assert_eq!(as_json(run.config().training().unwrap()), as_json(&config));

    let fit = finetuner.fit_config(config).epochs(3);
    let run = fit.train_data("titles").run_name("b").await.unwrap();
    let sent = as_json(run.config().training().unwrap());
    assert_eq!(sent["hyper_parameters"]["epochs"], 3);
    assert_eq!(sent["data"]["train_data"], "titles");
    assert_eq!(sent["run_name"], "b");
    assert_eq!(sent["model"]["options"]["seed"], 3);
}

#[tokio::test]
async fn data_of_a_configured_callback_can_be_replaced() {
    let (_server, finetuner) = accept_all().await;
    let options = callback::EvaluationCallback::new("file.csv").limit(7);
    let options = options.index_data("index").batch_size(4);
    let evaluation = finetuner::EvaluationCallback::from(options).query_data("pushed");
    let run = finetuner
        .fit("clip-small", "train")
        .callback(evaluation)
        .await;
    let sent = as_json(run.unwrap().config().training().unwrap());
    let options = &sent["callbacks"][0]["options"];
    for (name, expected) in [
        ("query_data", json!("pushed")),
        ("index_data", json!("index")),
        ("limit", json!(7)),
        ("batch_size", json!(4)),
    ] {
        assert_eq!(options[name], expected, "{name}");
    }
}
