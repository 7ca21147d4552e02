//! Reranking: trains a cross-encoder on fashion terms and their definitions, and
//! ranks definitions for a query.
//!
//! ```sh
//! cargo run --release --example cross_encoder
//! ```
//!
//! The program starts its own backend and includes a small model. The first argument
//! may name a larger one, such as
//! `cross-encoder/ms-marco-MiniLM-L6-v2`, or a folder that begins with `./`.

use finetuner::{
    BestModelCheckpoint, Document, DocumentArray, EvaluationCallback, Loss, Optimizer,
    local::CrossEncoder,
};

mod support;

/// Training allocates and frees large buffers continuously. This allocator is much
/// faster at that than the system's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Number of wrong definitions for each correct one.
const WRONG: usize = 3;

/// Returns pairs of a term and a definition, with the score 1 for correct pairs.
fn pairs(rows: &[(String, String)]) -> DocumentArray {
    let mut pairs = DocumentArray::new();
    for (number, (term, _)) in rows.iter().enumerate() {
        for step in 0..=WRONG {
            let (_, definition) = &rows[(number + step * 17) % rows.len()];
            let pair = Document::new()
                .with_chunk(Document::text(term.as_str()))
                .with_chunk(Document::text(definition.as_str()))
                .with_tag("finetuner_score", if step == 0 { 1.0 } else { 0.0 });
            pairs.push(pair);
        }
    }
    pairs
}

#[tokio::main]
async fn main() -> support::Fallible<()> {
    let model = std::env::args().nth(1);
    let model = model.as_deref().unwrap_or("minilm-small");
    let (backend, finetuner) = support::connect().await?;

    let folder = support::datasets().join("fashion-glossary");
    let train = support::rows(&folder.join("train.csv"))?;
    let kept = support::rows(&folder.join("eval.csv"))?;
    let evaluation = EvaluationCallback::new(pairs(&kept));
    // A model without a classification head gets a new one.
    let run = finetuner
        .fit(model, pairs(&train))
        .run_name(format!("cross-encoder-{}", std::process::id()))
        .loss(Loss::BinaryCrossEntropy)
        .epochs(3)
        .batch_size(32)
        .learning_rate(3e-4)
        .optimizer(Optimizer::AdamW)
        .callback(evaluation)
        .callback(BestModelCheckpoint::new().monitor("map"))
        .await?;
    support::follow(&run).await?;

    // CrossEncoder of sentence-transformers opens the saved folder as well.
    let saved = tempfile::tempdir()?;
    let folder = run.save_model(saved.path().join("model")).await?;
    let model = CrossEncoder::from_folder(folder)?;
    let definitions: Vec<&str> = kept.iter().map(|(_, text)| text.as_str()).collect();
    for (term, definition) in &kept[..2] {
        println!("\n{term} ({definition})");
        for found in model.rank(term, &definitions, Some(3))? {
            println!("  {:.3} {}", found.score, definitions[found.corpus_id]);
        }
    }
    if let Some(backend) = backend {
        backend.stop().await;
    }
    Ok(())
}
