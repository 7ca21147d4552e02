//! Whole runs, from documents to a loaded artifact.

use std::{cell::RefCell, collections::HashMap, path::Path};

use finetuner_engine::{
    Error, Precision,
    data::Documents,
    infer::Encoder,
    job::{self, Finished, Observer, Setting},
    models::ModelKind,
    source::{HubRules, open_artifact},
};
use finetuner_protocol::{Device, Document, DocumentArray, Event, RunConfig, worker::LocalModels};
use serde_json::{Value, json};

/// Records the log and the losses.
#[derive(Default)]
struct Notes {
    log: Vec<String>,
    losses: Vec<f64>,
    rates: Vec<f64>,
    validated: Vec<f64>,
}

impl Observer for Notes {
    fn event(&mut self, event: Event) {
        match event {
            Event::Log { message, .. } => self.log.push(message),
            Event::Step {
                loss,
                learning_rate,
                ..
            } => {
                self.losses.push(loss);
                self.rates.push(learning_rate);
            }
            Event::Epoch { val_loss, .. } => self.validated.extend(val_loss),
            _ => {}
        }
    }
}

pub(crate) struct Run {
    notes: Notes,
    folder: tempfile::TempDir,
    pub(crate) finished: Finished,
}

impl Run {
    /// Loads the model from the artifact.
    pub(crate) fn encoder(&self) -> Encoder {
        let opened = self.folder.path().join("opened");
        open_artifact(&self.finished.artifact, &opened).unwrap();
        Encoder::from_folder(opened).unwrap()
    }

    /// Returns the model's folder, as another run opens it.
    pub(crate) fn opened(&self) -> tempfile::TempDir {
        let opened = tempfile::tempdir().unwrap();
        open_artifact(&self.finished.artifact, opened.path()).unwrap();
        opened
    }

    /// Returns the loss of each step.
    pub(crate) fn losses(&self) -> &[f64] {
        &self.notes.losses
    }

    /// Returns the validation loss of each epoch.
    pub(crate) fn validated(&self) -> &[f64] {
        &self.notes.validated
    }

    /// Returns the learning rate of each step.
    pub(crate) fn rates(&self) -> &[f64] {
        &self.notes.rates
    }

    pub(crate) fn logged(&self, part: &str) -> bool {
        self.times_logged(part) > 0
    }

    pub(crate) fn log(&self) -> &[String] {
        &self.notes.log
    }

    pub(crate) fn times_logged(&self, part: &str) -> usize {
        let lines = self.notes.log.iter();
        lines.filter(|line| line.contains(part)).count()
    }
}

pub(crate) type Data = HashMap<&'static str, DocumentArray>;

fn stream(documents: DocumentArray) -> Documents {
    Box::new(documents.into_iter().map(Ok))
}

pub(crate) fn run_from(config: Value, data: &Data, earlier: Option<&Path>) -> Result<Run, Error> {
    run_on(&Device::Cpu, config, data, earlier)
}

pub(crate) fn run_on(
    device: &Device,
    config: Value,
    data: &Data,
    earlier: Option<&Path>,
) -> Result<Run, Error> {
    let folder = tempfile::tempdir().unwrap();
    let mut notes = Notes::default();
    let read = |name: &str| Ok(stream(data[name].clone()));
    let config: RunConfig = serde_json::from_value(config).unwrap();
    let setting = Setting {
        device,
        local_models: &LocalModels::Anywhere,
        hub: HubRules::default(),
        earlier,
        read_data: &read,
        folder: folder.path(),
        checkpoint: None,
    };
    let finished = job::run(&config, &setting, &mut notes)?;
    Ok(Run {
        notes,
        folder,
        finished,
    })
}

pub(crate) fn run(config: Value, data: &Data) -> Result<Run, Error> {
    run_from(config, data, None)
}

/// Returns a run over the data `train`.
pub(crate) fn config(model: Value, hyper: Value, callbacks: Value) -> Value {
    json!({
        "run_name": "r", "experiment_name": "e", "model": model,
        "data": {"train_data": "train"}, "hyper_parameters": hyper, "callbacks": callbacks,
    })
}

/// Returns questions and answers about three topics.
pub(crate) fn texts() -> DocumentArray {
    let rows = [
        ("how do I sew on a button", 0),
        ("use a needle and thread to fasten buttons", 0),
        ("sewing buttons by hand", 0),
        ("what do cats eat", 1),
        ("a cat lives on meat and fish", 1),
        ("food for felines", 1),
        ("how far is the moon", 2),
        (
            "the distance to our satellite is 384 thousand kilometres",
            2,
        ),
        ("lunar distance", 2),
    ];
    rows.iter()
        .map(|(text, label)| Document::text(*text).with_label(*label))
        .collect()
}

