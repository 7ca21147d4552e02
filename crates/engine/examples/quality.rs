//! Measures how much fine-tuning improves search on the data sets of `datasets/`, as
//! the mean over several seeds.
//!
//! ```text
//! cargo run --release -p finetuner-engine --example quality -- fashion-glossary
//! ```

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use clap::{Parser, ValueEnum};
use finetuner_engine::{
    data::Documents,
    image::ImageProcessor,
    job::{self, Observer, Setting},
    models::ModelConfig,
    params::{FloatFormat, write_safetensors},
    source::HubRules,
};
use finetuner_protocol::{Device, Document, DocumentArray, Event, RunConfig, worker::LocalModels};
use serde_json::{Value, json};

mod rows;
mod small_clip;

use rows::{Fallible, read_rows};
use small_clip::{Shape, config, describe, read_captions, train_tokenizer};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Parser)]
struct Args {
    /// Search task.
    task: Task,
    #[arg(long, default_value = "datasets")]
    data: PathBuf,
    /// Backbone [default: that of the task].
    #[arg(long)]
    model: Option<String>,
    /// Number of seeds, counted from 0.
    #[arg(long, default_value_t = 3)]
    seeds: u64,
    #[arg(long)]
    epochs: Option<u64>,
    /// Further members of `model`, as JSON.
    #[arg(long, default_value = "{}")]
    model_settings: String,
    /// Further members of `hyper_parameters`, as JSON.
    #[arg(long, default_value = "{}")]
    hyper: String,
    /// File for the artifact of the last seed, including the files of all loggers.
    #[arg(long)]
    keep: Option<PathBuf>,
    /// Only writes the untrained model into this folder.
    #[arg(long)]
    write_blank: Option<PathBuf>,
    /// For unseen concepts, queries are names instead of captions.
    #[arg(long)]
    by_name: bool,
    /// Prints the log.
    #[arg(long)]
    log: bool,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Task {
    /// Queries are terms, results are definitions.
    FashionGlossary,
    /// Queries are reasons, results are the lints' descriptions.
    ClippyLints,
    /// Queries are drawings, results are drawings of the same thing by another artist.
    ImageToImage,
    /// Queries are names, results are images of clothes.
    Fashion,
    /// Queries are names of trained concepts, results are images by an unseen artist.
    UnseenDrawings,
    /// Queries are names or captions of concepts that were not in the training data.
    UnseenConcepts,
}

/// Index positions of each query's results, best first, by the query's name.
type Found = BTreeMap<String, Vec<u64>>;

struct Follower {
    log: bool,
    /// Results before and after training.
    found: Vec<Found>,
}

impl Observer for Follower {
    fn event(&mut self, event: Event) {
        match event {
            Event::Log { message, .. } if self.log => println!("    {message}"),
            Event::Examples { found, .. } => self.found.extend(found.map(|found| found.places)),
            _ => {}
        }
    }
}

/// Returns a task's default `model` and `hyper_parameters`, and the folder of its data.
fn defaults(task: Task) -> (Value, Value, &'static str) {
    let text = json!({"name": "minilm-small"});
    let ranking = json!({"loss": "MultipleNegativeRankingLoss", "epochs": 3, "batch_size": 64,
        "learning_rate": 1e-4, "optimizer": "AdamW", "scheduler": "linear"});
    let clip = json!({"name": "clip-small", "options": {"augmentation": "light"}});
    let pairs = json!({"loss": "CLIPLoss", "epochs": 40, "batch_size": 32, "learning_rate": 3e-4});
    let blank = json!({"options": {"augmentation": "light"}});
    let from_nothing = |epochs: u64| {
        json!({"loss": "CLIPLoss", "epochs": epochs, "batch_size": 64, "learning_rate": 5e-4,
            "optimizer": "AdamW", "optimizer_options": {"weight_decay": 0.1, "betas": [0.9, 0.98]},
            "scheduler": "cosine", "scheduler_options": {"num_warmup_steps": 60}})
    };
    match task {
        Task::FashionGlossary => (text, ranking, "fashion-glossary"),
        Task::ClippyLints => (text, ranking, "clippy-lints"),
        Task::ImageToImage => (
            json!({"name": "efficientnet-small", "freeze": true}),
            json!({"loss": "NTXentLoss", "epochs": 10, "batch_size": 64, "learning_rate": 3e-4,
                "optimizer": "AdamW", "scheduler": "linear"}),
            "emoji-clip/image-to-image",
        ),
        Task::Fashion => (clip, pairs, "emoji-clip/fashion"),
        Task::UnseenDrawings => (blank, from_nothing(40), "emoji-clip/unseen-drawings"),
        Task::UnseenConcepts => (blank, from_nothing(20), "emoji-clip/unseen-concepts"),
    }
}

fn main() -> Fallible<()> {
    let args = Args::parse();
    if let Some(folder) = &args.write_blank {
        return write_blank(&args.data.join(defaults(args.task).2), folder, 0);
    }
    let mut sums = [0.0; 3];
    println!("seed   recall@1          hit@10            average precision");
    for seed in 0..args.seeds {
        let folder = tempfile::tempdir()?;
        let (before, after) = run(&args, seed, folder.path())?;
        let row: Vec<String> = before
            .iter()
            .zip(&after)
            .map(|(before, after)| format!("{before:.3} -> {after:.3}    "))
            .collect();
        println!("{seed:<6} {}", row.concat());
        for (sum, value) in sums.iter_mut().zip(after) {
            *sum += value / args.seeds as f64;
        }
    }
    let mean: Vec<String> = sums
        .iter()
        .map(|v| format!("         {v:.3}    "))
        .collect();
    println!("mean   {}", mean.concat());
    Ok(())
}

/// Returns recall@1, hit@10 and mean average precision, before and after a run.
fn run(args: &Args, seed: u64, folder: &Path) -> Fallible<([f64; 3], [f64; 3])> {
    let (mut model, mut hyper, data) = defaults(args.task);
    merge(&mut model, serde_json::from_str(&args.model_settings)?);
    merge(&mut hyper, serde_json::from_str(&args.hyper)?);
    if let Some(name) = &args.model {
        model["name"] = name.as_str().into();
    }
    if let Some(epochs) = args.epochs {
        hyper["epochs"] = epochs.into();
    }
    model["options"]["seed"] = seed.into();
    let root = args.data.join(data);
    let blank = folder.join("blank");
    if model.get("name").is_none() {
        write_blank(&root, &blank, seed)?;
        model["name"] = blank.to_string_lossy().into();
    }
    let (queries, index) = (
        documents(args, &root, "queries")?,
        documents(args, &root, "index")?,
    );
    // Searches without a limit: the mean average precision needs all relevant documents,
    // and the other metrics follow from the same ranking.
    let mut callbacks = vec![json!({"name": "EvaluationCallback", "options": {
        "query_data": "queries", "index_data": "index", "limit": index.len(),
        "gather_examples": true, "num_example_queries": queries.len()}})];
    if args.keep.is_some() {
        callbacks.push(json!({"name": "WandBLogger", "options": {"metrics_logger_step": "batch"}}));
        callbacks.push(json!({"name": "MLFlowLogger", "options": {"tracking_uri": "file:mlruns"}}));
    }
    let config: RunConfig = serde_json::from_value(json!({
        "model": model,
        "data": {"train_data": "train"},
        "hyper_parameters": hyper,
        "callbacks": callbacks,
        "experiment_name": "quality",
        "run_name": format!("seed-{seed}"),
    }))?;
    let read = |name: &str| {
        let documents = documents(args, &root, name);
        let documents = documents.map_err(|e| finetuner_engine::Error::Data(e.to_string()))?;
        Ok(Box::new(documents.into_iter().map(Ok)) as Documents)
    };
    let mut follower = Follower {
        log: args.log,
        found: Vec::new(),
    };
    let finished = job::run(
        &config,
        &Setting {
            device: &Device::Cpu,
            local_models: &LocalModels::Anywhere,
            hub: HubRules::default(),
            earlier: None,
            read_data: &read,
            folder,
            checkpoint: None,
        },
        &mut follower,
    )?;
    if let Some(keep) = &args.keep {
        std::fs::copy(&finished.artifact, keep)?;
    }
    let [before, after] = &follower.found[..] else {
        return Err("the search was not reported before and after the training".into());
    };
    let row = |found: &Found, metrics: &BTreeMap<String, f64>| {
        let hit = |limit| hits(&queries, &index, found, limit);
        [hit(1), hit(10), metrics["average_precision"]]
    };
    Ok((row(before, &finished.before), row(after, &finished.after)))
}

/// Returns the share of queries with a relevant result among the first `limit`.
fn hits(queries: &DocumentArray, index: &DocumentArray, found: &Found, limit: usize) -> f64 {
    let labels: Vec<Option<String>> = index.iter().map(Document::label).collect();
    let is_hit = |query: &&Document| {
        let name = query.as_text().unwrap_or(&query.uri);
        let places = found.get(name).map(Vec::as_slice).unwrap_or_default();
        let first = places.iter().take(limit);
        first
            .into_iter()
            .any(|place| labels[*place as usize] == query.label())
    };
    queries.iter().filter(is_hit).count() as f64 / queries.len() as f64
}

/// Sizes of the CLIP that is trained on the drawings alone: 0.7 million parameters.
const SHAPE: Shape = Shape {
    text_width: 96,
    text_layers: 1,
    vision_width: 96,
    vision_layers: 4,
    side: 32,
    patch: 8,
};

/// Writes a CLIP with random weights, and a tokenizer for the words of the
/// training data.
fn write_blank(root: &Path, folder: &Path, seed: u64) -> Fallible<()> {
    std::fs::create_dir_all(folder)?;
    let captions = read_captions(&captions_path(root))?;
    let words: Vec<String> = read_rows(&root.join("train.csv"))?
        .into_iter()
        .flat_map(|(_, title)| [captions.get(&title).cloned().unwrap_or_default(), title])
        .collect();
    let tokenizer = train_tokenizer(&words)?;
    std::fs::write(folder.join("tokenizer.json"), &tokenizer)?;
    let json = config(&tokenizer, &SHAPE)?;
    describe(folder, &json, &ImageProcessor::clip(SHAPE.side))?;
    let weights = ModelConfig::parse(&json)?.random_weights(seed);
    write_safetensors(
        &folder.join("model.safetensors"),
        &weights,
        FloatFormat::F32,
    )?;
    Ok(())
}

fn captions_path(root: &Path) -> PathBuf {
    root.parent().unwrap_or(root).join("concepts.csv")
}

/// Merges the members of one object into another.
fn merge(into: &mut Value, from: Value) {
    if let (Some(into), Value::Object(from)) = (into.as_object_mut(), from) {
        into.extend(from);
    }
}

fn documents(args: &Args, root: &Path, name: &str) -> Fallible<DocumentArray> {
    let rows = read_rows(&root.join(format!("{name}.csv")))?;
    // Image paths are relative to the data set's folder.
    let image = |path: &str| -> Fallible<Document> {
        let folder = root.parent().unwrap_or(root);
        let mut image = Document::blob(std::fs::read(folder.join(path))?).with_modality("image");
        // The report of a search shows it.
        image.uri = path.to_owned();
        Ok(image)
    };
    let text = |text: &str| Document::text(text).with_modality("text");
    // A caption names the category too. The bare name of an unseen concept was in no
    // training text.
    let task = args.task;
    let captioned =
        task == Task::UnseenConcepts && (name == "train" || (name == "queries" && !args.by_name));
    let captions = if captioned {
        read_captions(&captions_path(root))?
    } else {
        BTreeMap::new()
    };
    let mut documents = DocumentArray::new();
    for (first, second) in rows {
        documents.push(match (task, name) {
            (Task::FashionGlossary | Task::ClippyLints, "train") => Document::new()
                .with_chunk(Document::text(first))
                .with_chunk(Document::text(second)),
            (Task::FashionGlossary | Task::ClippyLints, _) => text(&first).with_label(second),
            (Task::ImageToImage, _) => image(&first)?.with_label(second),
            (_, "train") => Document::new()
                .with_chunk(image(&first)?)
                .with_chunk(text(captions.get(&second).unwrap_or(&second))),
            (_, "queries") => text(captions.get(&first).unwrap_or(&first)).with_label(second),
            (_, _) => image(&first)?.with_label(second),
        });
    }
    Ok(documents)
}
