//! The SDK's requests equal the recorded requests of the Python clients in
//! `tests/fixtures`: method, path, query, headers and body.

mod recording;

use finetuner::{
    BaseModel, BestModelCheckpoint, Csv, EarlyStopping, EvaluationCallback, Finetuner, Generation,
    Loss, MLFlowLogger, Options, SchedulerOptions, SynthesisModels, TrainingCheckpoint,
    WandBLogger, WiSEFTCallback,
};
use finetuner_protocol::Config;
use serde_json::{Value, json};
use wiremock::{MockServer, ResponseTemplate};

use self::recording::{V0_2, V0_8, assert_all_sent, recorded, uploaded};
use crate::mock::{ARTIFACT, accept_all, on};

async fn no_such_experiment(server: &MockServer, name: &str) {
    let missing = ResponseTemplate::new(404).set_body_json(json!({"detail": "not found"}));
    let path = format!("/api/v1/experiments/{name}");
    on(server, "GET", &path, missing).await;
}

#[tokio::test]
async fn the_sdk_sends_every_request_of_the_newest_python_client() {
    let (server, finetuner) = accept_all().await;
    experiments(&finetuner).await;
    trainings(&finetuner).await;
    data_runs(&finetuner).await;
    run_calls(&finetuner).await;
    deletions(&finetuner).await;
    account_calls(&finetuner).await;
    assert_all_sent(&server, V0_8).await;
}

async fn experiments(finetuner: &Finetuner) {
    for (page, size) in [(1, 50), (2, 10)] {
        finetuner.list_experiments().page(page, size).await.unwrap();
    }
    for name in ["default", "fashion"] {
        finetuner.get_experiment(name).await.unwrap();
        finetuner.create_experiment(name).await.unwrap();
    }
}

async fn trainings(finetuner: &Finetuner) {
    finetuner
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
    let minimal = finetuner.fit("clip-base-en", "t").run_name("minimal");
    minimal.await.unwrap();
    let evaluation = EvaluationCallback::new("q")
        .index_data("i")
        .limit(10)
        .model("clip-text")
        .index_model("clip-vision")
        .gather_examples(true);
    finetuner
        .fit(BaseModel::artifact(ARTIFACT), "t")
        .experiment_name("fashion")
        .run_name("full")
        .eval_data("e")
        .val_split(0.1)
        .freeze(true)
        .output_dim(64)
        .model_options(Options::new().pooler("mean"))
        .to_onnx(true)
        .loss(Loss::ArcFace)
        .loss_optimizer("SGD")
        .loss_optimizer_options([("lr", 0.1)])
        .miner("TripletMarginMiner")
        .miner_options(Options::new().margin(0.2))
        .optimizer("AdamW")
        .optimizer_options(Options::new().weight_decay(0.01))
        .learning_rate(2e-5)
        .epochs(3)
        .batch_size(32)
        .scheduler("linear")
        .scheduler_options(SchedulerOptions::default().num_warmup_steps(2))
        .callbacks([
            BestModelCheckpoint::new()
                .monitor("train_loss")
                .mode("min")
                .into(),
            TrainingCheckpoint::new().last_k_epochs(2).into(),
            WandBLogger::new()
                .metrics_logger_step("batch")
                .wandb_arg("project", "p")
                .into(),
            EarlyStopping::new().patience(3).baseline(0.5).into(),
            evaluation.into(),
            WiSEFTCallback::new().alpha(0.5).into(),
        ])
        .device("cpu")
        .num_workers(2)
        .sampler("class")
        .num_items_per_class(2)
        .public(true)
        .await
        .unwrap();
}