pub(crate) fn features() -> DocumentArray {
    (0..24)
        .map(|i| {
            let class = i % 3;
            let values: Vec<f32> = (0..5)
                .map(|j| if j == class { 2.0 } else { 0.0 } + ((i * 7 + j * 3) % 5) as f32 * 0.1)
                .collect();
            Document::tensor(&values, &[5]).with_label(class as u64)
        })
        .collect()
}

pub(crate) fn images() -> DocumentArray {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../datasets/emoji-clip");
    let list = std::fs::read_to_string(folder.join("image-to-image/train.csv")).unwrap();
    list.lines()
        .take(12)
        .map(|line| {
            let (image, label) = line.split_once(',').unwrap();
            Document::blob(std::fs::read(folder.join(image)).unwrap()).with_label(label)
        })
        .collect()
}

pub(crate) fn evaluation() -> Value {
    json!([{"name": "EvaluationCallback", "options": {"query_data": "train", "limit": 2}}])
}

#[test]
fn a_text_model_learns_related_texts() {
    let data = HashMap::from([("train", texts())]);
    let hyper = json!({"loss": "TripletMarginLoss", "epochs": 4, "batch_size": 9,
        "loss_options": {"margin": 0.5}, "learning_rate": 1e-4, "scheduler": "linear",
        "scheduler_options": {"num_warmup_steps": 1},
        "optimizer_options": {"layer_wise_lr_decay": 0.9, "max_grad_norm": 1.0}});
    let run = run(
        config(json!({"name": "minilm-small"}), hyper, evaluation()),
        &data,
    )
    .unwrap();
    let losses = &run.notes.losses;
    assert!(losses.last() < losses.first(), "{losses:?}");
    let (before, after) = (&run.finished.before, &run.finished.after);
    assert!(after["precision_at_k"] >= before["precision_at_k"]);
    for (found, expected) in run.notes.rates.iter().zip([0.0, 3.0, 2.0, 1.0]) {
        assert!((found - expected * 1e-4 / 3.0).abs() < 1e-12);
    }
    assert!(run.logged("9 examples of 3 classes"));
    let encoder = run.encoder();
    assert_eq!((encoder.kind(), encoder.dim()), (ModelKind::Text, 384));
    // The embedding of a text does not depend on others in its batch.
    let texts = ["a cat", "what do cats eat when nobody looks", "moon"];
    let together = encoder.encode_texts(&texts).unwrap();
    let alone = encoder.encode_texts(&texts[2..]).unwrap();
    for (a, b) in together.get(2).iter().zip(alone.get(0)) {
        assert!((a - b).abs() < 1e-5);
    }
}

#[test]
fn a_run_in_bfloat16_logs_it_and_learns_nearly_the_same() {
    let data = HashMap::from([("train", texts())]);
    let losses = |precision: &str| {
        let model = json!({"name": "minilm-small", "options": {"precision": precision}});
        let hyper = json!({"loss": "NTXentLoss", "loss_options": {"temperature": 1},
            "epochs": 3, "batch_size": 9});
        let run = run(config(model, hyper, json!([])), &data).unwrap();
        assert_eq!(run.logged("bfloat16"), precision == "bfloat16");
        run.notes.losses
    };
    let (exact, mixed) = (losses("float32"), losses("bfloat16"));
    assert_ne!((exact.len(), exact[0]), (0, exact[2]));
    assert_eq!(exact != mixed, Precision::Bfloat16.is_available());
    for (exact, mixed) in exact.iter().zip(&mixed) {
        assert!((exact - mixed).abs() < 0.02 * exact, "{exact} and {mixed}");
    }
}

#[test]
fn a_frozen_image_model_trains_and_saves_a_head() {
    let data = HashMap::from([("train", images())]);
    let model = json!({"name": "efficientnet-small", "freeze": true, "output_dim": 16,
        "options": {"pooler": "GeM", "pooler_options": {"p": 2.0}, "augmentation": "light"}});
    let hyper = json!({"loss": "ArcFaceLoss", "epochs": 2, "batch_size": 6,
        "loss_optimizer": "SGD", "loss_optimizer_options": {"lr": 0.1, "momentum": 0.5}});
    let run = run(config(model, hyper, evaluation()), &data).unwrap();
    let encoder = run.encoder();
    assert_eq!((encoder.kind(), encoder.dim()), (ModelKind::Image, 16));
    let bytes = images()[0].as_blob().unwrap().to_vec();
    let embedded = encoder.encode_images(&[&bytes]).unwrap();
    assert!(embedded.values.iter().any(|v| *v != 0.0));
    let texts = encoder.encode_texts(&["a"]).unwrap_err().to_string();
    assert!(texts.contains("does not take texts"), "{texts}");
}

