//! LoRA: fine-tunes a sentence encoder by training low-rank adapters instead of its
//! weights. The run saves the merged model, and the adapter for PEFT beside it.
//!
//! ```sh
//! cargo run --release --example lora
//! ```
//!
//! The program starts its own backend and includes a small model. The first argument
//! may name a larger one, such as
//! `sentence-transformers/all-MiniLM-L6-v2`, or a folder that begins with `./`. The
//! second argument is the folder to save to.

use finetuner::{Csv, CsvOptions, EvaluationCallback, Lora, Loss, Optimizer, local::get_model};

mod support;

/// Training allocates and frees large buffers continuously. This allocator is much
/// faster at that than the system's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main]
async fn main() -> support::Fallible<()> {
    let mut arguments = std::env::args().skip(1);
    let model = arguments.next();
    let model = model.as_deref().unwrap_or("minilm-small");
    let temporary = tempfile::tempdir()?;
    let folder = match arguments.next() {
        Some(folder) => folder.into(),
        None => temporary.path().join("model"),
    };
    let (backend, finetuner) = support::connect().await?;

    // Each row has a term and its definition, which form a positive pair.
    let data = support::datasets().join("fashion-glossary");
    let labelled = |list: &str| {
        Csv::path(data.join(format!("{list}.csv"))).options(CsvOptions::new().is_labeled(true))
    };
    let evaluation = EvaluationCallback::new(labelled("queries"))
        .index_data(labelled("index"))
        .limit(10);
    let run = finetuner
        .fit(model, Csv::path(data.join("train.csv")))
        .run_name(format!("lora-{}", std::process::id()))
        .loss(Loss::MultipleNegativeRanking)
        // Adapters need a higher learning rate than weights.
        .lora(Lora::new().r(16).lora_alpha(32.0).all_linear())
        .learning_rate(1e-3)
        .optimizer(Optimizer::AdamW)
        .epochs(3)
        .batch_size(32)
        .callback(evaluation)
        .await?;
    support::follow(&run).await?;

    let saved = run.save_model(&folder).await?;
    for file in std::fs::read_dir(saved.join("adapter"))? {
        let file = file?;
        println!(
            "adapter/{}: {} bytes",
            file.file_name().display(),
            file.metadata()?.len()
        );
    }
    // The folder itself has the merged model.
    let model = get_model(saved)?;
    support::search_definitions(&model, &data.join("index.csv"))?;
    if let Some(backend) = backend {
        backend.stop().await;
    }
    Ok(())
}
