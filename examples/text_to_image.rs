//! Text-to-image search: fine-tunes a model on images of clothes and their
//! titles, and searches with it.
//!
//! ```sh
//! cargo run --release --example text_to_image
//! ```
//!
//! The program starts its own backend. To use another one, set
//! `JINA_FINETUNER_REGISTRY` and `JINA_AUTH_TOKEN`.

use std::{
    error::Error,
    path::{Path, PathBuf},
};

use clap::Parser;
use finetuner::{
    BestModelCheckpoint, Document, DocumentArray, EvaluationCallback, Loss, describe_models,
};
use finetuner_engine::{
    evaluation::cos_sim,
    infer::{Embeddings, Encoder},
};

mod support;

/// Training allocates and frees large buffers continuously. This allocator is much
/// faster at that than the system's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const TRAIN_DATA: &str = "clip-fashion-train-data";
const EVAL_DATA: &str = "clip-fashion-eval-data";
/// Backbones that are included and need no download.
const TOWERS: &str = "two-towers-small";
const SMALL_CLIP: &str = "clip-small";
/// Queries for the trained model.
const QUERIES: [&str; 5] = ["sunglasses", "running shoe", "kimono", "crown", "backpack"];
/// Number of images shown per query.
const SHOWN: usize = 3;

/// Fine-tune a text-to-image model on images of clothes, and search with it.
#[derive(Parser)]
struct Options {
    /// Backbone, name of a CLIP model on the Hugging Face hub, or folder with one in
    /// Hugging Face layout
    #[arg(long, default_value = TOWERS)]
    model: String,
    /// Number of epochs [default: 40 for the small models, else 5]
    #[arg(long)]
    epochs: Option<u64>,
    /// Learning rate [default: 1e-3 for `two-towers-small`, 3e-4 for
    /// `clip-small`, else 1e-5]
    #[arg(long)]
    learning_rate: Option<f64>,
    /// Seed for the order of the data
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Name of the run
    #[arg(long, default_value = "clip-fashion-1")]
    run_name: String,
    /// Folder to save the model in
    #[arg(long, default_value = "clip-model")]
    output: PathBuf,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let options = Options::parse();
    let (epochs, learning_rate) = match options.model.as_str() {
        TOWERS => (40, 1e-3),
        SMALL_CLIP => (40, 3e-4),
        _ => (5, 1e-5),
    };

    // The backend that the environment names, or one inside this program.
    let (backend, finetuner) = support::connect().await?;
    println!(
        "Logged in as {}\n",
        finetuner.user().map_or("", |user| &user.name)
    );

    println!("{}\n", describe_models());

    // Each document has an image and its title.
    let folder = support::data_folder();
    for (name, file) in [
        (TRAIN_DATA, "fashion/train.csv"),
        (EVAL_DATA, "fashion/eval.csv"),
    ] {
        let documents = read_pairs(&folder, file)?;
        finetuner.push(name, &documents).await?;
        println!("Pushed {} documents as {name}", documents.len());
    }

    let mut fit = finetuner
        .fit(&options.model, TRAIN_DATA)
        .run_name(&options.run_name)
        .eval_data(EVAL_DATA)
        .epochs(options.epochs.unwrap_or(epochs))
        .learning_rate(options.learning_rate.unwrap_or(learning_rate))
        .callback(BestModelCheckpoint::new())
        .callback(EvaluationCallback::new(EVAL_DATA))
        .loss(Loss::Clip)
        .image_modality("image")
        .text_modality("text")
        .multi_modal(true)
        .model_option("seed", options.seed);
    match options.model.as_str() {
        // Both towers are trained already, so only their projections are trained.
        TOWERS => fit = fit.batch_size(32).freeze(true),
        // A small model needs more epochs.
        SMALL_CLIP => fit = fit.batch_size(32).model_option("augmentation", "light"),
        _ => {}
    }
    let run = fit.await?;
    println!("\nCreated run {}: {}", run.name(), run.status().await?);

    let mut lines = run.stream_logs();
    while let Some(line) = lines.next().await {
        println!("  {}", line?);
    }

    // Any program can find a run by its name.
    let run = finetuner.get_run(&options.run_name).await?;
    println!("\nRun {}: {}", run.name(), run.status().await?);
    // Returns the reason if the run has failed.
    run.wait().await?;

    let metrics = run.metrics().await?;
    println!(
        "\nThe evaluation looks for 47 clothes by their names among 47 images, one of each. They are\n\
         drawn in a style of which no clothes were trained on. The best epoch is chosen by them too."
    );
    println!("\n{:<22} {:>8} {:>8}", "metric", "before", "after");
    for (name, after) in &metrics.after {
        let before = metrics.before.get(name).copied().unwrap_or_default();
        println!("{name:<22} {before:>8.3} {after:>8.3}");
    }

    let model = run.save_model(&options.output).await?;
    println!("\nSaved the model in {}", model.display());

    search(&model, &folder)?;

    if let Some(backend) = backend {
        backend.stop().await;
    }
    Ok(())
}

/// Reads rows of `picture,title`. Paths of images are relative to `folder`.
fn read_rows(folder: &Path, file: &str) -> Result<Vec<(PathBuf, String)>, Box<dyn Error>> {
    let path = folder.join(file);
    let text =
        std::fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    text.lines()
        .map(|line| {
            let (image, title) = line
                .split_once(',')
                .ok_or_else(|| format!("{}: `{line}` has no comma", path.display()))?;
            Ok((folder.join(image), title.to_owned()))
        })
        .collect()
}

fn read_pairs(folder: &Path, file: &str) -> Result<DocumentArray, Box<dyn Error>> {
    let mut documents = DocumentArray::new();
    for (image, title) in read_rows(folder, file)? {
        let image = Document::blob(std::fs::read(image)?).with_modality("image");
        let title = Document::text(title).with_modality("text");
        documents.push(Document::new().with_chunk(image).with_chunk(title));
    }
    Ok(documents)
}

/// Encodes the evaluation images with a saved model, and searches them for some
/// queries.
fn search(model: &Path, folder: &Path) -> Result<(), Box<dyn Error>> {
    let encoder = Encoder::from_folder(model)?;
    let index = read_rows(folder, "fashion/eval.csv")?;
    let images: Vec<Vec<u8>> = index
        .iter()
        .map(|(image, _)| std::fs::read(image))
        .collect::<Result<_, _>>()?;
    let images: Vec<&[u8]> = images.iter().map(Vec::as_slice).collect();
    let images = encoder.encode_images(&images)?;
    let queries = encoder.encode_texts(&QUERIES)?;

    println!("\nSearch among {} images:", index.len());
    for (query, embedding) in QUERIES.iter().zip(queries.iter()) {
        println!("  {query}");
        for (score, i) in most_similar(embedding, &images) {
            let (image, title) = &index[i];
            let mark = if title == query { '✓' } else { ' ' };
            let image = image.strip_prefix(folder).unwrap_or(image);
            println!("  {mark} {score:.3} {}", image.display());
        }
    }
    Ok(())
}

/// Returns the similarity and index of the embeddings most similar to `query`.
fn most_similar(query: &[f32], index: &Embeddings) -> Vec<(f32, usize)> {
    let mut found: Vec<(f32, usize)> = index
        .iter()
        .enumerate()
        .map(|(i, item)| (cos_sim(query, item), i))
        .collect();
    found.sort_by(|a, b| b.0.total_cmp(&a.0));
    found.truncate(SHOWN);
    found
}