#[test]
fn a_perceptron_learns_from_features() {
    let data = HashMap::from([("train", features())]);
    let model = json!({"name": "mlp", "options": {"input_size": 5, "hidden_sizes": [16, 4],
        "activation": "relu", "l2": true}});
    let hyper = json!({"loss": "NTXentLoss", "epochs": 8, "batch_size": 12, "optimizer": "RAdam",
        "learning_rate": 1e-2, "miner": "MultiSimilarityMiner"});
    let run = run(config(model, hyper, evaluation()), &data).unwrap();
    assert!(
        run.finished.after["precision_at_k"] > 0.9,
        "{:?}",
        run.finished.after
    );
    let losses = run.losses();
    assert!(losses.last() < Some(&(0.8 * losses[0])), "{losses:?}");
    let encoder = run.encoder();
    let found = encoder.encode_features(&[&[1.0; 5]]).unwrap();
    let length: f32 = found.values.iter().map(|v| v * v).sum();
    assert!((length - 1.0).abs() < 1e-5);
    assert!(encoder.encode_features(&[&[1.0; 4]]).is_err());
}

#[test]
fn every_layout_of_text_data_can_be_trained_on() {
    let pair = |a: &str, b: &str| {
        Document::new()
            .with_chunk(Document::text(a))
            .with_chunk(Document::text(b))
    };
    let words = ["cat", "dog", "moon", "star", "tea", "milk"];
    let pairs: DocumentArray = words.iter().map(|w| pair(w, &format!("the {w}"))).collect();
    let scored = words
        .iter()
        .enumerate()
        .map(|(i, w)| pair(w, words[(i + 1) % 6]).with_tag("finetuner_score", i as f64 / 6.0));
    let triplets = words.iter().enumerate().map(|(i, w)| {
        pair(w, &format!("the {w}"))
            .with_chunk(Document::text(words[(i + 2) % 6]))
            .with_tag("finetuner_score", 2.0)
    });
    for (loss, train) in [
        ("MultipleNegativeRankingLoss", pairs.clone()),
        ("VICRegLoss", pairs.clone()),
        ("NTXentLoss", pairs),
        ("CosineSimilarityLoss", scored.collect()),
        ("MarginMSELoss", triplets.collect()),
        ("MultipleNegativeRankingLoss", texts()),
    ] {
        let data = HashMap::from([("train", train)]);
        let hyper = json!({"loss": loss, "epochs": 3, "batch_size": 6, "learning_rate": 1e-4});
        let config = config(json!({"name": "minilm-small"}), hyper, json!([]));
        let losses = run(config, &data).unwrap().notes.losses;
        assert!(losses.last() < losses.first(), "{loss}: {losses:?}");
    }
}

#[test]
fn a_run_continues_from_the_artifact_of_an_earlier_run() {
    let data = HashMap::from([("train", features())]);
    let model = json!({"name": "mlp", "options": {"input_size": 5, "hidden_sizes": [4]}});
    let hyper = json!({"loss": "TripletMarginLoss", "epochs": 1, "batch_size": 12});
    let first = run(config(model, hyper.clone(), json!([])), &data).unwrap();
    let opened = tempfile::tempdir().unwrap();
    open_artifact(&first.finished.artifact, opened.path()).unwrap();

    let slow = json!({"loss": "TripletMarginLoss", "epochs": 1, "batch_size": 12,
        "learning_rate": 1e-12});
    let second = config(json!({"artifact": "an-id"}), slow, json!([]));
    let second = run_from(second, &data, Some(opened.path())).unwrap();
    let embed = |run: &Run| run.encoder().encode_features(&[&[0.5; 5]]).unwrap();
    assert_eq!(embed(&first), embed(&second));
    let lost = config(json!({"artifact": "an-id"}), hyper, json!([]));
    let lost = run(lost, &data).err().unwrap().to_string();
    assert!(
        lost.contains("`model_artifact`: `an-id`: no run on this server"),
        "{lost}"
    );
}

#[test]
fn a_projection_head_is_continued_without_the_requested_gpu() {
    let data = HashMap::from([("train", texts())]);
    let hyper = json!({"loss": "TripletMarginLoss", "epochs": 1, "batch_size": 9});
    let model = json!({"name": "minilm-small", "output_dim": 8});
    let first = run(config(model, hyper.clone(), json!([])), &data).unwrap();
    let opened = tempfile::tempdir().unwrap();
    open_artifact(&first.finished.artifact, opened.path()).unwrap();
    let second = config(json!({"artifact": "an-id"}), hyper, json!([]));
    let second = run_on(&Device::Gpu, second, &data, Some(opened.path())).unwrap();
    assert!(
        second.logged("this machine has none: training on the CPU"),
        "{:?}",
        second.notes.log
    );
    assert_eq!(second.encoder().dim(), 8);
}

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

