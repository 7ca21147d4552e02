//! What the SDK sends equals what the recorded Python clients sent, whose
//! requests are in `tests/fixtures`.

use finetuner::{
    BestModelCheckpoint, Callback, Device, Document, DocumentArray, EvaluationCallback, Generation,
    Loss, describe_models,
};
use serde_json::{Map, Value, json};
use wiremock::{MockServer, Request, ResponseTemplate};

use crate::mock::{ARTIFACT, TOKEN, agreeable, on};

const V0_2: &str = include_str!("../fixtures/python-client-0.2.2.jsonl");
const V0_8: &str = include_str!("../fixtures/python-client-0.8.1.jsonl");

/// The recorded request that created the run of this name.
fn recorded(recording: &str, run: &str) -> Value {
    recording
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .find(|request| request["json"]["config"]["run_name"] == run)
        .unwrap()
}

async fn last_post(server: &MockServer) -> Request {
    let mut requests = server.received_requests().await.unwrap();
    requests.retain(|request| request.method.as_str() == "POST");
    requests.pop().unwrap()
}

/// Compares method, path, headers and body with the recording.
async fn assert_sent(server: &MockServer, recorded: &Value) {
    let sent = last_post(server).await;
    assert_eq!(sent.method.as_str(), recorded["method"]);
    assert_eq!(sent.url.path(), recorded["path"]);
    for (name, value) in recorded["headers"].as_object().unwrap() {
        assert_eq!(sent.headers[name], value.as_str().unwrap(), "{name}");
    }
    let body: Value = sent.body_json().unwrap();
    assert_eq!(body, recorded["json"]);
}

fn object(value: Value) -> Map<String, Value> {
    value.as_object().unwrap().clone()
}

#[tokio::test]
async fn the_guides_fit_is_sent_as_by_the_last_python_client() {
    let (server, finetuner) = agreeable().await;
    let run = finetuner
        .fit("openai/clip-vit-base-patch32", "clip-fashion-train-data")
        .run_name("clip-fashion-1")
        .eval_data("clip-fashion-eval-data")
        .epochs(5)
        .learning_rate(1e-5)
        .callback(BestModelCheckpoint::new())
        .callback(EvaluationCallback::new("clip-fashion-eval-data"))
        .loss(Loss::Clip)
        .await
        .unwrap();
    assert_eq!(
        (run.name(), run.experiment()),
        ("clip-fashion-1", "default")
    );
    assert_sent(&server, &recorded(V0_8, "clip-fashion-1")).await;
}

#[tokio::test]
async fn a_fit_without_settings_has_the_defaults_of_the_last_python_client() {
    let (server, finetuner) = agreeable().await;
    let fit = finetuner.fit("clip-base-en", "t").run_name("minimal");
    fit.await.unwrap();
    assert_sent(&server, &recorded(V0_8, "minimal")).await;
}

