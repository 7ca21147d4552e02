//! Trains one small run that reports to an MLflow server, for
//! `scripts/check_mlflow.py`. Prints its log and the loss of each step.
//!
//! `tracked_run ADDRESS`: the server accepts an address of this machine only if
//! `MLFLOW_TRACKING_URI` in its environment names it.

use finetuner::{Document, DocumentArray, Finetuner, Loss, MLFlowLogger, protocol::Event};
use finetuner_server::Server;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = std::env::args().nth(1).ok_or("ADDRESS is wanted")?;
    let backend = Server::embedded().start().await?;
    let token = backend.first_token().ok_or("a new backend has a token")?;
    let finetuner = Finetuner::builder()
        .registry(backend.url())
        .token(token)
        .login()
        .await?;
    let pairs: DocumentArray = (0..24)
        .map(|n| {
            let chunk = |what: &str| Document::text(format!("{what} number {n}"));
            Document::new()
                .with_chunk(chunk("a question"))
                .with_chunk(chunk("an answer"))
        })
        .collect::<Vec<_>>()
        .into();
    let run = finetuner
        .fit("minilm-small", pairs)
        .loss(Loss::MultipleNegativeRanking)
        .epochs(2)
        .batch_size(8)
        .callback(MLFlowLogger::new("tracked", address))
        .await?;
    run.wait().await?;
    println!("{}", run.logs().await?);
    let mut steps = 0;
    for point in run.metric_history(None).await? {
        if let Event::Step { loss, .. } = point.event {
            steps += 1;
            println!("step {steps} {loss}");
        }
    }
    backend.stop().await;
    Ok(())
}
