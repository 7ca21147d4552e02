//! Whether training did harm: a search that got worse, embeddings that
//! collapsed.

use finetuner_protocol::greater_is_better;

use crate::evaluation::Metrics;

/// Embeddings whose mean cosine similarity is above this tell nothing apart.
const COLLAPSED: f64 = 0.99;

/// The mean cosine similarity over all pairs of embeddings of length `dim`; none
/// where there are fewer than two.
pub(super) fn mean_similarity(values: &[f32], dim: usize) -> Option<f64> {
    // It follows from the sum of the normalised embeddings.
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

/// A warning where embeddings are nearly all alike that were not so before.
pub(super) fn collapse(before: Option<f64>, after: Option<f64>) -> Option<String> {
    let after = after.filter(|after| *after > COLLAPSED)?;
    if before.is_some_and(|before| before > COLLAPSED) {
        return None;
    }
    Some(format!(
        "THE EMBEDDINGS COLLAPSED: the mean cosine similarity of the documents of the index is \
         {after:.4}, so that the model hardly tells them apart. A smaller `learning_rate`, another \
         loss or more varied batches usually help"
    ))
}

/// A warning where the search got worse.
pub(super) fn worse(before: &Metrics, after: &Metrics) -> Option<String> {
    let fell = |(name, after): (&String, &f64)| {
        // A threshold does not say how good a model is.
        let before = before
            .get(name)
            .filter(|_| greater_is_better(name).is_some())?;
        (after < before).then(|| format!("{name} {before:.3} -> {after:.3}"))
    };
    let fallen: Vec<String> = after.iter().filter_map(fell).collect();
    // Metrics disagree where little changed.
    if fallen.is_empty() || fallen.len() * 2 < after.len() {
        return None;
    }
    Some(format!(
        "THE SEARCH GOT WORSE by the training: {}. Fewer `epochs`, a smaller `learning_rate` or \
         `BestModelCheckpoint` may help",
        fallen.join(", ")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn embeddings_collapse_where_all_point_one_way() {
        let spread = [1.0, 0.0, 0.0, 1.0, 1.0, 0.0];
        let alike = [1.0, 0.0, 2.0, 0.001, 1.0, 0.001];
        let of = |values: &[f32]| mean_similarity(values, 2);
        assert_eq!(of(&[1.0, 0.0]), None);
        let mean = (0.0 + 2.0 * f64::sqrt(0.5)) / 3.0;
        assert!((of(&[2.0, 0.0, 0.0, 1.0, 3.0, 3.0]).unwrap() - mean).abs() < 1e-6);
        assert_eq!(collapse(None, of(&spread)), None);
        assert!(collapse(of(&spread), of(&alike)).is_some());
        // The data is alike itself.
        assert_eq!(collapse(of(&alike), of(&alike)), None);
    }

    #[test]
    fn a_search_got_worse_where_most_metrics_fell() {
        let metrics = |values: [f64; 3]| -> Metrics {
            let names = ["hit_at_k", "ndcg_at_k", "recall_at_k"].map(str::to_owned);
            names.into_iter().zip(values).collect()
        };
        let before = metrics([0.5, 0.5, 0.5]);
        assert_eq!(worse(&before, &metrics([0.5, 0.5, 0.5])), None);
        assert_eq!(worse(&before, &metrics([0.6, 0.4, 0.6])), None);
        let text = worse(&before, &metrics([0.6, 0.4, 0.25])).unwrap();
        assert!(
            text.contains("ndcg_at_k 0.500 -> 0.400, recall_at_k 0.500 -> 0.250"),
            "{text}"
        );
        assert_eq!(worse(&Metrics::new(), &before), None);
    }
}
