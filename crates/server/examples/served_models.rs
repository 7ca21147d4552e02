//! Serves two finished models for `scripts/check_embeddings.py`: trains them, writes
//! the embeddings that `local` computes with the saved models, prints a line of JSON,
//! and serves until standard input ends.
//!
//! ```text
//! cargo run --release -p finetuner-server --example served_models -- expected.json
//! ```

use std::path::{Path, PathBuf};

use finetuner::{
    Csv, Document, DocumentArray, Finetuner, Loss, Prompts, Run,
    local::{Embeddings, Encoder, get_model},
};
use finetuner_server::Server;
use serde_json::{Value, json};

/// Training allocates and frees large buffers continuously. mimalloc is much faster at
/// this than the system's allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

type Fallible<T> = Result<T, Box<dyn std::error::Error>>;

/// Number of images to embed.
const PICTURES: usize = 4;

#[tokio::main]
async fn main() -> Fallible<()> {
    let output = std::env::args().nth(1).ok_or("give a file to write")?;
    let server = Server::embedded().start().await?;
    let token = server.first_token().unwrap_or_default().to_owned();
    let finetuner = Finetuner::builder()
        .registry(server.url())
        .token(token.clone());
    let finetuner = finetuner.login().await?;
    let datasets = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../datasets");

    let glossary = datasets.join("fashion-glossary/train.csv");
    let fit = finetuner.fit("minilm-small", Csv::path(&glossary));
    let text = fit
        .run_name("texts")
        .epochs(1)
        .loss(Loss::MultipleNegativeRanking)
        .prompts(Prompts::new().anchor("query: ").positive("passage: "))
        .await?;
    text.wait().await?;
    let rows = std::fs::read_to_string(glossary)?;
    let texts: Vec<&str> = rows.lines().take(40).collect();

    let fashion = datasets.join("emoji-clip");
    let pairs = pairs(&fashion)?;
    finetuner.push("fashion", &pairs).await?;
    let fit = finetuner.fit("clip-small", "fashion").run_name("clip");
    let clip = fit.epochs(1).loss(Loss::Clip).await?;
    clip.wait().await?;
    let blobs = pairs.iter().filter_map(|pair| pair.chunks[0].as_blob());
    let pictures: Vec<&[u8]> = blobs.take(PICTURES).collect();

    let (text, clip) = (saved(&text).await?, saved(&clip).await?);
    let expected = json!({
        "texts": texts,
        "pictures": picture_files(&fashion)?[..PICTURES],
        "plain": rows_of(&text.encode_texts(&texts)?),
        "query": rows_of(&text.prompt("query")?.encode_texts(&texts)?),
        "short": rows_of(&text.truncate_dim(64)?.encode_texts(&texts)?),
        "clip_texts": rows_of(&clip.encode_texts(&texts)?),
        "clip_pictures": rows_of(&clip.encode_images(&pictures)?),
    });
    std::fs::write(output, serde_json::to_vec(&expected)?)?;
    println!("{}", json!({"url": server.url(), "token": token}));
    // The script closes standard input when it is done.
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink())?;
    server.stop().await;
    Ok(())
}

/// Saves the model of a run and opens it locally.
async fn saved(run: &Run) -> Fallible<Encoder> {
    let folder = tempfile::tempdir()?;
    let saved = run.save_model(folder.path().join("model")).await?;
    Ok(get_model(saved)?)
}

fn rows_of(found: &Embeddings) -> Value {
    found
        .iter()
        .collect::<Vec<_>>()
        .into_iter()
        .map(|row| json!(row))
        .collect()
}

/// Returns the image files of the training data, in order.
fn picture_files(folder: &Path) -> Fallible<Vec<PathBuf>> {
    let rows = std::fs::read_to_string(folder.join("fashion/train.csv"))?;
    let names = rows.lines().filter_map(|row| Some(row.split_once(',')?.0));
    Ok(names.map(|name| folder.join(name)).collect())
}

/// Returns images with their titles.
fn pairs(folder: &Path) -> Fallible<DocumentArray> {
    let rows = std::fs::read_to_string(folder.join("fashion/train.csv"))?;
    let titles = rows.lines().filter_map(|row| Some(row.split_once(',')?.1));
    let mut pairs = DocumentArray::new();
    for (picture, title) in picture_files(folder)?.into_iter().zip(titles) {
        let picture = Document::blob(std::fs::read(picture)?).with_modality("image");
        let title = Document::text(title).with_modality("text");
        pairs.push(Document::new().with_chunk(picture).with_chunk(title));
    }
    Ok(pairs)
}
