//! Text-to-text search: fine-tunes a sentence encoder on fashion terms and their
//! definitions, and finds definitions for a description.
//!
//! ```sh
//! cargo run --release --example text_to_text
//! ```
//!
//! The program starts its own backend and includes a small model. The first argument
//! may name a larger one, such as
//! `sentence-transformers/all-MiniLM-L6-v2`, or a folder that begins with `./`.

use finetuner::{
    Csv, CsvOptions, EvaluationCallback, Loss, Optimizer, Scheduler, SchedulerOptions,
    local::get_model,
};

mod support;

/// Training allocates and frees large buffers continuously. This allocator is much
/// faster at that than the system's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main]
async fn main() -> support::Fallible<()> {
    let model = std::env::args().nth(1);
    let model = model.as_deref().unwrap_or("minilm-small");
    let (backend, finetuner) = support::connect().await?;

    // Each row has a term and its definition, which form a positive pair.
    let folder = support::datasets().join("fashion-glossary");
    let pairs = Csv::path(folder.join("train.csv"));
    // Each row has a text and a label; a term and its definition have the same label.
    let labelled = |list: &str| {
        Csv::path(folder.join(format!("{list}.csv"))).options(CsvOptions::new().is_labeled(true))
    };
    let evaluation = EvaluationCallback::new(labelled("queries"))
        .index_data(labelled("index"))
        .limit(10);
    let run = finetuner
        .fit(model, pairs)
        .run_name(format!("text-to-text-{}", std::process::id()))
        .loss(Loss::MultipleNegativeRanking)
        .epochs(3)
        .batch_size(32)
        .learning_rate(5e-5)
        .optimizer(Optimizer::AdamW)
        .scheduler(Scheduler::Linear)
        .scheduler_options(SchedulerOptions::default().num_warmup_steps(7))
        .callback(evaluation)
        .await?;
    support::follow(&run).await?;

    // sentence-transformers opens the saved folder as well.
    let saved = tempfile::tempdir()?;
    let model = run.save_model(saved.path().join("model")).await?;
    let model = get_model(model)?;
    support::search_definitions(&model, &folder.join("index.csv"))?;
    if let Some(backend) = backend {
        backend.stop().await;
    }
    Ok(())
}
