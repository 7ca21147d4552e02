//! A run that is stopped and carried on, beside one that is not.

use std::{
    cell::Cell,
    io::Read,
    path::{Path, PathBuf},
};

use finetuner_engine::{
    Error,
    data::Documents,
    evaluation::Metrics,
    job::{self, Interruption, Observer, Setting},
    source::HubRules,
    train::Position,
};
use finetuner_protocol::{Device, Document, DocumentArray, Event, LocalModels, RunConfig};
use serde_json::json;

use crate::clouds::{shapes, small_network};

/// 22 pairs in batches of 6: the last batch of an epoch is smaller.
const PAIRS: usize = 22;
const STEPS: usize = 4;
const EPOCHS: usize = 3;

fn documents(name: &str) -> DocumentArray {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../datasets/emoji-clip");
    let list = std::fs::read_to_string(folder.join(format!("fashion/{name}.csv"))).unwrap();
    let pair = |line: &str| {
        let (picture, title) = line.split_once(',').unwrap();
        let picture = std::fs::read(folder.join(picture)).unwrap();
        Document::new()
            .with_chunk(Document::blob(picture).with_modality("image"))
            .with_chunk(Document::text(title).with_modality("text"))
    };
    let documents: Vec<Document> = list.lines().take(PAIRS).map(pair).collect();
    documents.into()
}

/// A run that is stopped.
struct Case {
    config: RunConfig,
    documents: fn(&str) -> DocumentArray,
}

fn pairs() -> Case {
    let config = serde_json::from_value(json!({
        "run_name": "resumed",
        "experiment_name": "tests",
        "model": {"name": "clip-small", "options": {"augmentation": "light", "seed": 7}},
        "data": {"train_data": "train", "eval_data": "eval"},
        "hyper_parameters": {"loss": "CLIPLoss", "epochs": EPOCHS, "batch_size": 6,
            "learning_rate": 1e-3},
        "callbacks": [
            {"name": "EvaluationCallback", "options": {"query_data": "eval"}},
            {"name": "BestModelCheckpoint", "options": {"monitor": "recall_at_k"}},
        ],
    }))
    .unwrap();
    Case { config, documents }
}

/// Point clouds, which are drawn, turned and jittered anew in each epoch, under
/// dropout.
fn clouds(model: &Path) -> Case {
    let config = serde_json::from_value(json!({
        "run_name": "resumed",
        "experiment_name": "tests",
        "model": {"name": model, "options": {"augmentation": "light", "seed": 7}},
        "data": {"train_data": "train", "eval_data": "eval"},
        "hyper_parameters": {"loss": "TripletMarginLoss", "epochs": EPOCHS, "batch_size": 6,
            "learning_rate": 1e-3},
        "callbacks": [],
    }));
    Case {
        config: config.unwrap(),
        documents: |name| {
            let mut all = shapes(6, name.len() as u64);
            all.truncate(PAIRS);
            all
        },
    }
}

/// Pairs of texts that get hard negatives first, drawn at random.
fn mined() -> Case {
    let config = serde_json::from_value(json!({
        "run_name": "resumed",
        "experiment_name": "tests",
        "model": {"name": "minilm-small", "options": {"seed": 7}},
        "data": {"train_data": "train", "eval_data": "eval", "sampler": "random"},
        "hyper_parameters": {"loss": "MultipleNegativeRankingLoss", "epochs": EPOCHS,
            "batch_size": 6, "learning_rate": 1e-3, "mine_hard_negatives": {
                "output_format": "n-tuple", "sampling_strategy": "random", "range_max": 9,
                "corpus": "corpus"}},
        "callbacks": [],
    }));
    Case {
        config: config.unwrap(),
        documents: |name| {
            let text = |what: &str, n: usize| Document::text(format!("{name} {what} {n}"));
            let pair = |n: usize| {
                let query = Document::new().with_chunk(text("number", n));
                query.with_chunk(text("value", n))
            };
            let documents: Vec<Document> = match name {
                "corpus" => (0..9).map(|n| text("other", n)).collect(),
                _ => (0..PAIRS).map(pair).collect(),
            };
            documents.into()
        },
    }
}

/// Notes what it is told, and stops the run after so many steps.
struct Watcher {
    steps: Vec<(usize, usize, f64, f64)>,
    epochs: Vec<(usize, f64, Option<f64>)>,
    stop_after: Option<(usize, Interruption)>,
    /// Where checkpoints are kept.
    folder: PathBuf,
    kept: Option<(PathBuf, Position)>,
    asked: Cell<bool>,
}

impl Watcher {
    fn new(folder: &Path, stop_after: Option<(usize, Interruption)>) -> Self {
        Self {
            steps: Vec::new(),
            epochs: Vec::new(),
            stop_after,
            folder: folder.to_owned(),
            kept: None,
            asked: Cell::new(false),
        }
    }
}

