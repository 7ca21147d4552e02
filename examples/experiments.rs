//! Experiments group related runs.
//!
//! ```sh
//! cargo run --release --example experiments
//! ```

use futures_util::TryStreamExt;

mod support;

#[tokio::main]
async fn main() -> support::Fallible<()> {
    let (backend, finetuner) = support::connect().await?;
    let name = format!("learning-rates-{}", std::process::id());
    let experiment = finetuner.create_experiment(&name).await?;

    // Two runs that differ in one setting.
    for rate in [1e-4, 1e-3] {
        let fit = support::short_fit(&finetuner, &format!("rate-{rate}"));
        fit.experiment_name(&name)
            .learning_rate(rate)
            .description(format!("learning rate {rate}"))
            .await?;
    }
    let mut runs = experiment.list_runs().stream();
    while let Some(run) = runs.try_next().await? {
        run.wait().await?;
        let history = run.metric_history(None).await?;
        println!(
            "{}: {} points of its curves",
            run.description(),
            history.len()
        );
    }

    let page = finetuner.list_experiments().page(1, 10).await?;
    println!("{} experiments, of which the first are:", page.total);
    for experiment in page.items {
        if let Some(created) = experiment.created_at() {
            println!("  {} of {created}", experiment.name());
        }
    }
    finetuner.delete_experiment(&name).await?;

    if let Some(backend) = backend {
        backend.stop().await;
    }
    Ok(())
}
