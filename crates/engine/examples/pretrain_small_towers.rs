//! Trains the projections of `two-towers-small` on the images and titles of
//! `datasets/emoji-clip/fashion/pretrain.csv`, which contains no clothing. The towers,
//! `minilm-small` and `efficientnet-small`, are frozen.
//!
//! ```text
//! cargo run --release -p finetuner-engine --example pretrain_small_towers
//! ```
//!
//! Writes the files of `crates/models/two-towers-small`. The same seed gives the same
//! weights on the same machine.

use std::path::PathBuf;

use clap::Parser;
use finetuner_engine::{
    data::Documents,
    job::{self, Observer, Setting},
    params::{FloatFormat, parse_safetensors, write_safetensors},
    source::{HubRules, open_artifact},
};
use finetuner_protocol::{
    Device, Document, DocumentArray, EFFICIENTNET_SMALL, Event, MINILM_SMALL, RunConfig,
    worker::LocalModels,
};
use serde_json::json;

mod rows;

use rows::{Fallible, read_rows};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Parser)]
struct Args {
    /// Folder of the data set.
    #[arg(long, default_value = "datasets/emoji-clip")]
    data: PathBuf,
    /// Folder for the model's files.
    #[arg(long, default_value = "crates/models/two-towers-small/files")]
    out: PathBuf,
    #[arg(long, default_value_t = 20)]
    epochs: u64,
    /// Embedding dimension.
    #[arg(long, default_value_t = 256)]
    dim: usize,
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// Prints the run's log.
struct Log;

impl Observer for Log {
    fn event(&mut self, event: Event) {
        if let Event::Log { message, .. } = event {
            println!("{message}");
        }
    }
}

fn main() -> Fallible<()> {
    let args = Args::parse();
    let pairs = pairs(&args)?;
    let config: RunConfig = serde_json::from_value(json!({
        "model": {
            "name": "two-towers", "freeze": true, "output_dim": args.dim,
            "options": {
                "text_model": MINILM_SMALL, "image_model": EFFICIENTNET_SMALL, "seed": args.seed,
            },
        },
        "data": {"train_data": "pretrain"},
        "hyper_parameters": {
            "loss": "CLIPLoss", "epochs": args.epochs, "batch_size": 64, "learning_rate": 1e-3,
            "optimizer": "AdamW", "optimizer_options": {"weight_decay": 0.1}, "scheduler": "cosine",
        },
        "experiment_name": "pretraining",
        "run_name": "two-towers-small",
    }))?;
    let folder = tempfile::tempdir()?;
    let setting = Setting {
        device: &Device::Cpu,
        local_models: &LocalModels::Nowhere,
        hub: HubRules::default(),
        earlier: None,
        read_data: &|_| Ok(Box::new(pairs.clone().into_iter().map(Ok)) as Documents),
        folder: folder.path(),
        checkpoint: None,
    };
    let finished = job::run(&config, &setting, &mut Log)?;

    let model = folder.path().join("model");
    open_artifact(&finished.artifact, &model)?;
    let bytes = std::fs::read(model.join("model.safetensors"))?;
    let mut tensors = parse_safetensors(&bytes, "model.safetensors")?;
    tensors.retain(|name, _| name.ends_with("_projection.weight") || name == "logit_scale");
    std::fs::create_dir_all(&args.out)?;
    let weights = args.out.join("model.safetensors");
    write_safetensors(&weights, &tensors, FloatFormat::F16)?;
    // The engine reads the towers from their own crates.
    let described = json!({
        "model_type": "two-towers", "projection_dim": args.dim,
        "text_model": MINILM_SMALL, "image_model": EFFICIENTNET_SMALL,
    });
    let described = serde_json::to_string_pretty(&described)? + "\n";
    std::fs::write(args.out.join("config.json"), described)?;
    println!("Wrote {}", args.out.display());
    Ok(())
}

/// Returns the images with their titles.
fn pairs(args: &Args) -> Fallible<DocumentArray> {
    let mut documents = DocumentArray::new();
    for (image, title) in read_rows(&args.data.join("fashion/pretrain.csv"))? {
        let image = Document::blob(std::fs::read(args.data.join(image))?);
        documents.push(
            Document::new()
                .with_chunk(image.with_modality("image"))
                .with_chunk(Document::text(title).with_modality("text")),
        );
    }
    Ok(documents)
}
