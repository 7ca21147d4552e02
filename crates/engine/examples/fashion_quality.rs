//! How much fine-tuning on `datasets/emoji-clip/fashion` improves the search,
//! over several seeds.
//!
//! ```text
//! cargo run --release -p finetuner-engine --example fashion_quality
//! ```

use std::path::{Path, PathBuf};

use clap::Parser;
use finetuner_engine::job::{self, Observer, Setting};
use finetuner_protocol::{Device, Document, DocumentArray, Event, RunConfig};
use serde_json::json;

mod emoji_clip;

use emoji_clip::{Fallible, read_pairs};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Parser)]
struct Args {
    /// The data set's folder.
    #[arg(long, default_value = "datasets/emoji-clip")]
    data: PathBuf,
    #[arg(long, default_value = "clip-small")]
    model: String,
    /// Seeds 0, 1, 2 and so on up to this many.
    #[arg(long, default_value_t = 3)]
    seeds: u64,
    #[arg(long, default_value_t = 40)]
    epochs: u64,
    #[arg(long, default_value_t = 32)]
    batch_size: u64,
    #[arg(long, default_value_t = 3e-4)]
    learning_rate: f64,
    #[arg(long, default_value = "Adam")]
    optimizer: String,
    #[arg(long, default_value_t = 0.0)]
    weight_decay: f64,
    /// What the kept model is best at; none keeps the last.
    #[arg(long)]
    monitor: Option<String>,
    /// Prints the log.
    #[arg(long)]
    log: bool,
}

struct Follower {
    log: bool,
}

impl Observer for Follower {
    fn event(&mut self, event: Event) {
        if let (true, Event::Log { message, .. }) = (self.log, event) {
            println!("    {message}");
        }
    }
}

fn main() -> Fallible<()> {
    let args = Args::parse();
    let mut after = [0.0; 2];
    println!("seed   recall@1 before -> after   recall@10 before -> after");
    for seed in 0..args.seeds {
        let folder = tempfile::tempdir()?;
        let config = config(&args, seed)?;
        let read = |name: &str| {
            documents(&args.data, name).map_err(|e| finetuner_engine::Error::Data(e.to_string()))
        };
        let mut follower = Follower { log: args.log };
        let finished = job::run(
            &config,
            &Setting {
                device: &Device::Cpu,
                local_models: true,
                read_data: &read,
                folder: folder.path(),
                checkpoint: None,
            },
            &mut follower,
        )?;
        // Each query has one picture that is right, so that R-precision is
        // recall@1, and the limit of 10 makes recall_at_k recall@10.
        let (b, a) = (&finished.before, &finished.after);
        println!(
            "{seed:<6} {:.3} -> {:.3}             {:.3} -> {:.3}",
            b["r_precision"], a["r_precision"], b["recall_at_k"], a["recall_at_k"]
        );
        after[0] += a["r_precision"] / args.seeds as f64;
        after[1] += a["recall_at_k"] / args.seeds as f64;
    }
    println!(
        "mean            {:.3}                      {:.3}",
        after[0], after[1]
    );
    Ok(())
}

fn config(args: &Args, seed: u64) -> Fallible<RunConfig> {
    let mut callbacks = vec![json!({
        "name": "EvaluationCallback",
        "options": {"query_data": "eval", "limit": 10},
    })];
    if let Some(metric) = &args.monitor {
        callbacks.push(json!({"name": "BestModelCheckpoint", "options": {"monitor": metric}}));
    }
    Ok(serde_json::from_value(json!({
        "model": {
            "name": args.model,
            "options": {"seed": seed, "augmentation": "light"},
        },
        "data": {
            "train_data": "train",
            "eval_data": "eval",
            "image_modality": "image",
            "text_modality": "text",
        },
        "hyper_parameters": {
            "loss": "CLIPLoss",
            "optimizer": args.optimizer,
            "optimizer_options": {"weight_decay": args.weight_decay},
            "learning_rate": args.learning_rate,
            "epochs": args.epochs,
            "batch_size": args.batch_size,
        },
        "callbacks": callbacks,
        "experiment_name": "quality",
        "run_name": format!("seed-{seed}"),
    }))?)
}

fn documents(root: &Path, name: &str) -> Fallible<DocumentArray> {
    let mut documents = DocumentArray::new();
    for pair in read_pairs(root, &root.join(format!("fashion/{name}.csv")))? {
        documents.push(
            Document::new()
                .with_chunk(Document::blob(pair.image.to_vec()).with_modality("image"))
                .with_chunk(Document::text(pair.text).with_modality("text")),
        );
    }
    Ok(documents)
}
