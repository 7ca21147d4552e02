//! Measures the time to the first step for `scripts/measure_first_step.py`: uploads
//! texts of two labels, starts a run on them, and waits for its first step. Prints the
//! seconds of each.
//!
//! `first_step COUNT [BATCH]`: the address and the token come from the environment.
//! Without BATCH the backend chooses the batch size.

use std::time::{Duration, Instant};

use finetuner::{Document, DocumentSource, Finetuner, protocol::Event};

/// Interval between two polls of the run.
const LOOK: Duration = Duration::from_millis(100);

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let count: usize = arguments.next().ok_or("COUNT is wanted")?.parse()?;
    let batch: Option<u64> = arguments.next().map(|size| size.parse()).transpose()?;
    let finetuner = Finetuner::login().await?;
    let source = DocumentSource::new(move || {
        (0..count).map(|n| {
            let label = if n % 2 == 0 { "even" } else { "odd" };
            Document::text(format!("the {n}th text, of some words more")).with_label(label)
        })
    });
    let started = Instant::now();
    finetuner.push("many", source).await?;
    println!("push {:.1}", started.elapsed().as_secs_f64());

    let started = Instant::now();
    let mut fit = finetuner.fit("minilm-small", "many").epochs(1);
    if let Some(batch) = batch {
        fit = fit.batch_size(batch);
    }
    let run = fit.await?;
    println!("submit {:.1}", started.elapsed().as_secs_f64());
    loop {
        let points = run.metric_history(None).await?;
        if points
            .iter()
            .any(|point| matches!(point.event, Event::Step { .. }))
        {
            break;
        }
        let status = run.status().await?;
        if status.status.is_final() {
            return Err(format!("{status}: {}", run.logs().await?).into());
        }
        tokio::time::sleep(LOOK).await;
    }
    println!("first step {:.1}", started.elapsed().as_secs_f64());
    // Tells the script to read the worker's memory.
    println!("training");
    let mut line = String::new();
    std::io::stdin().read_line(&mut line)?;
    println!("{}", run.logs().await?);
    run.cancel().await?;
    Ok(())
}
