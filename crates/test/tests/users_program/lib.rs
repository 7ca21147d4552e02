use std::path::Path;

use finetuner::{Csv, Finetuner, Loss, Result};

#[derive(Debug, PartialEq)]
pub enum Outcome {
    /// The new model finds more than the old one, and is saved.
    Saved,
    /// The new model finds no more than the old one.
    NotBetter,
    /// The run failed, for this reason.
    Failed(String),
}

/// Fine-tunes a sentence encoder on questions with their answers.
pub async fn train(finetuner: &Finetuner, pairs: &str, folder: &Path) -> Result<Outcome> {
    let run = finetuner
        .fit("minilm-small", Csv::text(pairs))
        .run_name("answers")
        .epochs(3)
        .loss(Loss::MultipleNegativeRanking)
        .await?;
    match run.wait().await {
        Ok(_) => {}
        Err(error) if error.is_run_failed() => return Ok(Outcome::Failed(error.to_string())),
        Err(error) => return Err(error),
    }
    let metrics = run.metrics().await?;
    if metrics.after.get("recall_at_k") <= metrics.before.get("recall_at_k") {
        return Ok(Outcome::NotBetter);
    }
    run.save_model(folder).await?;
    Ok(Outcome::Saved)
}
