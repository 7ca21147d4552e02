//! Pairs that belong together or don't, told apart by a score: defined as in
//! `BinaryClassificationEvaluator` of sentence-transformers.

/// What a score is worth for telling pairs apart.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Binary {
    /// The part of pairs that the best threshold tells right.
    pub(crate) accuracy: f64,
    pub(crate) accuracy_threshold: f64,
    /// The best F1, and its precision and recall.
    pub(crate) f1: f64,
    pub(crate) f1_threshold: f64,
    pub(crate) precision: f64,
    pub(crate) recall: f64,
    /// Average precision.
    pub(crate) ap: f64,
    /// Matthews' correlation at the threshold of F1.
    pub(crate) mcc: f64,
}

/// Scores and labels, the best score first. Distances are best where they are
/// small.
struct Sorted {
    rows: Vec<(f32, bool)>,
    greater_is_better: bool,
    positives: usize,
}

impl Binary {
    /// Compares scores with labels.
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
    /// Calls `each` behind every different score, with how many rows and how
    /// many positives are at least as good, and a threshold behind it.
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
        // No pair belongs together.
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

    /// 0 where all pairs are taken for one kind, or are of one.
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
