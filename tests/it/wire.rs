//! The SDK's requests equal the recorded requests of the Python clients in
//! `tests/fixtures`: method, path, query, headers and body.

use finetuner::{
    BaseModel, BestModelCheckpoint, Csv, Document, DocumentArray, EarlyStopping,
    EvaluationCallback, Finetuner, Generation, Loss, MLFlowLogger, Options, SchedulerOptions,
    SynthesisModels, TrainingCheckpoint, WandBLogger, WiSEFTCallback, protocol::DocumentReader,
};
use finetuner_protocol::Config;
use serde_json::{Value, json};
use wiremock::{MockServer, Request, ResponseTemplate};

use crate::mock::{ARTIFACT, accept_all, on};

const V0_2: &str = include_str!("../fixtures/python-client-0.2.2.jsonl");
const V0_8: &str = include_str!("../fixtures/python-client-0.8.1.jsonl");

/// Recorded requests without an equivalent, with the reason.
const NOT_SENT: [(&str, &str, &str); 3] = [
    (
        "GET",
        "/api/v1/experiments",
        "the list of client 0.2.2 is bare; lists are asked for in pages, which later clients do",
    ),
    (
        "POST",
        "/api/v1/experiments",
        "client 0.2.2 has no slash at the end; all later clients have one",
    ),
    (
        "POST",
        "/v2/rpc/user.identity.whoami (without a session)",
        "0.8.1 asks so before every call; one at login is enough",
    ),
];

/// Form fields that the Python clients did not send, with the reason. They follow all
/// others, and backends ignore unknown fields.
const ADDED: [(&str, &str); 2] = [
    (
        "documents",
        "our backend refuses an upload with another number of documents",
    ),
    (
        "sha256",
        "our backend refuses an upload with another content",
    ),
];

/// Names of uploaded data end with 12 random digits, so that a run never replaces
/// another run's data. The Python clients have no such suffix.
const PUSHED: &str = "finetuner-dastorage-";
const RANDOM_DIGITS: usize = 12;

