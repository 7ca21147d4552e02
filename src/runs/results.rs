//! Results of an evaluation, as data and as printable tables.

use std::{collections::BTreeMap, fmt};

use finetuner_protocol::{ExamplesInfo, MetricsInfo};
use reqwest::Method;
use serde_json::Value;

use super::{
    run::Run,
    table::{Align, Table},
};
use crate::error::Result;

impl Run {
    /// Returns the retrieval metrics before and after training.
    ///
    /// They come from the run's [`EvaluationCallback`](crate::EvaluationCallback).
    ///
    /// ```no_run
    /// # async fn example(run: finetuner::Run) -> finetuner::Result<()> {
    /// let metrics = run.metrics().await?;
    /// if let Some(recall) = metrics.after.get("recall_at_k") {
    ///     println!("recall@k: {recall:.3}");
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// The same as for [`Run::artifact_id`].
    pub async fn metrics(&self) -> Result<MetricsInfo> {
        self.check_finished("get the metrics").await?;
        let route = "experiments/{experiment}/runs/{run}/metrics";
        self.transport.json(self.call(Method::GET, route)).await
    }

    /// Returns [`Run::metrics`] as printable tables.
    ///
    /// # Errors
    /// The same as for [`Run::artifact_id`].
    pub async fn display_metrics(&self) -> Result<MetricsTable> {
        self.metrics().await.map(MetricsTable)
    }

    /// Returns the results of example queries before and after training.
    ///
    /// They exist if an [`EvaluationCallback`](crate::EvaluationCallback) gathers
    /// examples.
    ///
    /// ```no_run
    /// # async fn example(run: finetuner::Run) -> finetuner::Result<()> {
    /// for (query, matches) in run.example_results().await?.after {
    ///     println!("{query}: {matches:?}");
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// The same as for [`Run::artifact_id`].
    pub async fn example_results(&self) -> Result<ExamplesInfo> {
        self.check_finished("get the example results").await?;
        let route = "experiments/{experiment}/runs/{run}/examples";
        self.transport.json(self.call(Method::GET, route)).await
    }

    /// Returns [`Run::example_results`] as printable tables.
    ///
    /// They have at most `k` matches per query.
    ///
    /// # Errors
    /// The same as for [`Run::artifact_id`].
    pub async fn display_examples(&self, k: u64) -> Result<ExamplesTable> {
        let examples = self.example_results().await?;
        Ok(ExamplesTable { examples, k })
    }
}

/// Retrieval metrics before and after training, printable as two tables.
///
/// [`Run::display_metrics`](crate::Run::display_metrics) returns them.
///
/// ```no_run
/// # async fn example(run: finetuner::Run) -> finetuner::Result<()> {
/// println!("{}", run.display_metrics().await?);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct MetricsTable(pub(crate) MetricsInfo);

/// Results of example queries before and after training, printable as two tables.
///
/// [`Run::display_examples`](crate::Run::display_examples) returns them.
///
/// ```no_run
/// # async fn example(run: finetuner::Run) -> finetuner::Result<()> {
/// println!("{}", run.display_examples(3).await?);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct ExamplesTable {
    pub(crate) examples: ExamplesInfo,
    pub(crate) k: u64,
}

impl From<MetricsInfo> for MetricsTable {
    fn from(metrics: MetricsInfo) -> Self {
        Self(metrics)
    }
}

impl ExamplesTable {
    /// Creates the table of these examples with at most `k` matches per query.
    ///
    /// ```
    /// use finetuner::{ExamplesInfo, ExamplesTable};
    ///
    /// let table = ExamplesTable::new(ExamplesInfo::default(), 3);
    /// assert!(table.to_string().contains("after fine-tuning"));
    /// ```
    #[must_use]
    pub fn new(examples: ExamplesInfo, k: u64) -> Self {
        Self { examples, k }
    }
}

impl fmt::Display for MetricsTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let table = |stage: &str, metrics: &BTreeMap<String, f64>| Table {
            title: format!("Retrieval metrics {stage} fine-tuning:"),
            title_centred: false,
            header: Some(vec!["Retrieval Metric".to_owned(), "Value".to_owned()]),
            rows: metrics
                .iter()
                .map(|(name, value)| vec![name.clone(), format!("{value}")])
                .collect(),
            align: Align::Left,
        };
        writeln!(f, "{}", table("before", &self.0.before))?;
        table("after", &self.0.after).fmt(f)
    }
}

impl fmt::Display for ExamplesTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let table = |stage: &str, results: &BTreeMap<String, Vec<Value>>| Table {
            title: format!("Results {stage} fine-tuning:"),
            title_centred: false,
            header: None,
            rows: results
                .iter()
                .flat_map(|(query, matches)| {
                    let query = vec!["Query".to_owned(), query.clone()];
                    let matches = matches
                        .iter()
                        .take(usize::try_from(self.k).unwrap_or(usize::MAX))
                        .enumerate();
                    let matches =
                        matches.map(|(i, found)| vec![format!("Match {}", i + 1), words(found)]);
                    std::iter::once(query).chain(matches)
                })
                .collect(),
            align: Align::Left,
        };
        writeln!(f, "{}", table("before", &self.examples.before))?;
        table("after", &self.examples.after).fmt(f)
    }
}

fn words(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_metrics_table_shows_values_before_and_after() {
        let metrics = |value| BTreeMap::from([("hit_at_k".to_owned(), value)]);
        let table = MetricsTable(MetricsInfo::new(metrics(0.25), metrics(0.5)));
        let expected = "\
Retrieval metrics before fine-tuning:
┏━━━━━━━━━━━━━━━━━━┳━━━━━━━┓
┃ Retrieval Metric ┃ Value ┃
┡━━━━━━━━━━━━━━━━━━╇━━━━━━━┩
│ hit_at_k         │ 0.25  │
└──────────────────┴───────┘
Retrieval metrics after fine-tuning:
┏━━━━━━━━━━━━━━━━━━┳━━━━━━━┓
┃ Retrieval Metric ┃ Value ┃
┡━━━━━━━━━━━━━━━━━━╇━━━━━━━┩
│ hit_at_k         │ 0.5   │
└──────────────────┴───────┘";
        assert_eq!(table.to_string(), expected);
        let found = |n: usize| vec![Value::from("shoe"); n];
        let examples = |n| BTreeMap::from([("red shoe".to_owned(), found(n))]);
        let examples = ExamplesInfo::new(examples(1), examples(9));
        let table = ExamplesTable::new(examples, 2);
        let text = table.to_string();
        assert!(text.contains("│ Query   │ red shoe │"), "{text}");
        assert_eq!(text.matches("Match 2").count(), 1);
        assert!(!text.contains("Match 3"));
    }

    #[test]
    fn control_characters_are_escaped_in_tables() {
        let found = vec![Value::from("two\r\nlines\t\u{1b}[2J")];
        let examples = BTreeMap::from([("a\nb".to_owned(), found)]);
        let examples = ExamplesInfo::new(BTreeMap::new(), examples);
        let text = ExamplesTable::new(examples, 1).to_string();
        let (_, after) = text.split_once("Results after").unwrap();
        let expected = r"
┌─────────┬─────────────────────────┐
│ Query   │ a\nb                    │
│ Match 1 │ two\r\nlines\t\u{1b}[2J │
└─────────┴─────────────────────────┘";
        assert!(after.ends_with(expected), "{after}");
        let widths: Vec<usize> = after.lines().skip(1).map(|l| l.chars().count()).collect();
        assert!(widths.windows(2).all(|pair| pair[0] == pair[1]), "{after}");
    }
}