#[tokio::test]
async fn a_fit_with_every_setting_is_sent_as_by_the_last_python_client() {
    let (server, finetuner) = agreeable().await;
    let other = |name: &str, options: Value| Callback::Other {
        name: name.to_owned(),
        options: object(options),
    };
    let mut evaluation = EvaluationCallback::new("q").index_data("i").limit(10);
    evaluation.model = Some("clip-text".to_owned());
    evaluation.index_model = Some("clip-vision".to_owned());
    evaluation.gather_examples = true;
    let fit = finetuner
        .fit("", "t")
        .model_artifact(ARTIFACT)
        .experiment_name("fashion")
        .run_name("full")
        .eval_data("e")
        .val_split(0.1)
        .freeze(true)
        .output_dim(64)
        .model_option("pooler", "mean")
        .to_onnx(true)
        .loss("ArcFaceLoss")
        .loss_optimizer("SGD")
        .loss_optimizer_options(object(json!({"lr": 0.1})))
        .miner("TripletMarginMiner")
        .miner_options(object(json!({"margin": 0.2})))
        .optimizer("AdamW")
        .optimizer_options(object(json!({"weight_decay": 0.01})))
        .learning_rate(2e-5)
        .epochs(3)
        .batch_size(32)
        .scheduler("linear")
        .scheduler_options(
            serde_json::from_value(json!({
                "num_warmup_steps": 2, "num_training_steps": "auto", "scheduler_step": "batch",
            }))
            .unwrap(),
        )
        .callbacks([
            BestModelCheckpoint::new()
                .monitor("train_loss")
                .mode("min")
                .into(),
            other("TrainingCheckpoint", json!({"last_k_epochs": 2})),
            other(
                "WandBLogger",
                json!({"metrics_logger_step": "batch", "wandb_args": {"project": "p"},
                    "log_zero_shot": true}),
            ),
            other(
                "EarlyStopping",
                json!({"monitor": "val_loss", "mode": "auto", "patience": 3, "min_delta": 0,
                    "baseline": 0.5}),
            ),
            evaluation.into(),
            other("WiSEFTCallback", json!({"alpha": 0.5})),
        ])
        .device(Device::Cpu)
        .num_workers(2)
        .sampler("class")
        .num_items_per_class(2)
        .public(true);
    fit.await.unwrap();
    assert_sent(&server, &recorded(V0_8, "full")).await;
}

#[tokio::test]
async fn documents_are_pushed_under_the_python_clients_name_and_then_named() {
    let (server, finetuner) = agreeable().await;
    let mut documents = DocumentArray::new();
    documents.push(Document::new().with_chunk(Document::text("red shoe").with_modality("text")));
    let mut evaluation = EvaluationCallback::new("finetuner-dastorage-fashion-pushed-train");
    evaluation.index_data = Some(evaluation.query_data.clone());
    finetuner
        .fit("clip-base-en", documents.clone())
        .experiment_name("fashion")
        .run_name("pushed")
        .eval_data("finetuner-dastorage-fashion-pushed-train")
        .callback(evaluation)
        .await
        .unwrap();
    assert_sent(&server, &recorded(V0_8, "pushed")).await;

    let requests = server.received_requests().await.unwrap();
    let upload = requests
        .iter()
        .find(|r| r.url.path() == "/v2/rpc/artifact.upload")
        .unwrap();
    let body = String::from_utf8_lossy(&upload.body);
    for part in [
        "name=\"file\"; filename=\"DocumentArray\"",
        "name=\"name\"\r\n\r\nfinetuner-dastorage-fashion-pushed-train\r\n",
        "name=\"type\"\r\n\r\ndocumentArray\r\n",
        "name=\"public\"\r\n\r\nFalse\r\n",
    ] {
        assert!(body.contains(part), "{part:?} is not in {body}");
    }
}

#[tokio::test]
async fn the_guides_fit_is_sent_as_by_the_client_of_its_time() {
    let (server, finetuner) = agreeable().await;
    let mut evaluation = EvaluationCallback::new("clip-fashion-eval-data");
    evaluation.batch_size = 8;
    finetuner
        .fit("openai/clip-vit-base-patch32", "clip-fashion-train-data")
        .generation(Generation::V0_2)
        .experiment_name("rec")
        .run_name("clip-fashion-1")
        .eval_data("clip-fashion-eval-data")
        .epochs(5)
        .learning_rate(1e-5)
        .callback(BestModelCheckpoint::new())
        .callback(evaluation)
        .loss(Loss::Clip)
        .image_modality("image")
        .text_modality("text")
        .multi_modal(true)
        .await
        .unwrap();
    assert_sent(&server, &recorded(V0_2, "clip-fashion-1")).await;
}

#[tokio::test]
async fn a_fit_without_settings_has_the_defaults_of_the_guides_client() {
    let (server, finetuner) = agreeable().await;
    finetuner
        .fit("resnet50", "t")
        .generation(Generation::V0_2)
        .experiment_name("rec")
        .run_name("minimal")
        .await
        .unwrap();
    assert_sent(&server, &recorded(V0_2, "minimal")).await;
}

