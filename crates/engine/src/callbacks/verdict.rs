//! Detects harm by training: lower retrieval metrics, and collapsed embeddings.

use crate::evaluation::{Metrics, declined};

/// Mean cosine similarity above which embeddings count as collapsed.
const COLLAPSED: f64 = 0.99;

/// Returns the mean cosine similarity over all pairs of embeddings.
///
/// An embedding has `dim` values. Returns `None` if there are fewer than two.
pub(super) fn mean_similarity(values: &[f32], dim: usize) -> Option<f64> {
    // Computed from the squared length of the sum of the normalised embeddings.
    let mut sum = vec![0.0; dim];
    let mut count = 0.0;
    for row in values.chunks_exact(dim.max(1)) {
        let length = row.iter().map(|x| f64::from(x * x)).sum::<f64>().sqrt();
        if length > 0.0 {
            count += 1.0;
            for (sum, x) in sum.iter_mut().zip(row) {
                *sum += f64::from(*x) / length;
            }
        }
    }
    let square: f64 = sum.iter().map(|x| x * x).sum();
    (count > 1.0).then(|| (square - count) / (count * (count - 1.0)))
}

/// Returns a warning if the embeddings collapsed during training.
pub(super) fn collapse(before: Option<f64>, after: Option<f64>) -> Option<String> {
    let after = after.filter(|after| *after > COLLAPSED)?;
    if before.is_some_and(|before| before > COLLAPSED) {
        return None;
    }
    Some(format!(
        "THE EMBEDDINGS COLLAPSED: the mean cosine similarity of the documents of the index is \
         {after:.4}: the model hardly distinguishes them. A smaller `learning_rate`, another \
         loss or more varied batches usually help"
    ))
}

/// Returns a warning if at least half of the metrics fell, of those that measure quality
/// and were measured before the training too.
pub(super) fn decline_warning(before: &Metrics, after: &Metrics) -> Option<String> {
    let fallen = declined(before, after);
    if fallen.is_empty() {
        return None;
    }
    let fallen = fallen.iter();
    let fallen: Vec<String> = fallen
        .map(|(name, before, after)| format!("{name} {before:.3} -> {after:.3}"))
        .collect();
    Some(format!(
        "THE SEARCH GOT WORSE during training: {}. Fewer `epochs`, a smaller `learning_rate` or \
         `BestModelCheckpoint` may help",
        fallen.join(", ")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn similar_embeddings_count_as_collapsed() {
        let spread = [1.0, 0.0, 0.0, 1.0, 1.0, 0.0];
        let alike = [1.0, 0.0, 2.0, 0.001, 1.0, 0.001];
        let of = |values: &[f32]| mean_similarity(values, 2);
        assert_eq!(of(&[1.0, 0.0]), None);
        let mean = (0.0 + 2.0 * f64::sqrt(0.5)) / 3.0;
        assert!((of(&[2.0, 0.0, 0.0, 1.0, 3.0, 3.0]).unwrap() - mean).abs() < 1e-6);
        assert_eq!(collapse(None, of(&spread)), None);
        assert!(collapse(of(&spread), of(&alike)).is_some());
        // No warning if the embeddings were as similar before training.
        assert_eq!(collapse(of(&alike), of(&alike)), None);
    }

    #[test]
    fn a_search_is_worse_if_most_metrics_fell() {
        let metrics = |values: [f64; 3]| -> Metrics {
            let names = ["hit_at_k", "ndcg_at_k", "recall_at_k"].map(str::to_owned);
            names.into_iter().zip(values).collect()
        };
        let before = metrics([0.5, 0.5, 0.5]);
        assert_eq!(decline_warning(&before, &metrics([0.5, 0.5, 0.5])), None);
        assert_eq!(decline_warning(&before, &metrics([0.6, 0.4, 0.6])), None);
        let text = decline_warning(&before, &metrics([0.6, 0.4, 0.25])).unwrap();
        assert!(
            text.contains("ndcg_at_k 0.500 -> 0.400, recall_at_k 0.500 -> 0.250"),
            "{text}"
        );
        assert_eq!(decline_warning(&Metrics::new(), &before), None);
        // Thresholds and new metrics do not outvote quality.
        let with = |ap: f64, f1: f64| -> Metrics {
            let named = [
                ("ap", ap),
                ("f1", f1),
                ("f1_threshold", 0.5),
                ("accuracy_threshold", 0.5),
            ];
            named.map(|(name, value)| (name.to_owned(), value)).into()
        };
        let mut after = with(0.6, 0.4);
        after.insert("recall_at_k".to_owned(), 0.5);
        let text = decline_warning(&with(0.5, 0.5), &after).unwrap();
        assert!(text.contains("f1 0.500 -> 0.400"), "{text}");
    }
}
