//! What an evaluation found, as tables to print.

use std::{collections::BTreeMap, fmt};

use finetuner_protocol::{ExamplesInfo, MetricsInfo};
use serde_json::Value;

use crate::table::{Align, Table};

/// Retrieval metrics before and after the training; prints as two tables. From
/// [`Run::display_metrics`](crate::Run::display_metrics).
///
/// ```no_run
/// # async fn example(run: finetuner::Run) -> finetuner::Result<()> {
/// println!("{}", run.display_metrics().await?);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct MetricsTable(pub(crate) MetricsInfo);

/// What example queries found before and after the training; prints as two
/// tables. From [`Run::display_examples`](crate::Run::display_examples).
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
    pub(crate) k: usize,
}

impl From<MetricsInfo> for MetricsTable {
    fn from(metrics: MetricsInfo) -> Self {
        Self(metrics)
    }
}

impl ExamplesTable {
    /// The table of these examples, with `k` matches of each query.
    ///
    /// ```
    /// use finetuner::{ExamplesInfo, ExamplesTable};
    ///
    /// let table = ExamplesTable::new(ExamplesInfo::default(), 3);
    /// assert!(table.to_string().contains("after fine-tuning"));
    /// ```
    #[must_use]
    pub fn new(examples: ExamplesInfo, k: usize) -> Self {
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
                    let matches = matches.iter().take(self.k).enumerate();
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
    fn tables_show_both_stages() {
        let metrics = |value| BTreeMap::from([("hit_at_k".to_owned(), value)]);
        let table = MetricsTable(MetricsInfo {
            before: metrics(0.25),
            after: metrics(0.5),
        });
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
        let table = ExamplesTable {
            examples: ExamplesInfo {
                before: examples(1),
                after: examples(9),
            },
            k: 2,
        };
        let text = table.to_string();
        assert!(text.contains("│ Query   │ red shoe │"), "{text}");
        assert_eq!(text.matches("Match 2").count(), 1);
        assert!(!text.contains("Match 3"));
    }
}