#[test]
fn a_default_batch_size_is_chosen_and_logged() {
    let data = HashMap::from([("train", features())]);
    let model = json!({"name": "mlp", "options": {"input_size": 5, "hidden_sizes": [4]}});
    let hyper = json!({"loss": "TripletMarginLoss", "epochs": 1});
    let run = run(config(model, hyper, json!([])), &data).unwrap();
    assert!(
        run.logged("`batch_size` not given: using 32 examples"),
        "{:?}",
        run.notes.log
    );
    assert!(run.logged("`learning_rate` not given: 0.001"));
}

#[test]
fn data_without_pairs_to_learn_from_is_rejected() {
    let model = json!({"name": "mlp", "options": {"input_size": 2, "hidden_sizes": [4]}});
    let hyper = json!({"loss": "TripletMarginLoss", "epochs": 1, "batch_size": 4});
    let refused = |labels: &[u64]| {
        let train = labels
            .iter()
            .map(|label| Document::tensor(&[1.0, 2.0], &[2]).with_label(*label));
        let data = HashMap::from([("train", train.collect::<DocumentArray>())]);
        let refused = run(config(model.clone(), hyper.clone(), json!([])), &data);
        refused.err().unwrap().to_string()
    };
    assert!(refused(&[1, 1, 1]).contains("all examples have the same label"));
    assert!(refused(&[1, 2, 3]).contains("no two examples share a label"));
    assert!(refused(&[1]).contains("at least 2 are needed"));
}

#[test]
fn invalid_configurations_are_rejected_by_field() {
    let data = RefCell::new(HashMap::from([("train", texts())]));
    let refused = |model: Value, hyper: Value, callbacks: Value| {
        let mut all = json!({"epochs": 1, "loss": "TripletMarginLoss"});
        for (key, value) in hyper.as_object().unwrap() {
            all[key] = value.clone();
        }
        let refused = run(config(model, all, callbacks), &data.borrow());
        refused.err().map(|e| e.to_string()).unwrap_or_default()
    };
    let text = || json!({"name": "minilm-small"});
    let with =
        |option: &str, value: Value| json!({"name": "minilm-small", "options": {option: value}});
    let callback = |name: &str, options: Value| json!([{"name": name, "options": options}]);
    let none = || json!([]);
    for (found, part) in [
        (
            refused(text(), json!({"loss": "CLIPLoss"}), none()),
            "`loss`: `CLIPLoss` is for models",
        ),
        (
            refused(
                json!({"name": "clip-small"}),
                json!({"loss_options": {"margin": 0.1}}),
                none(),
            ),
            "`loss`: `TripletMarginLoss`: a text-to-image model",
        ),
        (
            refused(
                json!({"name": "clip-small", "output_dim": 8}),
                json!({}),
                none(),
            ),
            "set `freeze` to train projection heads of that dimension",
        ),
        (
            refused(with("pooler", json!("best")), json!({}), none()),
            "one of mean, max, cls, mean_sqrt_len_tokens, weightedmean, lasttoken, GeM",
        ),
        (
            refused(with("poler", json!("max")), json!({}), none()),
            "`poler` is \"max\"",
        ),
        (
            refused(with("augmentation", json!("light")), json!({}), none()),
            "`augmentation` is \"light\"",
        ),
        (
            refused(with("precision", json!("float16")), json!({}), none()),
            "`precision` is \"float16\": give one of float32, bfloat16, tf32",
        ),
        (
            refused(json!({"name": "mlp"}), json!({}), none()),
            "missing field `input_size`",
        ),
        (
            refused(text(), json!({"loss_optimizer": "Adam"}), none()),
            "`loss_optimizer`: `Adam`: `TripletMarginLoss` has no weights",
        ),
        (
            refused(
                text(),
                json!({"scheduler": "cosine", "scheduler_options": {"num_cycles": 0}}),
                none(),
            ),
            "`num_cycles` is 0",
        ),
        (
            refused(text(), json!({"scheduler": "steps"}), none()),
            "`scheduler`: `steps` is not known",
        ),
        (
            refused(text(), json!({}), callback("Confetti", json!({}))),
            "`Confetti` is unknown; the callbacks are BestModelCheckpoint",
        ),
        (
            refused(
                text(),
                json!({}),
                callback("EarlyStopping", json!({"monitor": "mood"})),
            ),
            "`mood` is not a metric of this run",
        ),
        (
            refused(
                text(),
                json!({}),
                callback("WiSEFTCallback", json!({"alpha": 2})),
            ),
            "alpha",
        ),
        (
            refused(
                text(),
                json!({}),
                callback(
                    "EvaluationCallback",
                    json!({"query_data": "train", "metrics": ["luck"]}),
                ),
            ),
            "give a list of metrics from average_precision",
        ),
    ] {
        assert!(found.contains(part), "{part} is missing in: {found}");
    }
}
