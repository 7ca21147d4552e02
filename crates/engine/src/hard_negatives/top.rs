//! The best documents of one query, collected block by block.

/// The documents with the highest scores. Of two with one score, the one that
/// comes first in the corpus is the better one.
pub(super) struct Top {
    size: usize,
    /// At most twice as many as are kept; sorted out when they are full.
    kept: Vec<(u32, f32)>,
    /// The similarity that a document needs to be one of the best so far.
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

    /// Looks at a document. Documents come in the order of the corpus.
    pub(super) fn add(&mut self, document: u32, score: f32) {
        // One that is no better than the last of the kept ones came later. A
        // score that is no number is none.
        if score > self.least {
            self.kept.push((document, score));
            if self.kept.len() >= 2 * self.size.max(1) {
                self.sort_out();
            }
        }
    }

    fn sort_out(&mut self) {
        self.kept
            .sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        self.kept.truncate(self.size);
        if self.kept.len() == self.size
            && let Some((_, score)) = self.kept.last()
        {
            self.least = *score;
        }
    }

    /// The best, the highest score first.
    pub(super) fn into_sorted(mut self) -> Vec<(u32, f32)> {
        self.sort_out();
        self.kept
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_are_those_of_a_sort_of_all() {
        // Few values, so that many are equal.
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
