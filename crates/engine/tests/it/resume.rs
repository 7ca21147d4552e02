//! Compares runs that are stopped and resumed with uninterrupted ones.

use std::{
    cell::Cell,
    collections::BTreeMap,
    io::Read,
    path::{Path, PathBuf},
};

use finetuner_engine::{
    Error,
    data::Documents,
    evaluation::Metrics,
    job::{self, Finished, Interruption, Observer, Setting},
    source::HubRules,
    train::Position,
};
use finetuner_protocol::{
    Device, Document, DocumentArray, Event, Level, RunConfig, worker::LocalModels,
};
use serde_json::json;

use crate::{
    clouds::{shapes, small_network},
    support::fixture,
};

/// 22 pairs in batches of 6: the last batch of an epoch is smaller.
const PAIRS: usize = 22;
const STEPS: usize = 4;
const EPOCHS: usize = 3;

fn documents(name: &str) -> DocumentArray {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../datasets/emoji-clip");
    let list = std::fs::read_to_string(folder.join(format!("fashion/{name}.csv"))).unwrap();
    let pair = |line: &str| {
        let (image, title) = line.split_once(',').unwrap();
        let image = std::fs::read(folder.join(image)).unwrap();
        Document::new()
            .with_chunk(Document::blob(image).with_modality("image"))
            .with_chunk(Document::text(title).with_modality("text"))
    };
    let documents: Vec<Document> = list.lines().take(PAIRS).map(pair).collect();
    documents.into()
}

/// A run to stop and resume.
pub(crate) struct Case {
    pub(crate) config: RunConfig,
    pub(crate) documents: fn(&str) -> DocumentArray,
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

/// Point clouds, which are sampled, rotated and jittered anew in each epoch,
/// with dropout.
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

/// Two data sets, one with 1.5 passes per epoch.
fn two_data_sets() -> Case {
    let config = serde_json::from_value(json!({
        "run_name": "resumed",
        "experiment_name": "tests",
        "model": {"name": "minilm-small", "options": {"seed": 7}},
        "data": {"train_data": "train", "more_train_data": [{"name": "more", "weight": 1.5}]},
        "hyper_parameters": {"loss": "MultipleNegativeRankingLoss", "epochs": EPOCHS,
            "batch_size": 6, "learning_rate": 1e-4},
        "callbacks": [],
    }));
    Case {
        config: config.unwrap(),
        documents: |name| {
            let count = if name == "train" { 6 } else { 12 };
            let pair = |i: usize| {
                Document::new()
                    .with_chunk(Document::text(format!("{name} number {i}")))
                    .with_chunk(Document::text(format!("the thing {i} of {name}")))
            };
            (0..count).map(pair).collect()
        },
    }
}

/// Text pairs for which hard negatives are drawn at random before training.
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

/// Pairs for a CLIP whose towers are trained by adapters.
fn adapters() -> Case {
    let mut case = pairs();
    let lora = json!({"r": 4, "lora_alpha": 8, "modules_to_save": ["text_model.final_layer_norm"]});
    let options = case.config.model.options.as_mut().unwrap();
    options.insert("lora".to_owned(), lora);
    case
}

/// Records all events, and stops the run after some steps.
pub(crate) struct Watcher {
    pub(crate) steps: Vec<(u64, u64, f64, f64)>,
    pub(crate) epochs: Vec<(u64, f64, Option<f64>)>,
    warnings: Vec<String>,
    stop_after: Option<(usize, Interruption)>,
    /// Folder of the checkpoints.
    folder: PathBuf,
    pub(crate) kept: Option<(PathBuf, Position)>,
    asked: Cell<bool>,
}

impl Watcher {
    fn new(folder: &Path, stop_after: Option<(usize, Interruption)>) -> Self {
        Self {
            steps: Vec::new(),
            epochs: Vec::new(),
            warnings: Vec::new(),
            stop_after,
            folder: folder.to_owned(),
            kept: None,
            asked: Cell::new(false),
        }
    }

    /// An observer that requests no checkpoint within an epoch.
    pub(crate) fn quiet(folder: &Path, stop_after: Option<usize>) -> Self {
        let watcher = Self::new(folder, stop_after.map(|steps| (steps, Interruption::Pause)));
        watcher.asked.set(true);
        watcher
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
            Event::Log {
                level: Level::Warning,
                message,
            } => self.warnings.push(message),
            _ => {}
        }
    }

    fn interrupted(&self) -> Option<Interruption> {
        let (steps, how) = self.stop_after?;
        (self.steps.len() >= steps).then_some(how)
    }

    /// Once per run, so that resuming within an epoch is tested too.
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

pub(crate) struct Outcome {
    after: Metrics,
    before: Metrics,
    /// All weight files, sorted by name.
    pub(crate) weights: BTreeMap<String, Vec<u8>>,
}

/// Runs a case to its end, with its files in `folder`.
fn finish(
    case: &Case,
    folder: &Path,
    checkpoint: Option<&Path>,
    watcher: &mut Watcher,
) -> Result<Finished, Error> {
    let read = |name: &str| -> Result<Documents, Error> {
        Ok(Box::new((case.documents)(name).into_iter().map(Ok)))
    };
    let setting = Setting {
        device: &Device::Cpu,
        local_models: &LocalModels::Anywhere,
        hub: HubRules::default(),
        read_data: &read,
        folder,
        earlier: None,
        checkpoint,
    };
    job::run(&case.config, &setting, watcher)
}

pub(crate) fn run(
    case: &Case,
    checkpoint: Option<&Path>,
    watcher: &mut Watcher,
) -> Result<Outcome, Error> {
    let folder = tempfile::tempdir().unwrap();
    let finished = finish(case, folder.path(), checkpoint, watcher)?;
    let file = std::fs::File::open(&finished.artifact).unwrap();
    let mut zip = zip::ZipArchive::new(file).unwrap();
    let mut weights = BTreeMap::new();
    for index in 0..zip.len() {
        let mut entry = zip.by_index(index).unwrap();
        let name = entry.name().unwrap().into_owned();
        if name.ends_with(".safetensors") {
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).unwrap();
            weights.insert(name, bytes);
        }
    }
    assert!(weights.contains_key("resumed/model.safetensors"));
    Ok(Outcome {
        after: finished.after,
        before: finished.before,
        weights,
    })
}

