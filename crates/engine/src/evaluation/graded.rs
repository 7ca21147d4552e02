//! Metrics of scored pairs and triplets.
//!
//! The names are those of sentence-transformers.

use super::{
    Metrics,
    binary::Binary,
    correlation::{pearson, spearman},
    similarity::Similarity,
};

/// Kind of the evaluation data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GradedKind {
    /// Pairs with a score.
    Scored,
    /// Pairs with the score 1 (positive) or 0 (negative).
    Binary,
    /// An anchor, a positive and negatives.
    Triplets,
}

/// Stands for the best of all similarities in a metric's name.
const MAX: &str = "max";

/// Metric names of the fields of [`Binary`].
const BINARY: [&str; 8] = [
    "accuracy",
    "accuracy_threshold",
    "f1",
    "f1_threshold",
    "precision",
    "recall",
    "ap",
    "mcc",
];

const CORRELATIONS: [&str; 2] = ["spearman", "pearson"];

impl GradedKind {
    /// Describes the kind of data, in plural.
    pub(crate) fn describe(self) -> &'static str {
        match self {
            Self::Scored => "pairs with a score",
            Self::Binary => "pairs with the score 1 or 0",
            Self::Triplets => "triplets",
        }
    }

    fn with(self, similarity: &str) -> Vec<String> {
        let correlations = || CORRELATIONS.map(|name| format!("{name}_{similarity}"));
        match self {
            Self::Scored => correlations().to_vec(),
            Self::Binary => {
                let names = BINARY.map(|name| format!("{similarity}_{name}"));
                names.into_iter().chain(correlations()).collect()
            }
            Self::Triplets => vec![format!("{similarity}_accuracy")],
        }
    }

    /// Returns the metrics that are measured by default: those of the cosine.
    pub(crate) fn default_names(self) -> Vec<String> {
        let names = self.with(Similarity::Cosine.name());
        // Correlations mean little if there are only two scores.
        let limit = if self == Self::Binary {
            BINARY.len()
        } else {
            names.len()
        };
        names.into_iter().take(limit).collect()
    }

    /// Returns all metrics of this kind.
    pub(crate) fn names(self) -> Vec<String> {
        let similarities = Similarity::ALL.map(Similarity::name);
        let similarities = similarities.into_iter().chain([MAX]);
        similarities.flat_map(|name| self.with(name)).collect()
    }
}

/// Returns whether a name is a metric of any of these kinds.
pub(crate) fn is_graded(name: &str) -> bool {
    [GradedKind::Binary, GradedKind::Triplets]
        .into_iter()
        .any(|kind| kind.names().iter().any(|known| known == name))
}

/// Embeddings of pairs or triplets, with `dim` values each.
pub(crate) struct GradedSet<'a> {
    pub(crate) kind: GradedKind,
    pub(crate) dim: usize,
    pub(crate) anchors: &'a [f32],
    /// The second member of each pair, or the positive of each triplet.
    pub(crate) matches: &'a [f32],
    /// One list for each negative of the triplets, in the order of the anchors.
    pub(crate) negatives: &'a [Vec<f32>],
    /// Score of each pair.
    pub(crate) scores: &'a [f64],
}

