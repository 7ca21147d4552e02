//! Retrieval metrics as defined in docarray 0.21 (`docarray.math.evaluation`).
//!
//! The Python Finetuner evaluates with these. Relevance is binary. Result lists are
//! already cut to the callback's `limit`, so every metric uses the whole list.

use std::collections::BTreeMap;

use super::{at_k::AtK, relevance::Relevance};

/// Metric values by name, in alphabetical order.
pub type Metrics = BTreeMap<String, f64>;

type Metric = fn(&Relevance) -> f64;

/// All metrics by name. Each is computed per query and averaged.
pub const METRICS: [(&str, Metric); 9] = [
    ("average_precision", average_precision),
    ("dcg_at_k", dcg),
    ("f1_score_at_k", f1_score),
    ("hit_at_k", hit),
    ("ndcg_at_k", ndcg),
    ("precision_at_k", precision),
    ("r_precision", r_precision),
    ("recall_at_k", recall),
    ("reciprocal_rank", reciprocal_rank),
];

impl Relevance {
    /// Returns the mean of every metric over the queries; empty without queries.
    #[must_use]
    pub fn mean_metrics(queries: &[Self]) -> Metrics {
        let names = METRICS.iter().map(|(name, _)| *name);
        names
            .filter_map(|name| Some((name.to_owned(), Self::mean_metric(queries, name)?)))
            .collect()
    }

    /// Returns the mean of one metric over the queries.
    ///
    /// `name` is one of [`METRICS`], or `accuracy`, `map`, `mrr`, `ndcg`, `precision`
    /// or `recall` at a rank, such as `recall@10`. Returns `None` without queries and
    /// for other names.
    #[must_use]
    pub fn mean_metric(queries: &[Self], name: &str) -> Option<f64> {
        if queries.is_empty() {
            return None;
        }
        if let Some(metric) = AtK::parse(name) {
            return Some(metric.mean(queries));
        }
        let (_, metric) = METRICS.iter().find(|(known, _)| *known == name)?;
        let sum: f64 = queries.iter().map(metric).sum();
        Some(sum / queries.len() as f64)
    }
}

/// Returns the share of results that are relevant; 0 for an empty list.
fn precision(r: &Relevance) -> f64 {
    ratio(r.count(), r.found.len())
}

/// Returns the share of relevant documents that were found.
fn recall(r: &Relevance) -> f64 {
    ratio(r.count(), r.max_relevant)
}

/// Returns the harmonic mean of the query's precision and recall.
fn f1_score(r: &Relevance) -> f64 {
    let (p, r) = (precision(r), recall(r));
    if p + r > 0.0 {
        2.0 * p * r / (p + r)
    } else {
        0.0
    }
}

/// Returns 1 if a result is relevant.
fn hit(r: &Relevance) -> f64 {
    if r.found.contains(&true) { 1.0 } else { 0.0 }
}

/// Returns the mean precision at the ranks of relevant results.
///
/// Relevant documents that were not found do not count.
fn average_precision(r: &Relevance) -> f64 {
    let mut seen = 0;
    let mut sum = 0.0;
    for (i, relevant) in r.found.iter().enumerate() {
        if *relevant {
            seen += 1;
            sum += f64::from(seen) / (i + 1) as f64;
        }
    }
    if seen == 0 {
        0.0
    } else {
        sum / f64::from(seen)
    }
}

/// Returns the reciprocal rank of the first relevant result; 0 if there is none.
fn reciprocal_rank(r: &Relevance) -> f64 {
    r.found
        .iter()
        .position(|relevant| *relevant)
        .map_or(0.0, |i| 1.0 / (i + 1) as f64)
}

/// Returns the precision of the first `R` results.
///
/// `R` is the number of relevant results.
fn r_precision(r: &Relevance) -> f64 {
    let relevant = r.count();
    let first = r.found.iter().take(relevant).filter(|r| **r).count();
    ratio(first, relevant)
}

/// Returns the discounted cumulative gain.
///
/// The discount is 1 at the first rank and `log2(i)` at rank `i`.
fn dcg(r: &Relevance) -> f64 {
    discounted(r.found.iter().copied())
}

/// Returns [`dcg`] divided by that of the ideal order of the same results.
fn ndcg(r: &Relevance) -> f64 {
    let count = r.count();
    let best = discounted((0..r.found.len()).map(|i| i < count));
    if best > 0.0 { dcg(r) / best } else { 0.0 }
}

fn discounted(relevant: impl Iterator<Item = bool>) -> f64 {
    relevant
        .enumerate()
        .filter(|(_, relevant)| *relevant)
        .map(|(i, _)| {
            if i == 0 {
                1.0
            } else {
                1.0 / ((i + 1) as f64).log2()
            }
        })
        .sum()
}

fn ratio(part: usize, whole: usize) -> f64 {
    if whole == 0 {
        0.0
    } else {
        part as f64 / whole as f64
    }
}
