//! Collects the best documents of one query, block by block.

/// The documents with the highest scores.
///
/// Of equal scores, the document that comes first in the corpus ranks higher.
pub(super) struct Top {
    size: usize,
    /// Candidates, up to twice as many as needed; pruned when full.
    kept: Vec<(u32, f32)>,
    /// Score above which a document is a candidate.
    least: f32,
}

impl Top {
    pub(super) fn new(size: usize) -> Self {
        Self {
            size,
            kept: Vec::new(),
            least: f32::NEG_INFINITY,
        }
    }

    /// Adds a document. Documents must come in the order of the corpus.
    pub(super) fn add(&mut self, document: u32, score: f32) {
        // Documents with the lowest kept score rank lower, since they come later. NaN
        // fails the comparison.
        if score > self.least {
            self.kept.push((document, score));
            if self.kept.len() >= 2 * self.size.max(1) {
                self.prune();
            }
        }
    }

    fn prune(&mut self) {
        self.kept
            .sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        self.kept.truncate(self.size);
        if self.kept.len() == self.size
            && let Some((_, score)) = self.kept.last()
        {
            self.least = *score;
        }
    }

    /// Returns the best documents, highest score first.
    pub(super) fn into_sorted(mut self) -> Vec<(u32, f32)> {
        self.prune();
        self.kept
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_result_equals_that_of_a_complete_sort() {
        // Few distinct values, so that many scores are equal.
        let scores: Vec<f32> = (0..500u32).map(|i| (i * 7919 % 61) as f32).collect();
        for size in [1, 2, 7, 499, 500, 900] {
            let mut top = Top::new(size);
            for (i, score) in scores.iter().enumerate() {
                top.add(i as u32, *score);
            }
            let mut all: Vec<(u32, f32)> = (0..).zip(scores.iter().copied()).collect();
            all.sort_by(|a, b| b.1.total_cmp(&a.1));
            all.truncate(size);
            assert_eq!(top.into_sorted(), all, "{size}");
        }
        let mut top = Top::new(2);
        top.add(0, f32::NAN);
        assert!(top.into_sorted().is_empty());
    }
}
