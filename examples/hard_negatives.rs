//! Hard negatives: finds wrong documents that a model considers similar to a query,
//! first on this machine, then as part of a run.
//!
//! ```sh
//! cargo run --release --example hard_negatives
//! ```
//!
//! The program includes a small model. The first argument may name a larger one, such
//! as `sentence-transformers/all-MiniLM-L6-v2`.

use finetuner::{
    Csv, CsvOptions, Document, EvaluationCallback, HardNegatives, Loss,
    local::{build_model, mine_hard_negatives},
};

mod support;

/// Training allocates and frees large buffers continuously. This allocator is much
/// faster at that than the system's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main]
async fn main() -> support::Fallible<()> {
    let model = std::env::args().nth(1);
    let model = model.as_deref().unwrap_or("minilm-small").to_owned();
    let folder = support::datasets().join("fashion-glossary");

    // As a function: from pairs to triplets.
    let definitions = support::first_column(&folder.join("index.csv"))?;
    let name = model.clone();
    let triplets =
        tokio::task::spawn_blocking(move || -> finetuner::local::Result<Vec<Document>> {
            let pair = |term: &str, meaning: &str| {
                let term = Document::new().with_chunk(Document::text(term));
                term.with_chunk(Document::text(meaning))
            };
            let pairs = vec![
                pair("parka", "a warm coat with a hood"),
                pair("clutch", "a small bag without a strap"),
            ];
            let corpus: Vec<Document> = definitions.into_iter().map(Document::text).collect();
            let mined = mine_hard_negatives(&build_model(&name)?, pairs)
                .corpus(corpus)
                .options(HardNegatives::new().relative_margin(0.05).num_negatives(2))
                .run()?;
            println!("{}\n", mined.report);
            mined.documents().collect()
        });
    for triplet in triplets.await?? {
        let texts: Vec<&str> = triplet
            .chunks
            .iter()
            .filter_map(Document::as_text)
            .collect();
        println!("{}", texts.join(" | "));
    }

    // As a step of a run, which mines with its starting model.
    let (backend, finetuner) = support::connect().await?;
    let labelled = |list: &str| {
        Csv::path(folder.join(format!("{list}.csv"))).options(CsvOptions::new().is_labeled(true))
    };
    let evaluation = EvaluationCallback::new(labelled("queries"))
        .index_data(labelled("index"))
        .metrics(["recall@1", "recall@10", "ndcg@10"]);
    let run = finetuner
        .fit(model, Csv::path(folder.join("train.csv")))
        .run_name(format!("hard-negatives-{}", std::process::id()))
        .loss(Loss::MultipleNegativeRanking)
        .mine_hard_negatives(
            HardNegatives::new()
                .relative_margin(0.05)
                .num_negatives(2)
                .output_format("n-tuple"),
        )
        .epochs(2)
        .batch_size(32)
        .learning_rate(5e-5)
        .callback(evaluation)
        .await?;
    support::follow(&run).await?;
    if let Some(backend) = backend {
        backend.stop().await;
    }
    Ok(())
}
