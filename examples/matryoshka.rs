//! Matryoshka: trains a sentence encoder whose embeddings can be truncated to 128 and
//! 64 dimensions, and searches with each.
//!
//! ```sh
//! cargo run --release --example matryoshka
//! ```
//!
//! The program starts its own backend and includes a small model.

use finetuner::{
    Csv, Loss, Optimizer, Options,
    local::{Distance, Encoder, get_model},
};

mod support;

/// Training allocates and frees large buffers continuously. This allocator is much
/// faster at that than the system's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main]
async fn main() -> support::Fallible<()> {
    let temporary = tempfile::tempdir()?;
    let (backend, finetuner) = support::connect().await?;

    // Each row has a term and its definition, which form a positive pair.
    let data = support::datasets().join("fashion-glossary");
    let run = finetuner
        .fit("minilm-small", Csv::path(data.join("train.csv")))
        .run_name(format!("matryoshka-{}", std::process::id()))
        .loss(Loss::Matryoshka)
        .loss_options(
            Options::new()
                .inner_loss(Loss::MultipleNegativeRanking, Options::new())
                .matryoshka_dims([384, 128, 64]),
        )
        .learning_rate(1e-4)
        .optimizer(Optimizer::AdamW)
        .epochs(3)
        .batch_size(64)
        .await?;
    support::follow(&run).await?;

    let saved = run.save_model(temporary.path().join("model")).await?;
    let queries = support::rows(&data.join("queries.csv"))?;
    let index = support::rows(&data.join("index.csv"))?;
    println!("{} queries in {} definitions:", queries.len(), index.len());
    for dim in [384, 128, 64] {
        let model = get_model(&saved)?.truncate_dim(dim)?;
        let recall = recall_at_10(&model, &queries, &index)?;
        println!("  {dim:>3} dimensions: recall@10 {recall:.3}");
    }
    if let Some(backend) = backend {
        backend.stop().await;
    }
    Ok(())
}

/// Returns the fraction of queries that find a definition with their label among the
/// first ten. Queries and definitions are rows of a text and its label.
fn recall_at_10(
    model: &Encoder,
    queries: &[(String, String)],
    index: &[(String, String)],
) -> support::Fallible<f64> {
    let texts = |rows: &[(String, String)]| {
        let texts: Vec<&str> = rows.iter().map(|(text, _)| text.as_str()).collect();
        model.encode_texts(&texts)
    };
    let found = texts(index)?.search(&texts(queries)?, 10, Distance::Cosine)?;
    let hits = queries.iter().zip(&found).filter(|((_, label), matches)| {
        let mut matches = matches.iter();
        matches.any(|hit| index[hit.index].1 == *label)
    });
    let hits = hits.count();
    Ok(hits as f64 / queries.len() as f64)
}
