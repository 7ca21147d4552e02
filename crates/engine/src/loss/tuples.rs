//! Selects which examples of a batch are compared with each other.

use candle_core::Tensor;
use rand_chacha::{
    ChaCha8Rng,
    rand_core::{Rng, SeedableRng},
};

use crate::Result;

/// Selection of a miner, as indices in the batch and in the reference.
///
/// The reference is the batch itself, or a memory of earlier batches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tuples {
    /// Positive and negative pairs.
    Pairs {
        /// An anchor and its positive.
        positive: Vec<(u32, u32)>,
        /// An anchor and its negative.
        negative: Vec<(u32, u32)>,
    },
    /// An anchor, its positive and its negative.
    Triplets(Vec<[u32; 3]>),
}

/// Indices in the batch and in the reference.
pub(crate) type Pairs = Vec<(u32, u32)>;

/// Labels of a batch and of the reference that it is compared with.
#[derive(Clone, Copy)]
pub(crate) struct Labels<'a> {
    pub(crate) batch: &'a [u32],
    pub(crate) reference: &'a [u32],
    /// Whether both are the same examples, so that none is paired with itself.
    pub(crate) same: bool,
}

impl Labels<'_> {
    fn matches(&self, i: usize, j: usize) -> bool {
        self.batch[i] == self.reference[j] && !(self.same && i == j)
    }

    fn differs(&self, i: usize, j: usize) -> bool {
        self.batch[i] != self.reference[j]
    }

    fn pairs(&self, wanted: impl Fn(usize, usize) -> bool) -> Pairs {
        let mut pairs = Vec::new();
        for i in 0..self.batch.len() {
            let others = (0..self.reference.len()).filter(|j| wanted(i, *j));
            pairs.extend(others.map(|j| (i as u32, j as u32)));
        }
        pairs
    }

    /// Returns all positive pairs.
    pub(crate) fn positive(&self) -> Pairs {
        self.pairs(|i, j| self.matches(i, j))
    }

    /// Returns all negative pairs.
    pub(crate) fn negative(&self) -> Pairs {
        self.pairs(|i, j| self.differs(i, j))
    }

    /// Returns all triplets.
    pub(crate) fn triplets(&self) -> Vec<[u32; 3]> {
        let mut triplets = Vec::new();
        for i in 0..self.batch.len() {
            let places = 0..self.reference.len();
            let negatives: Vec<u32> = places
                .clone()
                .filter(|j| self.differs(i, *j))
                .map(|j| j as u32)
                .collect();
            for p in places.filter(|j| self.matches(i, *j)) {
                triplets.extend(negatives.iter().map(|n| [i as u32, p as u32, *n]));
            }
        }
        triplets
    }

    /// Draws random triplets, `per_anchor` for each anchor.
    ///
    /// The default is the number of members of the anchor's class.
    ///
    /// `weight` is proportional to the probability of a negative.
    pub(crate) fn random_triplets(
        &self,
        per_anchor: Option<usize>,
        weight: Option<&dyn Fn(usize, usize) -> f64>,
        seed: u64,
    ) -> Vec<[u32; 3]> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut triplets = Vec::new();
        for i in 0..self.batch.len() {
            let places = 0..self.reference.len();
            let positives: Vec<usize> = places.clone().filter(|j| self.matches(i, *j)).collect();
            let negatives: Vec<usize> = places.filter(|j| self.differs(i, *j)).collect();
            let weights: Vec<f64> = negatives
                .iter()
                .map(|j| weight.map_or(1.0, |weight| weight(i, *j)))
                .collect();
            let total: f64 = weights.iter().sum();
            if positives.is_empty() || total.is_nan() || total <= 0.0 {
                continue;
            }
            let members = positives.len() + usize::from(self.same);
            for _ in 0..per_anchor.unwrap_or(members) {
                let p = positives[(rng.next_u64() % positives.len() as u64) as usize];
                let mut left = f64::from(rng.next_u32()) / (f64::from(u32::MAX) + 1.0) * total;
                let chosen = weights.iter().position(|w| {
                    left -= w;
                    left < 0.0 && *w > 0.0
                });
                let last = weights.iter().rposition(|w| *w > 0.0);
                if let Some(n) = chosen.or(last) {
                    triplets.push([i as u32, p as u32, negatives[n] as u32]);
                }
            }
        }
        triplets
    }
}