async fn data_runs(finetuner: &Finetuner) {
    // The same array three times, uploaded once.
    let documents = uploaded("finetuner-dastorage-fashion-pushed-train");
    let evaluation = EvaluationCallback::new(&documents).index_data(&documents);
    finetuner
        .fit("clip-base-en", &documents)
        .experiment_name("fashion")
        .run_name("pushed")
        .eval_data(&documents)
        .callback(evaluation)
        .await
        .unwrap();
    finetuner
        .synthesize("q", "c")
        .run_name("syn")
        .num_relations(3)
        .await
        .unwrap();
    let texts = |name: &str| uploaded(&format!("finetuner-dastorage-default-syn2-{name}"));
    finetuner
        .synthesize(texts("query"), texts("corpus"))
        .run_name("syn2")
        .models(SynthesisModels::english())
        .await
        .unwrap();
    let csv = "pencil skirt,https://example.com/s.png\nstriped shirt,https://example.com/t.png\n";
    finetuner
        .fit("clip-base-en", Csv::text(csv))
        .run_name("csv")
        .await
        .unwrap();
}

async fn run_calls(finetuner: &Finetuner) {
    let fashion = finetuner.get_experiment("fashion").await.unwrap();
    for name in ["clip-fashion-1", "minimal", "syn", "syn2", "csv"] {
        finetuner.get_run(name).await.unwrap();
    }
    for name in ["full", "pushed"] {
        fashion.get_run(name).await.unwrap();
    }
    fashion.list_runs().page(1, 50).await.unwrap();
    fashion.list_runs().page(1, 5).await.unwrap();
    let default = finetuner.experiment("default");
    default.list_runs().page(1, 5).await.unwrap();
    // The server names every run `r`, so the handle has that name.
    let run = finetuner
        .fit("m", "t")
        .run_name("clip-fashion-1")
        .await
        .unwrap();
    run.status().await.unwrap();
    run.logs().await.unwrap();
    assert!(run.stream_logs().next().await.is_none());
    run.metrics().await.unwrap();
    run.example_results().await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    run.save_artifact(folder.path()).await.unwrap();
}

async fn deletions(finetuner: &Finetuner) {
    finetuner.delete_run("minimal").await.unwrap();
    finetuner.experiment("fashion").delete_runs().await.unwrap();
    finetuner.delete_experiment("fashion").await.unwrap();
    finetuner.delete_experiments().await.unwrap();
}

async fn account_calls(finetuner: &Finetuner) {
    finetuner.whoami().await.unwrap();
    finetuner
        .pull("finetuner-dastorage-fashion-pushed-train")
        .await
        .unwrap();
    finetuner.list_artifacts("model").page(1, 10).await.unwrap();
    finetuner.describe_artifact(ARTIFACT).await.unwrap();
    finetuner.delete_artifact("x").await.unwrap();
    finetuner
        .create_token("ci")
        .expires_in_days(30)
        .await
        .unwrap();
    finetuner.list_tokens().await.unwrap();
    finetuner.delete_token("ci").await.unwrap();
}

#[tokio::test]
async fn the_sdk_sends_every_request_of_the_guides_python_client() {
    let (server, finetuner) = accept_all().await;
    finetuner
        .fit("openai/clip-vit-base-patch32", "clip-fashion-train-data")
        .generation(Generation::V0_2)
        .experiment_name("rec")
        .run_name("clip-fashion-1")
        .eval_data("clip-fashion-eval-data")
        .epochs(5)
        .learning_rate(1e-5)
        .callback(BestModelCheckpoint::new())
        .callback(EvaluationCallback::new("clip-fashion-eval-data"))
        .loss(Loss::Clip)
        .image_modality("image")
        .text_modality("text")
        .multi_modal(true)
        .await
        .unwrap();
    finetuner
        .fit("resnet50", "t")
        .generation(Generation::V0_2)
        .experiment_name("rec")
        .run_name("minimal")
        .await
        .unwrap();
    finetuner
        .fit("bert-base-cased", "t")
        .generation(Generation::V0_2)
        .experiment_name("rec")
        .run_name("full")
        .freeze(true)
        .output_dim(64)
        .model_option("x", 1)
        .miner("TripletMarginMiner")
        .device("cuda")
        .callback(TrainingCheckpoint::new())
        .callback(WandBLogger::new().experiment("e"))
        .callback(MLFlowLogger::new("e", "u"))
        .callback(EarlyStopping::new())
        .await
        .unwrap();
    let experiment = finetuner.experiment("rec");
    experiment.get_run("clip-fashion-1").await.unwrap();
    let run = finetuner
        .fit("m", "t")
        .experiment_name("rec")
        .run_name("clip-fashion-1")
        .await
        .unwrap();
    run.status().await.unwrap();
    run.logs().await.unwrap();
    assert_all_sent(&server, V0_2).await;
}

