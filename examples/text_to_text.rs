//! Text-to-text search: BERT on pairs of a question and its answer.
//!
//! ```sh
//! cargo run --example text_to_text
//! ```
//!
//! The run is described here as on the backend of the Python client. This
//! version's own backend trains CLIP models alone: it says so, and no run is made.
//! Point the example at another backend with `JINA_FINETUNER_REGISTRY`.

use finetuner::{Csv, EarlyStopping, EvaluationCallback, Loss, Miner, Options};

mod support;

#[tokio::main]
async fn main() -> support::Fallible<()> {
    let (backend, finetuner) = support::connect().await?;

    // Each question has answers that mean the same.
    let train = "\
what is a borrow,a reference that does not own its value
what is a borrow,access to a value that somebody else owns
what is a trait,methods that several types have in common
what is a lifetime,how long a reference may be used
";
    let submitted = finetuner
        .fit("bert-base-en", Csv::text(train))
        .run_name(format!("text-to-text-{}", std::process::id()))
        .loss(Loss::TripletMargin)
        .miner(Miner::TripletMargin)
        .miner_options(Options::new().margin(0.2).type_of_triplets("semihard"))
        .epochs(3)
        .learning_rate(1e-5)
        .callback(EvaluationCallback::new(Csv::text(train)))
        .callback(EarlyStopping::new().monitor("train_loss"))
        .await;
    support::report(submitted).await?;

    if let Some(backend) = backend {
        backend.stop().await;
    }
    Ok(())
}
