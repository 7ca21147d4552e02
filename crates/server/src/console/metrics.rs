//! Metrics for display: complete names, the headline metric, and the changes by
//! the training.

use std::collections::BTreeMap;

use finetuner_engine::evaluation::declined;
use finetuner_protocol::{MetricsInfo, greater_is_better};
use maud::{Markup, html};
use serde::Deserialize;

use super::words::{number, visible};
use crate::database::RunRow;

/// docarray's retrieval metrics. They evaluate the first `limit` results of a
/// query, which their names omit.
const CUTOFF_METRICS: [&str; 9] = [
    "average_precision",
    "dcg_at_k",
    "f1_score_at_k",
    "hit_at_k",
    "ndcg_at_k",
    "precision_at_k",
    "r_precision",
    "recall_at_k",
    "reciprocal_rank",
];
/// Default `limit` of an evaluation.
const DEFAULT_LIMIT: u64 = 20;

/// Headline metrics by priority: a page shows the first one that exists.
const HEADLINES: [&str; 16] = [
    "recall_at_",
    "recall@",
    "ndcg_at_",
    "ndcg@",
    "mrr",
    "map",
    "reciprocal_rank",
    "average_precision",
    "accuracy@",
    "hit_at_",
    "precision",
    "spearman_cosine",
    "cosine_accuracy",
    "cosine_ap",
    "accuracy",
    "f1",
];

/// The part of a configuration that determines the names of metrics.
#[derive(Deserialize)]
struct Evaluations {
    #[serde(default)]
    callbacks: Vec<Callback>,
}

#[derive(Deserialize)]
struct Callback {
    #[serde(default)]
    name: String,
    #[serde(default)]
    options: Option<Options>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Options {
    limit: Option<u64>,
    caption: Option<String>,
}

/// Returns the metrics of a run under their display names.
pub(super) fn of(run: &RunRow) -> MetricsInfo {
    named(&run.metrics, &run.config)
}

/// Like [`of`], from the JSON of metrics and configuration.
pub(super) fn named(metrics: &str, config: &str) -> MetricsInfo {
    let metrics: MetricsInfo = serde_json::from_str(metrics).unwrap_or_default();
    if metrics.before.is_empty() && metrics.after.is_empty() {
        return metrics;
    }
    let evaluations = evaluations(config);
    let named = |values: BTreeMap<String, f64>| {
        let named = values.into_iter();
        named
            .map(|(name, value)| (with_k(&name, &evaluations), value))
            .collect()
    };
    MetricsInfo::new(named(metrics.before), named(metrics.after))
}

/// Returns the display name of a metric of a run with this configuration.
pub(super) fn name_of(metric: &str, config: &str) -> String {
    with_k(metric, &evaluations(config))
}

/// Returns captions and limits of a configuration's evaluations.
fn evaluations(config: &str) -> Vec<(String, u64)> {
    let read = serde_json::from_str::<Evaluations>(config);
    let callbacks = read.map(|read| read.callbacks).unwrap_or_default();
    let own = callbacks
        .into_iter()
        .filter(|callback| callback.name.ends_with("EvaluationCallback"));
    own.map(|callback| {
        let options = callback.options.unwrap_or_default();
        let caption = options.caption.map(|caption| format!("{caption}_"));
        (
            caption.unwrap_or_default(),
            options.limit.unwrap_or(DEFAULT_LIMIT),
        )
    })
    .collect()
}

/// Replaces `k` by the limit: `recall_at_k` with limit 20 becomes `recall_at_20`.
/// `recall@20` is a different metric, which counts all relevant documents.
fn with_k(name: &str, evaluations: &[(String, u64)]) -> String {
    let Some(cut) = CUTOFF_METRICS.iter().find(|cut| name.ends_with(*cut)) else {
        return name.to_owned();
    };
    let own = evaluations
        .iter()
        .filter(|(caption, _)| name.starts_with(caption.as_str()))
        .max_by_key(|(caption, _)| caption.len());
    let limit = own.map_or(DEFAULT_LIMIT, |(_, limit)| *limit);
    match cut.ends_with("_at_k") {
        true => format!("{}{limit}", name.trim_end_matches('k')),
        false => format!("{name}_at_{limit}"),
    }
}

/// Values of a metric before and after the training.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Change {
    pub(super) name: String,
    pub(super) before: Option<f64>,
    pub(super) after: Option<f64>,
}

impl Change {
    /// Returns the difference, and whether it is an improvement (`None` if
    /// unknown).
    pub(super) fn difference(&self) -> Option<(f64, Option<bool>)> {
        let difference = self.after? - self.before?;
        let better = greater_is_better(&self.name)
            .filter(|_| difference != 0.0)
            .map(|greater| (difference > 0.0) == greater);
        Some((difference, better))
    }
}

/// Returns all metrics of a run, the headline metric first.
pub(super) fn changes(metrics: &MetricsInfo) -> Vec<Change> {
    let mut names: Vec<&String> = metrics.before.keys().chain(metrics.after.keys()).collect();
    names.sort();
    names.dedup();
    let changes = names.into_iter().map(|name| Change {
        name: name.clone(),
        before: metrics.before.get(name).copied(),
        after: metrics.after.get(name).copied(),
    });
    let mut changes: Vec<Change> = changes.collect();
    changes.sort_by_key(|change| rank(&change.name));
    changes
}