fn recorded(recording: &str) -> Vec<Value> {
    let lines = recording.lines();
    lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// Returns the documents that the recorded client uploaded under this name.
fn uploaded(name: &str) -> DocumentArray {
    let requests = recorded(V0_8);
    let upload = requests
        .iter()
        .filter_map(|request| request["multipart"].as_array())
        .find(|parts| parts.iter().any(|part| part["value"] == name))
        .unwrap();
    documents(&base64(upload[0]["value"].as_str().unwrap()))
}

fn documents(bytes: &[u8]) -> DocumentArray {
    DocumentReader::new(bytes)
        .unwrap()
        .collect::<Result<_, _>>()
        .unwrap()
}

fn base64(text: &str) -> Vec<u8> {
    let value = |c: u8| match c {
        b'A'..=b'Z' => c - b'A',
        b'a'..=b'z' => c - b'a' + 26,
        b'0'..=b'9' => c - b'0' + 52,
        b'+' => 62,
        _ => 63,
    };
    let mut out = Vec::new();
    for group in text.trim_end_matches('=').as_bytes().chunks(4) {
        let bits = group
            .iter()
            .fold(0u32, |bits, c| bits << 6 | u32::from(value(*c)));
        let bits = bits << (6 * (4 - group.len()));
        out.extend_from_slice(&bits.to_be_bytes()[1..group.len()]);
    }
    out
}

/// A request in the format of the recording, without random values and versions.
fn normalised(request: &Value) -> Value {
    let mut request = request.clone();
    remove_random_suffixes(&mut request);
    if let Some(parts) = request["multipart"].as_array_mut() {
        let is_added = |part: &Value| ADDED.iter().any(|(name, _)| part["name"] == *name);
        while parts.last().is_some_and(is_added) {
            parts.pop();
        }
        for part in parts {
            if part["name"] == "file" {
                let mut array = documents(&base64(part["value"].as_str().unwrap()));
                array.iter_mut().for_each(remove_ids);
                part["value"] = format!("{array:?}").into();
            }
            if part["name"] == "metaData" {
                let mut meta: Value =
                    serde_json::from_str(part["value"].as_str().unwrap()).unwrap();
                // Names of packages and their versions.
                meta["version"] = Value::Null;
                part["value"] = meta;
            }
        }
    }
    for volatile in [
        "transfer-encoding",
        "jinameta-session-id",
        "accept-charset",
        "content-type",
    ] {
        // Session ids and form boundaries are random.
        if let Some(headers) = request["headers"].as_object_mut() {
            if volatile != "content-type" {
                headers.remove(volatile);
            } else if let Some(kind) = headers.get_mut(volatile) {
                *kind = kind.as_str().unwrap().split(';').next().unwrap().into();
            }
        }
    }
    request
}

/// Removes the random digits from the names of uploaded data.
fn remove_random_suffixes(value: &mut Value) {
    match value {
        Value::String(text) if text.starts_with(PUSHED) => {
            let Some((name, end)) = text.rsplit_once('-') else {
                return;
            };
            if end.len() == RANDOM_DIGITS && end.bytes().all(|c| c.is_ascii_hexdigit()) {
                *text = name.to_owned();
            }
        }
        Value::Array(items) => items.iter_mut().for_each(remove_random_suffixes),
        Value::Object(members) => members.values_mut().for_each(remove_random_suffixes),
        _ => {}
    }
}

/// Removes random ids.
fn remove_ids(document: &mut Document) {
    let random = |id: &String| id.len() == 32;
    if random(&document.id) {
        document.id.clear();
    }
    if random(&document.other.parent_id) {
        document.other.parent_id.clear();
    }
    document.chunks.iter_mut().for_each(remove_ids);
}

/// Returns the received requests in the format of the recording.
async fn sent(server: &MockServer) -> Vec<Value> {
    let mut all = Vec::new();
    for request in server.received_requests().await.unwrap() {
        all.push(normalised(&record(&request)));
    }
    all
}

fn record(request: &Request) -> Value {
    let mut line = json!({"method": request.method.as_str(), "path": request.url.path()});
    let query: serde_json::Map<String, Value> = request
        .url
        .query_pairs()
        .map(|(k, v)| (k.into_owned(), v.into_owned().into()))
        .collect();
    if !query.is_empty() {
        line["query"] = query.into();
    }
    let mut headers = json!({});
    for name in ["accept-charset", "authorization", "content-type"] {
        if let Some(value) = request.headers.get(name) {
            headers[name] = value.to_str().unwrap().into();
        }
    }
    let kind = headers["content-type"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    line["headers"] = headers;
    if kind.starts_with("application/json") {
        line["json"] = request.body_json().unwrap();
    } else if kind.starts_with("application/x-www-form-urlencoded") {
        let form: serde_json::Map<String, Value> = url::form_urlencoded::parse(&request.body)
            .map(|(k, v)| (k.into_owned(), v.into_owned().into()))
            .collect();
        line["form"] = form.into();
    } else if let Some((_, boundary)) = kind.split_once("boundary=") {
        line["multipart"] = parts(&request.body, boundary).into();
    }
    line
}

/// Returns the parts of a form, with files as base64.
fn parts(body: &[u8], boundary: &str) -> Vec<Value> {
    let delimiter = format!("--{boundary}");
    let find = |from: usize, what: &[u8]| {
        let rest = &body[from..];
        rest.windows(what.len())
            .position(|part| part == what)
            .map(|at| from + at)
    };
    let mut found = Vec::new();
    let mut at = delimiter.len() + 2;
    while let Some(end) = find(at, format!("\r\n{delimiter}").as_bytes()) {
        let head_end = find(at, b"\r\n\r\n").unwrap();
        let head = String::from_utf8_lossy(&body[at..head_end]).into_owned();
        let content = &body[head_end + 4..end];
        let attribute = |name: &str| {
            let start = head.find(&format!("{name}=\""))? + name.len() + 2;
            head[start..].split('"').next().map(str::to_owned)
        };
        let filename = attribute("filename");
        let value = match &filename {
            Some(_) => encode(content),
            None => String::from_utf8_lossy(content).into_owned(),
        };
        // `filename` contains `name` too.
        let name = attribute("; name").unwrap();
        found.push(json!({"name": name, "filename": filename, "value": value}));
        at = end + 2 + delimiter.len() + 2;
    }
    found
}

fn encode(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for group in bytes.chunks(3) {
        let mut padded = [0; 3];
        padded[..group.len()].copy_from_slice(group);
        let bits = u32::from_be_bytes([0, padded[0], padded[1], padded[2]]);
        for i in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * i) & 63) as usize] as char;
            out.push(if i <= group.len() { digit } else { '=' });
        }
    }
    out
}

/// Checks that every recorded request has an equivalent, or a reason to have none.
async fn assert_all_sent(server: &MockServer, recording: &str) {
    let sent = sent(server).await;
    let mut missing = Vec::new();
    for line in recorded(recording) {
        let (method, path) = (
            line["method"].as_str().unwrap(),
            line["path"].as_str().unwrap(),
        );
        let excused = NOT_SENT.iter().any(|(m, p, _)| (*m, *p) == (method, path));
        let wanted = normalised(&line);
        if !excused && !sent.contains(&wanted) {
            let near: Vec<&Value> = sent.iter().filter(|s| s["path"] == path).collect();
            missing.push(format!("not sent: {wanted}\nsent there: {near:#?}"));
        }
    }
    assert!(missing.is_empty(), "{}", missing.join("\n\n"));
}

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
