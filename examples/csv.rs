//! CSV files as data: the problems of a bad file, and a run on a good one.
//!
//! ```sh
//! cargo run --release --example csv
//! ```

use finetuner::{Csv, CsvOptions, EvaluationCallback};

mod support;

#[tokio::main]
async fn main() -> support::Fallible<()> {
    let (backend, finetuner) = support::connect().await?;

    // The error lists all bad rows, and nothing was sent.
    let bad =
        "picture,title\nimages/noto/crown.png,crown\nno-such.png,hat\nimages/noto/kimono.png\n";
    let options = CsvOptions::new()
        .header(["picture", "title"])
        .base_folder(support::data_folder());
    let error = finetuner.push("bad", Csv::text(bad).options(options)).await;
    if let Some(problems) = error.as_ref().err().and_then(finetuner::Error::problems) {
        for problem in &problems.problems {
            println!("line {}: {}", problem.number, problem.reason);
        }
    }

    let run = support::short_fit(&finetuner, &format!("csv-{}", std::process::id()))
        .callback(EvaluationCallback::new(support::fashion("eval")).limit(10))
        .await?;
    run.wait().await?;
    println!("{}", run.display_metrics().await?);

    if let Some(backend) = backend {
        backend.stop().await;
    }
    Ok(())
}
