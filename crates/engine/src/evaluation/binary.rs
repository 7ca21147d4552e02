//! Binary classification of pairs by a score.
//!
//! The metrics are defined as in `BinaryClassificationEvaluator` of
//! sentence-transformers.

/// Metrics of a score as a classifier of positive and negative pairs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Binary {
    /// Share of pairs that the best threshold classifies correctly.
    pub(crate) accuracy: f64,
    pub(crate) accuracy_threshold: f64,
    /// Best F1, with its precision and recall.
    pub(crate) f1: f64,
    pub(crate) f1_threshold: f64,
    pub(crate) precision: f64,
    pub(crate) recall: f64,
    /// Average precision.
    pub(crate) ap: f64,
    /// Matthews correlation coefficient at the threshold of the best F1.
    pub(crate) mcc: f64,
}

/// Scores and labels, sorted from best to worst. A small distance is a good score.
struct Sorted {
    rows: Vec<(f32, bool)>,
    greater_is_better: bool,
    positives: usize,
}

impl Binary {
    /// Computes the metrics from scores and labels.
    pub(crate) fn of(scores: &[f32], labels: &[bool], greater_is_better: bool) -> Self {
        let mut rows: Vec<(f32, bool)> =
            scores.iter().copied().zip(labels.iter().copied()).collect();
        rows.sort_by(|a, b| match greater_is_better {
            true => b.0.total_cmp(&a.0),
            false => a.0.total_cmp(&b.0),
        });
        let sorted = Sorted {
            positives: rows.iter().filter(|(_, label)| *label).count(),
            rows,
            greater_is_better,
        };
        let (accuracy, accuracy_threshold) = sorted.best_accuracy();
        let (f1, precision, recall, f1_threshold) = sorted.best_f1();
        Self {
            accuracy,
            accuracy_threshold: f64::from(accuracy_threshold),
            f1,
            f1_threshold: f64::from(f1_threshold),
            precision,
            recall,
            ap: sorted.average_precision(),
            mcc: sorted.matthews(f1_threshold),
        }
    }
}

impl Sorted {
    /// Calls `each` after each distinct score.
    ///
    /// The arguments are the numbers of rows and of positives up to it, and a threshold
    /// that separates them from the rest.
    fn for_each_cut(&self, mut each: impl FnMut(usize, usize, f32)) {
        let mut positives = 0;
        for (i, (score, label)) in self.rows.iter().enumerate() {
            positives += usize::from(*label);
            let threshold = match self.rows.get(i + 1) {
                Some((next, _)) if next == score => continue,
                Some((next, _)) => {
                    let middle = (score + next) / 2.0;
                    if middle == *next { *score } else { middle }
                }
                None => *score,
            };
            each(i + 1, positives, threshold);
        }
    }

    fn best_accuracy(&self) -> (f64, f32) {
        let count = self.rows.len();
        let negatives = count - self.positives;
        let Some((first, _)) = self.rows.first() else {
            return (0.0, -1.0);
        };
        // Start with a threshold that classifies all pairs as negative.
        let beyond = match self.greater_is_better {
            true => first.next_up(),
            false => first.next_down(),
        };
        let mut best = (negatives as f64 / count as f64, beyond);
        self.for_each_cut(|rows, positives, threshold| {
            let right = positives + negatives - (rows - positives);
            let accuracy = right as f64 / count as f64;
            if accuracy > best.0 {
                best = (accuracy, threshold);
            }
        });
        best
    }

    fn best_f1(&self) -> (f64, f64, f64, f32) {
        let mut best = (0.0, 0.0, 0.0, 0.0);
        self.for_each_cut(|rows, positives, threshold| {
            if positives == 0 {
                return;
            }
            let precision = positives as f64 / rows as f64;
            let recall = positives as f64 / self.positives as f64;
            let f1 = 2.0 * precision * recall / (precision + recall);
            if f1 > best.0 {
                best = (f1, precision, recall, threshold);
            }
        });
        best
    }

    fn average_precision(&self) -> f64 {
        let (mut sum, mut before) = (0.0, 0);
        self.for_each_cut(|rows, positives, _| {
            sum += (positives - before) as f64 * positives as f64 / rows as f64;
            before = positives;
        });
        match self.positives {
            0 => 0.0,
            positives => sum / positives as f64,
        }
    }

    /// Returns 0 if all pairs are of one class or classified as one class.
    fn matthews(&self, threshold: f32) -> f64 {
        let mut counts = [[0.0f64; 2]; 2];
        for (score, label) in &self.rows {
            let found = match self.greater_is_better {
                true => *score >= threshold,
                false => *score <= threshold,
            };
            counts[usize::from(*label)][usize::from(found)] += 1.0;
        }
        let [[tn, fp], [fn_, tp]] = counts;
        let length = ((tp + fp) * (tp + fn_) * (tn + fp) * (tn + fn_)).sqrt();
        if length > 0.0 {
            (tp * tn - fp * fn_) / length
        } else {
            0.0
        }
    }
}