impl Tuples {
    /// Converts to pairs. A triplet gives a positive and a negative pair.
    pub(crate) fn into_pairs(self) -> (Pairs, Pairs) {
        match self {
            Self::Pairs { positive, negative } => (positive, negative),
            Self::Triplets(triplets) => {
                let positive = triplets.iter().map(|[a, p, _]| (*a, *p)).collect();
                let negative = triplets.iter().map(|[a, _, n]| (*a, *n)).collect();
                (positive, negative)
            }
        }
    }

    /// Converts to triplets.
    ///
    /// Each positive is combined with each negative of its anchor.
    pub(crate) fn into_triplets(self) -> Vec<[u32; 3]> {
        match self {
            Self::Triplets(triplets) => triplets,
            Self::Pairs { positive, negative } => positive
                .iter()
                .flat_map(|(a, p)| {
                    let of_anchor = negative.iter().filter(move |(b, _)| a == b);
                    of_anchor.map(move |(_, n)| [*a, *p, *n])
                })
                .collect(),
        }
    }

    /// Returns a weight for each of `n` examples: how often it was selected.
    ///
    /// Weights are relative to the maximum.
    ///
    /// All weights are 1 if none was selected. With `anchors_only`, the second index
    /// refers to other examples and does not count.
    pub(crate) fn weights(tuples: Option<&Self>, n: usize, anchors_only: bool) -> Vec<f64> {
        let mut counts = vec![0u32; n];
        let mut count = |place: u32, is_anchor: bool| {
            if let Some(count) = counts.get_mut(place as usize)
                && (is_anchor || !anchors_only)
            {
                *count += 1;
            }
        };
        match tuples {
            None => {}
            Some(Self::Triplets(triplets)) => {
                for [a, p, n] in triplets {
                    count(*a, true);
                    count(*p, false);
                    count(*n, false);
                }
            }
            Some(Self::Pairs { positive, negative }) => {
                for (a, b) in positive.iter().chain(negative) {
                    count(*a, true);
                    count(*b, false);
                }
            }
        }
        match counts.iter().max() {
            None | Some(0) => vec![1.0; n],
            Some(&most) => counts
                .iter()
                .map(|count| f64::from(*count) / f64::from(most))
                .collect(),
        }
    }
}

/// Returns the elements of a matrix at these positions as a vector.
pub(crate) fn elements_at(
    matrix: &Tensor,
    places: impl Iterator<Item = (u32, u32)>,
) -> Result<Tensor> {
    let columns = matrix.dim(1)? as u32;
    let flat: Vec<u32> = places.map(|(row, column)| row * columns + column).collect();
    let index = Tensor::from_slice(&flat, flat.len(), matrix.device())?;
    Ok(matrix.flatten_all()?.index_select(&index, 0)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LABELS: Labels<'_> = Labels {
        batch: &[0, 1, 0],
        reference: &[0, 1, 0],
        same: true,
    };

    #[test]
    fn pairs_and_triplets_follow_from_labels() {
        assert_eq!(LABELS.positive(), [(0, 2), (2, 0)]);
        assert_eq!(LABELS.negative(), [(0, 1), (1, 0), (1, 2), (2, 1)]);
        assert_eq!(LABELS.triplets(), [[0, 2, 1], [2, 0, 1]]);
        let apart = Labels {
            same: false,
            ..LABELS
        };
        assert_eq!(apart.positive().len(), 5);
        let tuples = Tuples::Pairs {
            positive: vec![(0, 2), (2, 0)],
            negative: vec![(0, 1), (1, 0)],
        };
        assert_eq!(tuples.clone().into_triplets(), [[0, 2, 1]]);
        let weights = |anchors_only| Tuples::weights(Some(&tuples), 3, anchors_only);
        assert_eq!(weights(false), [1.0, 0.5, 0.5]);
        assert_eq!(weights(true), [1.0, 0.5, 0.5]);
        assert_eq!(Tuples::weights(None, 2, false), [1.0, 1.0]);
    }

    #[test]
    fn random_triplets_are_valid_and_follow_their_weights() {
        let all = LABELS.triplets();
        let drawn = LABELS.random_triplets(Some(20), None, 3);
        assert_eq!(drawn.len(), 40);
        assert!(drawn.iter().all(|triplet| all.contains(triplet)));
        assert_eq!(drawn, LABELS.random_triplets(Some(20), None, 3));
        let never = |_: usize, _: usize| 0.0;
        assert!(LABELS.random_triplets(None, Some(&never), 1).is_empty());
    }
}