#[tokio::test]
async fn a_fit_by_name_is_one_request() {
    let (server, finetuner) = accept_all().await;
    let before = server.received_requests().await.unwrap().len();
    finetuner.fit("clip-base-en", "t").await.unwrap();
    let after = server.received_requests().await.unwrap().len();
    assert_eq!(after - before, 1);
}

#[tokio::test]
async fn a_missing_experiment_is_created() {
    let (server, finetuner) = accept_all().await;
    no_such_experiment(&server, "shoes").await;
    let missing = ResponseTemplate::new(404).set_body_json(json!({"detail": "not found"}));
    let created = ResponseTemplate::new(201).set_body_json(json!({"name": "r"}));
    let answers = crate::mock::Sequence::new([missing, created]);
    on(&server, "POST", "/api/v1/experiments/shoes/runs", answers).await;
    let fit = finetuner.fit("clip-base-en", "t").experiment_name("shoes");
    fit.await.unwrap();
    let requests = server.received_requests().await.unwrap();
    let tail: Vec<_> = requests[requests.len() - 3..]
        .iter()
        .map(|r| (r.method.as_str(), r.url.path()))
        .collect();
    let runs = "/api/v1/experiments/shoes/runs";
    let expected = [
        ("POST", runs),
        ("POST", "/api/v1/experiments/"),
        ("POST", runs),
    ];
    assert_eq!(tail, expected);
}

#[tokio::test]
async fn calls_use_the_configured_proxy() {
    let (proxy, _) = accept_all().await;
    // Only the proxy can reach this address.
    let finetuner = Finetuner::builder()
        .registry("http://finetuner.invalid:8642")
        .allow_plain_http(true)
        .proxy(proxy.uri())
        .token(crate::mock::TOKEN)
        .user_agent("my-app/1.2")
        .login()
        .await
        .unwrap();
    finetuner.get_run("r").await.unwrap();
    let requests = proxy.received_requests().await.unwrap();
    let last = requests.last().unwrap();
    assert_eq!(last.headers["host"], "finetuner.invalid:8642");
    let agent = last.headers["user-agent"].to_str().unwrap();
    assert!(agent.starts_with("my-app/1.2 finetuner-rs/"), "{agent}");

    let builder = || Finetuner::builder().token(crate::mock::TOKEN);
    let error = builder().proxy("no proxy").connect().await.unwrap_err();
    assert!(error.to_string().contains("`proxy`"), "{error}");
    for pem in ["", "-----BEGIN CERTIFICATE-----\nAAAA"] {
        let error = builder()
            .add_root_certificate(pem)
            .connect()
            .await
            .unwrap_err();
        assert!(
            error.to_string().contains("`add_root_certificate`"),
            "{error}"
        );
    }
}

#[test]
fn recorded_configurations_contain_no_unknown_fields() {
    let requests = [V0_2, V0_8].into_iter().flat_map(recorded);
    let sent = requests.map(|request| request["json"]["config"].clone());
    let configs: Vec<Value> = sent.filter(|config| !config.is_null()).collect();
    assert!(!configs.is_empty());
    for sent in configs {
        let unknown = match serde_json::from_value(sent.clone()).unwrap() {
            Config::Training(config) => config.unknown_members(),
            Config::Synthesis(config) => config.unknown_members(),
            _ => panic!("{sent} is not understood"),
        };
        assert_eq!(unknown, [""; 0], "{sent}");
    }
}