#[tokio::test]
async fn the_default_experiment_is_created_where_it_is_not_there() {
    let (server, finetuner) = agreeable().await;
    let missing = ResponseTemplate::new(404).set_body_json(json!({"detail": "not found"}));
    on(&server, "GET", "/api/v1/experiments/default", missing).await;
    finetuner.fit("clip-base-en", "t").await.unwrap();
    let requests = server.received_requests().await.unwrap();
    let created = requests
        .iter()
        .find(|r| r.method.as_str() == "POST" && r.url.path() == "/api/v1/experiments/")
        .unwrap();
    let recorded: Value = V0_8
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .find(|r| r["json"]["name"] == "default" && r["path"] == "/api/v1/experiments/")
        .unwrap();
    assert_eq!(created.body_json::<Value>().unwrap(), recorded["json"]);
}

#[tokio::test]
async fn every_call_but_the_download_carries_the_token_and_nothing_shows_it() {
    let (server, finetuner) = agreeable().await;
    let run = finetuner.get_run("r").await.unwrap();
    for request in server.received_requests().await.unwrap() {
        assert_eq!(
            request.headers["authorization"],
            format!("token {TOKEN}").as_str()
        );
        assert!(!request.url.as_str().contains(TOKEN));
    }
    let denied = ResponseTemplate::new(403).set_body_json(json!({"detail": "not yours"}));
    on(
        &server,
        "GET",
        "/api/v1/experiments/default/runs/r/logs",
        denied,
    )
    .await;
    let error = run.logs().await.unwrap_err();
    let builder = finetuner::Finetuner::builder().token(TOKEN);
    let shown = format!("{finetuner:?} {run:?} {builder:?} {error} {error:?}");
    assert!(!shown.contains(TOKEN), "{shown}");
}

/// The guide's picture of the table. Its rows are the first of ours.
const GUIDE: &str = "
┃                                            model ┃           task ┃ output_dim ┃ architecture ┃                                          description ┃
│                                         resnet50 │ image-to-image │       2048 │          CNN │                               Pretrained on ImageNet │
│                                        resnet152 │ image-to-image │       2048 │          CNN │                               Pretrained on ImageNet │
│                                  efficientnet_b0 │ image-to-image │       1280 │          CNN │                               Pretrained on ImageNet │
│                                  efficientnet_b4 │ image-to-image │       1280 │          CNN │                               Pretrained on ImageNet │
│                     openai/clip-vit-base-patch32 │  text-to-image │        768 │  transformer │ Pretrained on millions of text image pairs by OpenAI │
│                                  bert-base-cased │   text-to-text │        768 │  transformer │       Pretrained on BookCorpus and English Wikipedia │
│ sentence-transformers/msmarco-distilbert-base-v3 │   text-to-text │        768 │  transformer │           Pretrained on Bert, fine-tuned on MS Marco │
";

#[test]
fn the_table_of_backbones_is_the_guides_and_ours_below() {
    let cells = |line: &str| -> Vec<String> {
        line.split(['│', '┃'])
            .map(|c| c.trim().to_owned())
            .collect()
    };
    let table = describe_models().to_string();
    let lines: Vec<&str> = table.lines().collect();
    assert_eq!(lines[0].trim(), "Finetuner backbones");
    assert!(lines[1].starts_with('┏') && lines[1].ends_with('┓'));
    assert!(lines[3].starts_with('┡') && lines[3].ends_with('┩'));
    assert!(table.ends_with('┘'));
    let rows = [&lines[2..3], &lines[4..]].concat();
    for (ours, guide) in rows.iter().zip(GUIDE.trim().lines()) {
        assert_eq!(cells(ours), cells(guide));
    }
    assert!(rows.iter().any(|row| cells(row)[1] == "clip-small"));
    let width = lines[1].chars().count();
    for line in &lines {
        assert_eq!(line.chars().count(), width, "{line}");
    }
}
