//! Measures how the time and memory of a run grow with its data: one epoch over 1,000
//! to 100,000 documents, with a separate process for each number.
//!
//! ```text
//! cargo run --release -p finetuner-engine --example growth
//! ```
//!
//! Text pairs train `minilm-small`; the images of `datasets/emoji-clip` with their
//! titles train `clip-small`. "Reading" is the time before the first step: reading and
//! checking documents, loading the model. "Epoch" is the time from there to the
//! artifact.

use std::{path::PathBuf, process::Command, time::Instant};

use clap::{Parser, ValueEnum};
use finetuner_engine::{
    data::Documents,
    job::{self, Observer, Setting},
    source::HubRules,
};
use finetuner_protocol::{Device, Document, Event, RunConfig, worker::LocalModels};
use serde_json::json;

mod memory;
mod rows;

use memory::peak_memory_mb;
use rows::{Fallible, read_rows};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Parser)]
struct Args {
    #[arg(long, default_value = "datasets/emoji-clip")]
    data: PathBuf,
    #[arg(long, value_delimiter = ',', default_values_t = [1_000, 10_000, 100_000])]
    documents: Vec<usize>,
    /// Measures only this kind, with the first number of documents, in this process.
    #[arg(long)]
    one: Option<Kind>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Kind {
    Texts,
    Pictures,
}

fn main() -> Fallible<()> {
    let args = Args::parse();
    if let Some(kind) = args.one {
        let count = args.documents.first().copied().unwrap_or(1_000);
        return measure(&args, kind, count);
    }
    println!("kind       documents  reading s  epoch s  documents/s  peak MB");
    for kind in [Kind::Texts, Kind::Pictures] {
        for count in &args.documents {
            let status = Command::new(std::env::current_exe()?)
                .arg("--data")
                .arg(&args.data)
                .args(["--documents", &count.to_string(), "--one"])
                .arg(format!("{kind:?}").to_lowercase())
                .status()?;
            if !status.success() {
                return Err(format!("{count} {kind:?}: {status}").into());
            }
        }
    }
    Ok(())
}

/// Records the time of the first step.
#[derive(Default)]
struct Watch {
    first: Option<Instant>,
}

impl Observer for Watch {
    fn event(&mut self, event: Event) {
        if let Event::Step { .. } = event {
            self.first.get_or_insert_with(Instant::now);
        }
    }
}

fn measure(args: &Args, kind: Kind, count: usize) -> Fallible<()> {
    let (model, loss) = match kind {
        Kind::Texts => ("minilm-small", "MultipleNegativeRankingLoss"),
        Kind::Pictures => ("clip-small", "CLIPLoss"),
    };
    let config: RunConfig = serde_json::from_value(json!({
        "model": {"name": model}, "data": {"train_data": "train"},
        "hyper_parameters": {"loss": loss, "epochs": 1, "batch_size": 64, "learning_rate": 1e-5},
        "experiment_name": "growth", "run_name": format!("{count}"),
    }))?;
    let rows = read_rows(&args.data.join("unseen-drawings/train.csv"))?.into_iter();
    let pairs = rows.map(|(path, text)| Ok((text, std::fs::read(args.data.join(path))?)));
    let pairs = pairs.collect::<Fallible<Vec<_>>>()?;
    let read = |_: &str| {
        let pairs = pairs.clone();
        let documents = (0..count).map(move |n| {
            let (title, image) = &pairs[n % pairs.len()];
            let (text, other) = match kind {
                Kind::Texts => (
                    Document::text(format!("{title} number {n}")),
                    Document::text(format!("an image of {title}, the {n}th of many")),
                ),
                Kind::Pictures => (
                    Document::text(title.as_str()).with_modality("text"),
                    Document::blob(image.as_slice()).with_modality("image"),
                ),
            };
            Ok(Document::new().with_chunk(text).with_chunk(other))
        });
        Ok(Box::new(documents) as Documents)
    };
    let folder = tempfile::tempdir()?;
    let mut watch = Watch::default();
    let started = Instant::now();
    job::run(
        &config,
        &Setting {
            device: &Device::Cpu,
            local_models: &LocalModels::Nowhere,
            hub: HubRules::default(),
            earlier: None,
            read_data: &read,
            folder: folder.path(),
            checkpoint: None,
        },
        &mut watch,
    )?;
    let first = watch.first.ok_or("the run had no step")?;
    let (reading, epoch) = (first - started, first.elapsed().as_secs_f64());
    println!(
        "{:<10} {count:>9}  {:>9.1}  {epoch:>7.1}  {:>11.0}  {:>7}",
        format!("{kind:?}").to_lowercase(),
        reading.as_secs_f64(),
        (count - 64) as f64 / epoch,
        peak_memory_mb().map_or("?".to_owned(), |mb| mb.to_string()),
    );
    Ok(())
}
