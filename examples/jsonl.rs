//! JSON Lines as data: trains a sentence encoder on rows with hard negatives.
//!
//! ```sh
//! cargo run --release --example jsonl
//! ```

use std::io::Write;

use finetuner::{Columns, Csv, CsvOptions, Dataset, EvaluationCallback, Loss};

mod support;

#[tokio::main]
async fn main() -> support::Fallible<()> {
    let (backend, finetuner) = support::connect().await?;

    // Each row has a term, its definition, and the definition of another term. The
    // best negatives are hard ones: texts that look correct but are not.
    let folder = support::datasets().join("fashion-glossary");
    let pairs = support::rows(&folder.join("train.csv"))?;
    let definitions = support::first_column(&folder.join("index.csv"))?;
    let mut file = tempfile::NamedTempFile::with_suffix(".jsonl")?;
    for (i, (term, definition)) in pairs.iter().take(200).enumerate() {
        let row = serde_json::json!({
            "term": term,
            "definition": definition,
            "wrong": definitions[i % definitions.len()],
        });
        writeln!(file, "{row}")?;
    }

    // Names such as `anchor`, `positive` and `negative` need no `Columns`.
    let columns = Columns::new()
        .anchor("term")
        .positive("definition")
        .add_negative("wrong");
    let rows = Dataset::json_lines(file.path()).columns(columns);
    let labelled = |list: &str| {
        Csv::path(folder.join(format!("{list}.csv"))).options(CsvOptions::new().is_labeled(true))
    };
    let run = finetuner
        .fit("minilm-small", rows)
        .run_name(format!("jsonl-{}", std::process::id()))
        .loss(Loss::MultipleNegativeRanking)
        .epochs(1)
        .batch_size(32)
        .learning_rate(5e-5)
        .callback(EvaluationCallback::new(labelled("queries")).index_data(labelled("index")))
        .await?;
    support::follow(&run).await?;

    if let Some(backend) = backend {
        backend.stop().await;
    }
    Ok(())
}