impl Observer for Watcher {
    fn event(&mut self, event: Event) {
        match event {
            Event::Step {
                epoch,
                step,
                loss,
                mean_loss,
                ..
            } => self.steps.push((epoch, step, loss, mean_loss)),
            Event::Epoch {
                epoch,
                train_loss,
                val_loss,
                ..
            } => self.epochs.push((epoch, train_loss, val_loss)),
            _ => {}
        }
    }

    fn interrupted(&self) -> Option<Interruption> {
        let (steps, how) = self.stop_after?;
        (self.steps.len() >= steps).then_some(how)
    }

    /// Once in each run, so that going on within it is tried too.
    fn wants_checkpoint(&self) -> bool {
        self.steps.len() >= 2 && !self.asked.replace(true)
    }

    fn checkpoint(&mut self, file: &Path, at: Position) -> Result<(), String> {
        let path = self.folder.join("kept.zip");
        std::fs::copy(file, &path).map_err(|e| e.to_string())?;
        self.kept = Some((path, at));
        Ok(())
    }
}

struct Outcome {
    after: Metrics,
    before: Metrics,
    weights: Vec<u8>,
}

fn run(case: &Case, checkpoint: Option<&Path>, watcher: &mut Watcher) -> Result<Outcome, Error> {
    let folder = tempfile::tempdir().unwrap();
    let read = |name: &str| -> Result<Documents, Error> {
        Ok(Box::new((case.documents)(name).into_iter().map(Ok)))
    };
    let setting = Setting {
        device: &Device::Cpu,
        local_models: &LocalModels::Anywhere,
        hub: HubRules::default(),
        read_data: &read,
        folder: folder.path(),
        earlier: None,
        checkpoint,
    };
    let finished = job::run(&case.config, &setting, watcher)?;
    let file = std::fs::File::open(&finished.artifact).unwrap();
    let mut zip = zip::ZipArchive::new(file).unwrap();
    let mut weights = Vec::new();
    zip.by_name("resumed/model.safetensors")
        .unwrap()
        .read_to_end(&mut weights)
        .unwrap();
    Ok(Outcome {
        after: finished.after,
        before: finished.before,
        weights,
    })
}

#[test]
fn a_run_that_was_stopped_ends_as_one_that_was_not() {
    stop_and_go_on(&pairs());
}

#[test]
fn a_run_that_mined_negatives_goes_on_with_the_same_ones() {
    stop_and_go_on(&mined());
}

#[test]
fn a_run_on_point_clouds_that_was_stopped_ends_as_one_that_was_not() {
    let model = tempfile::tempdir().unwrap();
    small_network(model.path());
    stop_and_go_on(&clouds(model.path()));
}

fn stop_and_go_on(case: &Case) {
    let folder = tempfile::tempdir().unwrap();
    let mut whole = Watcher::new(folder.path(), None);
    whole.asked.set(true);
    let expected = run(case, None, &mut whole).unwrap();
    assert_eq!(whole.steps.len(), EPOCHS * STEPS);

    // In the middle of an epoch, at its last step, and in the last epoch.
    for stop in [1, STEPS, 2 * STEPS + 3] {
        let mut first = Watcher::new(folder.path(), Some((stop, Interruption::Pause)));
        assert!(matches!(
            run(case, None, &mut first),
            Err(Error::Interrupted)
        ));
        let (checkpoint, at) = first.kept.unwrap();
        assert_eq!(at.epoch * STEPS + at.step, stop);
        let mut second = Watcher::new(folder.path(), None);
        second.asked.set(true);
        let found = run(case, Some(&checkpoint), &mut second).unwrap();
        let steps = [first.steps, second.steps].concat();
        assert_eq!(steps, whole.steps, "stopped after {stop} steps");
        let epochs = [first.epochs, second.epochs].concat();
        assert_eq!(epochs, whole.epochs, "stopped after {stop} steps");
        assert_eq!(found.before, expected.before);
        assert_eq!(found.after, expected.after);
        assert!(found.weights == expected.weights, "other weights");
    }
}

#[test]
fn a_run_that_is_ended_for_good_leaves_no_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let mut watcher = Watcher::new(folder.path(), Some((1, Interruption::Stop)));
    watcher.asked.set(true);
    assert!(matches!(
        run(&pairs(), None, &mut watcher),
        Err(Error::Interrupted)
    ));
    assert_eq!(watcher.steps.len(), 1);
    assert!(watcher.kept.is_none());
}

#[test]
fn what_is_no_checkpoint_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("none.zip");
    std::fs::write(&path, "no zip").unwrap();
    let error = run(
        &pairs(),
        Some(&path),
        &mut Watcher::new(folder.path(), None),
    )
    .err()
    .unwrap();
    assert!(error.to_string().contains("none.zip"), "{error}");
}
