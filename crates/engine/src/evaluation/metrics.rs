//! Retrieval metrics, defined as in docarray 0.21 (`docarray.math.evaluation`),
//! which the Python Finetuner evaluates with.
//!
//! Relevance is binary. Lists are cut at the callback's `limit` before they
//! come here, so every metric looks at the whole list.

use std::collections::BTreeMap;

use super::{at_k::AtK, relevance::Relevance};

/// Values by name, in alphabetical order.
pub type Metrics = BTreeMap<String, f64>;

type Metric = fn(&Relevance) -> f64;

/// All metrics by name. Each is computed per query; the mean is reported.
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
    /// The mean of every metric over some queries; empty without queries.
    #[must_use]
    pub fn mean_metrics(queries: &[Self]) -> Metrics {
        let names = METRICS.iter().map(|(name, _)| *name);
        names
            .filter_map(|name| Some((name.to_owned(), Self::mean_metric(queries, name)?)))
            .collect()
    }

    /// The mean of a metric over some queries, by its name: one of [`METRICS`],
    /// or one of information retrieval at a rank, such as `recall@10`: of
    /// `accuracy`, `map`, `mrr`, `ndcg`, `precision` and `recall`. None without
    /// queries, and for other names.
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

/// The part of the list that is relevant; 0 for an empty list.
fn precision(r: &Relevance) -> f64 {
    ratio(r.count(), r.found.len())
}

/// The part of the relevant documents that is in the list.
fn recall(r: &Relevance) -> f64 {
    ratio(r.count(), r.max_relevant)
}

/// Harmonic mean of precision and recall of this query.
fn f1_score(r: &Relevance) -> f64 {
    let (p, r) = (precision(r), recall(r));
    if p + r > 0.0 {
        2.0 * p * r / (p + r)
    } else {
        0.0
    }
}

/// 1 where anything relevant is in the list.
fn hit(r: &Relevance) -> f64 {
    if r.found.contains(&true) { 1.0 } else { 0.0 }
}

/// Mean of the precisions at each relevant rank. The mean is over the relevant
/// documents in the list, not over all there are.
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

/// One over the rank of the first relevant document; 0 where there is none.
fn reciprocal_rank(r: &Relevance) -> f64 {
    r.found
        .iter()
        .position(|relevant| *relevant)
        .map_or(0.0, |i| 1.0 / (i + 1) as f64)
}

/// Precision within the first `R` documents, `R` being the number of relevant
/// ones in the list.
fn r_precision(r: &Relevance) -> f64 {
    let relevant = r.count();
    let first = r.found.iter().take(relevant).filter(|r| **r).count();
    ratio(first, relevant)
}

/// Discounted cumulative gain: the first document counts whole, the one at
/// rank `i` over `log2(i)`.
fn dcg(r: &Relevance) -> f64 {
    discounted(r.found.iter().copied())
}

/// [`dcg`] over that of the best order of the same list.
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
