//! Information retrieval metrics at a rank, such as `recall@10`.
//!
//! They are defined as in `InformationRetrievalEvaluator` of sentence-transformers.
//! Unlike docarray's metrics, they count all relevant documents of the index, found or
//! not.

use super::relevance::Relevance;

type Metric = fn(&Relevance, usize) -> f64;

/// Metrics by the part of their name before `@`.
const METRICS: [(&str, Metric); 6] = [
    ("accuracy", accuracy),
    ("map", average_precision),
    ("mrr", reciprocal_rank),
    ("ndcg", ndcg),
    ("precision", precision),
    ("recall", recall),
];

/// A metric at a rank.
#[derive(Clone, Copy)]
pub(crate) struct AtK {
    /// Rank up to which results count, at least 1.
    pub(crate) k: usize,
    metric: Metric,
}

impl AtK {
    /// Reads a name such as `recall@10`.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        let (name, k) = name.split_once('@')?;
        let metric = METRICS.iter().find(|(known, _)| *known == name)?.1;
        let k = k.parse().ok().filter(|k| *k > 0)?;
        Some(Self { k, metric })
    }

    /// Returns all names, with `k` in place of the rank.
    pub(crate) fn known() -> impl Iterator<Item = String> {
        METRICS.iter().map(|(name, _)| format!("{name}@k"))
    }

    /// Returns the mean over the queries with relevant documents; 0 if there are none.
    pub(crate) fn mean(self, queries: &[Relevance]) -> f64 {
        let asked = queries.iter().filter(|query| query.max_relevant > 0);
        let values: Vec<f64> = asked.map(|query| (self.metric)(query, self.k)).collect();
        values.iter().sum::<f64>() / values.len().max(1) as f64
    }
}

/// Returns the ranks of the relevant documents among the first `k`, from 1.
fn ranks(r: &Relevance, k: usize) -> impl Iterator<Item = usize> {
    let first = r.found.iter().take(k).enumerate();
    first.filter_map(|(i, relevant)| relevant.then_some(i + 1))
}

/// Returns 1 if a relevant document is among the first `k`.
fn accuracy(r: &Relevance, k: usize) -> f64 {
    ranks(r, k).next().map_or(0.0, |_| 1.0)
}

fn precision(r: &Relevance, k: usize) -> f64 {
    ranks(r, k).count() as f64 / k as f64
}

fn recall(r: &Relevance, k: usize) -> f64 {
    ranks(r, k).count() as f64 / r.max_relevant as f64
}

fn reciprocal_rank(r: &Relevance, k: usize) -> f64 {
    ranks(r, k).next().map_or(0.0, |rank| 1.0 / rank as f64)
}

/// Returns the average precision among the first `k`.
///
/// This is the sum of the precisions at relevant ranks, divided by the largest possible
/// number of relevant documents in the first `k`.
fn average_precision(r: &Relevance, k: usize) -> f64 {
    let precisions = ranks(r, k)
        .zip(1..)
        .map(|(rank, n)| f64::from(n) / rank as f64);
    precisions.sum::<f64>() / k.min(r.max_relevant) as f64
}

/// Returns the normalised discounted cumulative gain.
///
/// The discount is `log2(rank + 1)`, and the divisor is the gain of the ideal order.
fn ndcg(r: &Relevance, k: usize) -> f64 {
    let gain = |rank: usize| 1.0 / ((rank + 1) as f64).log2();
    let best: f64 = (1..=k.min(r.max_relevant)).map(gain).sum();
    ranks(r, k).map(gain).sum::<f64>() / best
}