impl GradedSet<'_> {
    /// Computes the metrics in `wanted`.
    pub(crate) fn measure(&self, wanted: &[String]) -> Metrics {
        let mut found = Metrics::new();
        for similarity in Similarity::ALL {
            found.extend(self.of(similarity));
        }
        for name in self.kind.with(MAX) {
            let values = Similarity::ALL.map(|similarity| {
                let own = name.replace(MAX, similarity.name());
                found.get(&own).copied().unwrap_or(f64::NAN)
            });
            found.insert(name, values.into_iter().fold(f64::NEG_INFINITY, f64::max));
        }
        found.retain(|name, _| wanted.contains(name));
        found
    }

    fn of(&self, similarity: Similarity) -> Vec<(String, f64)> {
        let between = |x: &[f32], y: &[f32]| -> Vec<f32> {
            let rows = x.chunks_exact(self.dim).zip(y.chunks_exact(self.dim));
            rows.map(|(x, y)| similarity.between(x, y)).collect()
        };
        let found = between(self.anchors, self.matches);
        let names = self.kind.with(similarity.name());
        let values = match self.kind {
            GradedKind::Triplets => vec![self.accuracy(&found, between)],
            GradedKind::Scored => self.correlations(&found).to_vec(),
            GradedKind::Binary => {
                let labels: Vec<bool> = self.scores.iter().map(|score| *score == 1.0).collect();
                let scores: Vec<f32> = match similarity.is_distance() {
                    true => found.iter().map(|score| -score).collect(),
                    false => found.clone(),
                };
                let b = Binary::of(&scores, &labels, !similarity.is_distance());
                let own = [
                    b.accuracy,
                    b.accuracy_threshold,
                    b.f1,
                    b.f1_threshold,
                    b.precision,
                    b.recall,
                    b.ap,
                    b.mcc,
                ];
                own.into_iter().chain(self.correlations(&found)).collect()
            }
        };
        names.into_iter().zip(values).collect()
    }

    fn correlations(&self, found: &[f32]) -> [f64; 2] {
        let found: Vec<f64> = found.iter().map(|score| f64::from(*score)).collect();
        [spearman(&found, self.scores), pearson(&found, self.scores)]
    }

    /// Returns the share of negatives that are farther than the positive.
    fn accuracy(&self, found: &[f32], between: impl Fn(&[f32], &[f32]) -> Vec<f32>) -> f64 {
        let (mut right, mut all) = (0usize, 0usize);
        for negatives in self.negatives {
            let others = between(self.anchors, negatives);
            let pairs = found.iter().zip(&others);
            right += pairs.filter(|(found, other)| found > other).count();
            all += others.len();
        }
        right as f64 / all.max(1) as f64
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    /// Written by `tests/fixtures/make_pair_metrics.py`.
    #[derive(Deserialize)]
    struct Fixture {
        dim: usize,
        cases: Vec<Case>,
    }

    #[derive(Deserialize)]
    struct Case {
        kind: String,
        labels: Option<Vec<f64>>,
        parts: Vec<Vec<f32>>,
        metrics: Metrics,
    }

    #[test]
    fn metrics_are_those_of_sentence_transformers() {
        let fixture = include_str!("../../tests/fixtures/pair-metrics.json");
        let fixture: Fixture = serde_json::from_str(fixture).unwrap();
        assert_eq!(fixture.cases.len(), 9);
        for case in &fixture.cases {
            let kind = match case.kind.as_str() {
                "scored" => GradedKind::Scored,
                "binary" => GradedKind::Binary,
                _ => GradedKind::Triplets,
            };
            let set = GradedSet {
                kind,
                dim: fixture.dim,
                anchors: &case.parts[0],
                matches: &case.parts[1],
                negatives: &case.parts[2..],
                scores: case.labels.as_deref().unwrap_or_default(),
            };
            let found = set.measure(&kind.names());
            for (name, wanted) in &case.metrics {
                let found = found[name];
                let what = format!("{}: {name} is {found} and {wanted}", case.kind);
                assert!((found - wanted).abs() < 1e-6, "{what}");
            }
            let least = if kind == GradedKind::Binary {
                10 * 4
            } else {
                case.metrics.len()
            };
            assert!(found.len() >= least);
            let own = set.measure(&kind.default_names());
            assert_eq!(own.len(), kind.default_names().len());
        }
    }

    #[test]
    fn graded_metrics_are_recognised_by_name() {
        for name in [
            "spearman_dot",
            "cosine_accuracy",
            "max_ap",
            "pearson_max",
            "max_accuracy",
        ] {
            assert!(is_graded(name), "{name}");
        }
        for name in [
            "recall@10",
            "recall_at_k",
            "cosine",
            "spearman",
            "cosine_precision_at_k",
        ] {
            assert!(!is_graded(name), "{name}");
        }
        assert_eq!(
            GradedKind::Scored.default_names(),
            ["spearman_cosine", "pearson_cosine"]
        );
        assert_eq!(GradedKind::Triplets.default_names(), ["cosine_accuracy"]);
        assert_eq!(GradedKind::Binary.default_names().len(), 8);
    }
}