#[test]
fn a_resumed_run_equals_an_uninterrupted_one() {
    stop_and_go_on(&pairs());
}

#[test]
fn a_resumed_run_with_adapters_equals_an_uninterrupted_one() {
    stop_and_go_on(&adapters());
}

#[test]
fn a_checkpoint_with_adapters_holds_only_trained_weights() {
    let size = |case: &Case| {
        let folder = tempfile::tempdir().unwrap();
        let mut watcher = Watcher::new(folder.path(), Some((1, Interruption::Pause)));
        assert!(matches!(
            run(case, None, &mut watcher),
            Err(Error::Interrupted)
        ));
        std::fs::metadata(watcher.kept.unwrap().0).unwrap().len()
    };
    // Weights and Adam's two moments, for adapters of rank 4.
    assert!(size(&adapters()) * 10 < size(&pairs()));
}

#[test]
fn a_checkpoint_fits_only_the_runs_own_base_model() {
    let folder = tempfile::tempdir().unwrap();
    let mut first = Watcher::new(folder.path(), Some((1, Interruption::Pause)));
    assert!(run(&adapters(), None, &mut first).is_err());
    // Another model under the same name.
    let changed = tempfile::tempdir().unwrap();
    let mut other = adapters();
    other.config.model.name = Some(changed.path().display().to_string());
    other_clip(changed.path());
    let (checkpoint, _) = first.kept.unwrap();
    let mut second = Watcher::new(folder.path(), None);
    let error = run(&other, Some(&checkpoint), &mut second).err().unwrap();
    assert!(
        error.to_string().contains("the base model has changed"),
        "{error}"
    );
}

/// Saves a copy of `clip-small` with one changed weight.
fn other_clip(folder: &Path) {
    let mut case = pairs();
    case.config.hyper_parameters.epochs = 1;
    case.config.callbacks.clear();
    let root = tempfile::tempdir().unwrap();
    let mut watcher = Watcher::new(root.path(), None);
    watcher.asked.set(true);
    let finished = finish(&case, root.path(), None, &mut watcher).unwrap();
    finetuner_engine::source::open_artifact(&finished.artifact, folder).unwrap();
}

#[test]
fn a_resumed_run_keeps_its_mined_negatives() {
    stop_and_go_on(&mined());
}

#[test]
fn a_resumed_run_on_point_clouds_equals_an_uninterrupted_one() {
    let model = tempfile::tempdir().unwrap();
    small_network(model.path());
    stop_and_go_on(&clouds(model.path()));
}

#[test]
fn a_resumed_run_on_two_data_sets_equals_an_uninterrupted_one() {
    stop_and_go_on(&two_data_sets());
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
fn a_cancelled_run_leaves_no_checkpoint() {
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

/// Each write to `/dev/full` fails like one to a full disk.
#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_costs_a_checkpoint_but_not_the_run() {
    let (folder, kept) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    std::os::unix::fs::symlink("/dev/full", folder.path().join("checkpoint.zip")).unwrap();
    let mut watcher = Watcher::new(kept.path(), None);
    finish(&pairs(), folder.path(), None, &mut watcher).unwrap();
    let stored = |warning: &&String| warning.starts_with("The checkpoint could not be stored");
    let warnings: Vec<&String> = watcher.warnings.iter().filter(stored).collect();
    let [warning] = warnings[..] else {
        panic!("{warnings:?}");
    };
    assert!(warning.contains("No space left on device"), "{warning}");
}

#[test]
fn a_file_that_is_not_a_checkpoint_is_refused() {
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

/// Scored pairs for a cross-encoder.
fn scored_pairs(model: &Path) -> Case {
    let config = serde_json::from_value(json!({
        "run_name": "resumed",
        "experiment_name": "tests",
        "model": {"name": model, "options": {"seed": 7}},
        "data": {"train_data": "train", "eval_data": "eval"},
        "hyper_parameters": {"loss": "BinaryCrossEntropyLoss", "epochs": EPOCHS, "batch_size": 6,
            "learning_rate": 1e-3, "optimizer_options": {"layer_wise_lr_decay": 0.9}},
        "callbacks": [
            {"name": "EvaluationCallback", "options": {"query_data": "eval"}},
            {"name": "BestModelCheckpoint", "options": {"monitor": "map"}},
        ],
    }));
    Case {
        config: config.unwrap(),
        documents: |name| {
            let words = ["red", "blue", "shoe", "hat", "boat"];
            let pair = |number: usize| {
                let word = |n: usize| words[(n + name.len()) % words.len()];
                Document::new()
                    .with_chunk(Document::text(format!("a {}", word(number / 4))))
                    .with_chunk(Document::text(format!("the {} on", word(number))))
                    .with_tag(
                        "finetuner_score",
                        f64::from(u8::from(number.is_multiple_of(3))),
                    )
            };
            (0..PAIRS).map(pair).collect::<Vec<_>>().into()
        },
    }
}

#[test]
fn a_resumed_run_of_a_cross_encoder_equals_an_uninterrupted_one() {
    stop_and_go_on(&scored_pairs(&fixture("cross-encoders/bert")));
}
