//! The commands `metrics` and `examples`: evaluation results before and after training.

use std::collections::BTreeSet;

use clap::Args;
use finetuner::{MetricsInfo, protocol::greater_is_better};
use serde_json::Value;

use super::runs::Named;
use crate::{
    failure::Result,
    output::{self, Output},
    session::Session,
};

/// `metrics`.
#[derive(Debug, Args)]
pub(crate) struct Metrics {
    #[command(flatten)]
    named: Named,
    /// Show the metric points instead: steps, epochs, evaluations
    #[arg(long)]
    history: bool,
}

impl Metrics {
    pub(crate) async fn run(self, session: &Session, output: &Output) -> Result {
        let run = self.named.find(session).await?;
        if self.history {
            for point in run.metric_history(None).await? {
                output.value(&point)?;
            }
            return Ok(());
        }
        let metrics = run.metrics().await?;
        if !output.is_json() && metrics.before.is_empty() && metrics.after.is_empty() {
            output
                .note("The run has no metrics: run `fit` with evaluation data, `--evaluate DATA`");
            return Ok(());
        }
        output.either(&metrics, || metrics_table(&metrics))
    }
}

/// Formats the metrics of both stages side by side.
pub(crate) fn metrics_table(metrics: &MetricsInfo) -> String {
    let names: BTreeSet<&String> = metrics.before.keys().chain(metrics.after.keys()).collect();
    let rows = names.into_iter().map(|name| {
        let (before, after) = (metrics.before.get(name), metrics.after.get(name));
        let shown = |value: Option<&f64>| value.map_or_else(String::new, |v| format!("{v:.4}"));
        let change = match (before, after) {
            (Some(before), Some(after)) if before == after => "same",
            (Some(before), Some(after)) => match greater_is_better(name) {
                Some(greater) if greater == (after > before) => "better",
                Some(_) => "worse",
                None => "",
            },
            _ => "",
        };
        vec![name.clone(), shown(before), shown(after), change.to_owned()]
    });
    output::table(&["metric", "before", "after", ""], rows)
}

/// `examples`.
#[derive(Debug, Args)]
pub(crate) struct Examples {
    #[command(flatten)]
    named: Named,
    /// Number of matches per query
    #[arg(short = 'k', long = "matches", default_value_t = 5)]
    matches: usize,
}

impl Examples {
    pub(crate) async fn run(self, session: &Session, output: &Output) -> Result {
        let run = self.named.find(session).await?;
        let examples = run.example_results().await?;
        if !output.is_json() && examples.before.is_empty() && examples.after.is_empty() {
            output.note(
                "The run has no examples: run `fit` with the options `--evaluate DATA \
                 --evaluate-option gather_examples=true`",
            );
            return Ok(());
        }
        if output.is_json() {
            return output.value(&examples);
        }
        let words = |value: &Value| match value {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        for (stage, results) in [("Before", &examples.before), ("After", &examples.after)] {
            for (query, found) in results {
                let query = output::without_controls(query);
                output.line(&format!("{}: {query}", output::bold(stage)))?;
                for (number, found) in found.iter().take(self.matches).enumerate() {
                    let found = output::without_controls(&words(found));
                    output.line(&format!("  {}. {found}", number + 1))?;
                }
            }
        }
        Ok(())
    }
}
