//! Whole runs, from documents to a loaded artifact, and the helpers to start them.

mod callbacks;
mod rejected;

use std::{collections::HashMap, path::Path};

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