/// Returns the priority of a metric as headline; lower is better.
fn rank(name: &str) -> usize {
    let found = HEADLINES.iter().position(|part| name.contains(part));
    match found {
        // Metrics without a better direction, such as thresholds, come last.
        _ if greater_is_better(name).is_none() => HEADLINES.len() + 1,
        found => found.unwrap_or(HEADLINES.len()),
    }
}

/// Returns the headline metric.
pub(super) fn headline(metrics: &MetricsInfo) -> Option<Change> {
    changes(metrics).into_iter().next()
}

/// Returns whether at least half of the metrics got worse, of those that measure quality
/// and were measured before the training too. The engine warns about it in the log.
pub(super) fn got_worse(metrics: &MetricsInfo) -> bool {
    !declined(&metrics.before, &metrics.after).is_empty()
}

/// Renders the change of a metric, coloured by direction.
pub(super) fn change(change: &Change) -> Markup {
    let Some((difference, better)) = change.difference() else {
        return html! {};
    };
    let class = match better {
        Some(true) => "better",
        Some(false) => "worse",
        None => "same",
    };
    html! { span class={ "change " (class) } { (signed(difference)) } }
}

/// Formats a number with a sign. The minus is U+2212, as wide as the plus.
fn signed(value: f64) -> String {
    match number(value) {
        text if text == "0" => "±0".to_owned(),
        text => match text.strip_prefix('-') {
            Some(rest) => format!("−{rest}"),
            None => format!("+{text}"),
        },
    }
}

/// Formats a value; empty if there is none.
pub(super) fn value(value: Option<f64>) -> String {
    value.map_or(String::new(), number)
}

/// Renders all metrics of a run.
pub(super) fn table(metrics: &MetricsInfo) -> Markup {
    html! { div .scroll tabindex="0" role="region" aria-label="Table of metrics" { table .metrics {
        thead { tr {
            th scope="col" { "Metric" } th scope="col" .number { "Before" }
            th scope="col" .number { "After" } th scope="col" .number { "Change" }
        } }
        tbody { @for one in changes(metrics) { tr {
            th scope="row" { (visible(&one.name)) }
            td .number { (value(one.before)) }
            td .number { (value(one.after)) }
            td .number { (change(&one)) }
        } } }
    } } }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str = r#"{"callbacks": [
        {"name": "EvaluationCallback", "options": {"limit": 8}},
        {"name": "EvaluationCallback", "options": {"caption": "dev"}},
        {"name": "BestModelCheckpoint"}]}"#;

    #[test]
    fn metrics_over_different_numbers_of_documents_have_different_names() {
        for (name, shown) in [
            ("recall_at_k", "recall_at_8"),
            ("average_precision", "average_precision_at_8"),
            ("dev_recall_at_k", "dev_recall_at_20"),
            ("recall@10", "recall@10"),
            ("cosine_ap", "cosine_ap"),
        ] {
            assert_eq!(name_of(name, CONFIG), shown);
        }
        assert_eq!(name_of("recall_at_k", "null"), "recall_at_20");
        let metrics = named(r#"{"after": {"hit_at_k": 0.5}}"#, CONFIG);
        assert_eq!(metrics.after["hit_at_8"], 0.5);
    }

    fn metrics(values: &[(&str, f64, f64)]) -> MetricsInfo {
        let map = |value: fn(&(&str, f64, f64)) -> f64| {
            let named = values.iter();
            named.map(|one| (one.0.to_owned(), value(one))).collect()
        };
        MetricsInfo::new(map(|one| one.1), map(|one| one.2))
    }

    #[test]
    fn recall_is_the_headline_metric() {
        let all = metrics(&[
            ("average_precision_at_20", 0.1, 0.2),
            ("cosine_ap_threshold", 0.1, 0.2),
            ("recall_at_20", 0.3, 0.5),
        ]);
        let first = headline(&all).unwrap();
        assert_eq!(first.name, "recall_at_20");
        let (difference, better) = first.difference().unwrap();
        assert!((difference - 0.2).abs() < 1e-12 && better == Some(true));
        assert_eq!(headline(&MetricsInfo::default()), None);
        assert_eq!(changes(&all)[2].name, "cosine_ap_threshold");
    }

    #[test]
    fn a_run_is_worse_if_half_of_its_metrics_fell() {
        assert!(got_worse(&metrics(&[("a", 0.5, 0.4), ("b", 0.5, 0.6)])));
        assert!(!got_worse(&metrics(&[
            ("a", 0.5, 0.4),
            ("b", 0.5, 0.6),
            ("c", 0.5, 0.6)
        ])));
        assert!(!got_worse(&metrics(&[("a", 0.5, 0.5)])));
        // A lower loss is better.
        assert!(!got_worse(&metrics(&[("val_loss", 0.5, 0.4)])));
        assert!(!got_worse(&MetricsInfo::default()));
        // Thresholds, and metrics that were not measured before, are not judged.
        let mut judged = metrics(&[
            ("f1", 0.5, 0.4),
            ("ap", 0.5, 0.6),
            ("f1_threshold", 0.5, 0.6),
            ("accuracy_threshold", 0.5, 0.6),
        ]);
        judged.after.insert("recall@1".to_owned(), 0.5);
        assert!(got_worse(&judged));
        assert!(!got_worse(&metrics(&[("f1_threshold", 0.5, 0.4)])));
    }

    #[test]
    fn changes_have_a_sign() {
        assert_eq!(signed(0.25), "+0.25");
        assert_eq!(signed(-0.25), "−0.25");
        assert_eq!(signed(0.00001), "+1.0e-5");
        assert_eq!(signed(0.0), "±0");
    }
}
