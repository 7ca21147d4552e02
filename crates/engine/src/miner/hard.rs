//! Miners that select the easiest or hardest pairs of each anchor.

use super::mined::{Mine, Mined, Miner};
use crate::{
    Result,
    loss::{Limit, Metric, Tuples},
    options::{OptionReader, numbers},
};

/// Multi-similarity miner (Wang et al. 2019, arXiv:1904.06627).
///
/// Selects negatives that are harder than the hardest positive, and vice versa, within
/// `epsilon`.
pub(super) struct MultiSimilarity {
    epsilon: f64,
    metric: Metric,
}

impl MultiSimilarity {
    /// Reads its options.
    pub(super) fn make(read: &OptionReader<'_>) -> Result<Miner> {
        Ok(Miner::tuples(Self {
            epsilon: read.any_number("epsilon", 0.1)?,
            metric: Miner::metric(read, Metric::COSINE, Limit::None)?,
        }))
    }
}

impl Mine for MultiSimilarity {
    fn mine(&self, batch: &Mined<'_>) -> Result<Tuples> {
        let (mut positive, mut negative) = (batch.labels.positive(), batch.labels.negative());
        if positive.is_empty() || negative.is_empty() {
            return Ok(Tuples::Pairs {
                positive: Vec::new(),
                negative: Vec::new(),
            });
        }
        let mut matrix = batch.matrix(self.metric)?;
        if !self.metric.is_similarity() {
            matrix.iter_mut().flatten().for_each(|x| *x = -*x);
        }
        let n = matrix.len();
        let of = |pair: &(u32, u32)| matrix[pair.0 as usize][pair.1 as usize];
        let mut nearest_negative = vec![f64::NEG_INFINITY; n];
        for pair in &negative {
            let best = &mut nearest_negative[pair.0 as usize];
            *best = best.max(of(pair));
        }
        let mut farthest_positive = vec![f64::INFINITY; n];
        for pair in &positive {
            let worst = &mut farthest_positive[pair.0 as usize];
            *worst = worst.min(of(pair));
        }
        positive.retain(|pair| of(pair) - self.epsilon < nearest_negative[pair.0 as usize]);
        negative.retain(|pair| of(pair) + self.epsilon > farthest_positive[pair.0 as usize]);
        Ok(Tuples::Pairs { positive, negative })
    }
}

/// Batch-hard miner (Hermans et al. 2017, arXiv:1703.07737).
///
/// Selects the hardest positive and the hardest negative of each anchor.
pub(super) struct BatchHard(Metric);

impl BatchHard {
    /// Reads its options.
    pub(super) fn make(read: &OptionReader<'_>) -> Result<Miner> {
        let metric = Miner::metric(read, Metric::LP, Limit::None)?;
        Ok(Miner::tuples(Self(metric)))
    }
}

impl Mine for BatchHard {
    fn mine(&self, batch: &Mined<'_>) -> Result<Tuples> {
        let miner = BatchEasyHard {
            positive: Strategy::Hard,
            negative: Strategy::Hard,
            allowed_positive: None,
            allowed_negative: None,
            metric: self.0,
        };
        let (positive, negative) = miner.mine(batch)?.into_pairs();
        let triplets = positive.iter().zip(&negative);
        let triplets = triplets.map(|((a, p), (_, n))| [*a, *p, *n]);
        Ok(Tuples::Triplets(triplets.collect()))
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Strategy {
    Easy,
    Semihard,
    Hard,
    All,
}

impl Strategy {
    fn read(read: &OptionReader<'_>, name: &str, default: &str) -> Result<Self> {
        let choices = ["easy", "semihard", "hard", "all"];
        Ok(match read.choice(name, default, &choices)?.as_str() {
            "easy" => Self::Easy,
            "semihard" => Self::Semihard,
            "hard" => Self::Hard,
            _ => Self::All,
        })
    }
}

/// Batch-easy-hard miner (Xuan et al. 2020, arXiv:1904.04370).
///
/// Combines easy, semihard, hard or all positives with such negatives.
pub(super) struct BatchEasyHard {
    positive: Strategy,
    negative: Strategy,
    allowed_positive: Option<(f64, f64)>,
    allowed_negative: Option<(f64, f64)>,
    metric: Metric,
}

impl BatchEasyHard {
    /// Reads its options.
    pub(super) fn make(read: &OptionReader<'_>) -> Result<Miner> {
        Ok(Miner::tuples(Self::new(read)?))
    }

    fn new(read: &OptionReader<'_>) -> Result<Self> {
        let range = |name: &str| -> Result<Option<(f64, f64)>> {
            let Some(value) = read.value(name) else {
                return Ok(None);
            };
            match *numbers(value) {
                [low, high] if low <= high => Ok(Some((low, high))),
                _ => Err(read.bad(name, "give two numbers, the smaller first")),
            }
        };
        let miner = Self {
            positive: Strategy::read(read, "pos_strategy", "easy")?,
            negative: Strategy::read(read, "neg_strategy", "semihard")?,
            allowed_positive: range("allowed_pos_range")?,
            allowed_negative: range("allowed_neg_range")?,
            metric: Miner::metric(read, Metric::LP, Limit::None)?,
        };
        use Strategy::{All, Semihard};
        match (miner.positive, miner.negative) {
            (Semihard, Semihard) => Err(read.bad(
                "neg_strategy",
                "only one of the two strategies can be `semihard`",
            )),
            (All, Semihard) | (Semihard, All) => Err(read.bad(
                "neg_strategy",
                "`semihard` and `all` can't be used together",
            )),
            _ => Ok(miner),
        }
    }
}

/// The selected example of each anchor, with its distance.
type Found = Vec<Option<(u32, f64)>>;

/// Selects the nearest or farthest partner of each anchor.
///
/// Partners must be within the range and beyond the limit.
fn choose(
    matrix: &[Vec<f64>],
    pairs: &[(u32, u32)],
    farthest: bool,
    range: Option<(f64, f64)>,
    limits: Option<&Found>,
) -> Found {
    let mut found: Found = vec![None; matrix.len()];
    for (a, b) in pairs {
        let distance = matrix[*a as usize][*b as usize];
        if range.is_some_and(|(low, high)| distance < low || distance > high) {
            continue;
        }
        if let Some(limits) = limits {
            // Semihard: beyond the selected distance of the other kind.
            let beyond = match limits[*a as usize] {
                None => true,
                Some((_, limit)) if farthest => distance < limit,
                Some((_, limit)) => distance > limit,
            };
            if !beyond {
                continue;
            }
        }
        let best = &mut found[*a as usize];
        let better = best.is_none_or(|(_, old)| {
            if farthest {
                distance > old
            } else {
                distance < old
            }
        });
        if better {
            *best = Some((*b, distance));
        }
    }
    found
}

impl Mine for BatchEasyHard {
    fn mine(&self, batch: &Mined<'_>) -> Result<Tuples> {
        use Strategy::{All, Easy, Semihard};
        let matrix = batch.distances(self.metric)?;
        // Ranges are given as similarities, whose sign `distances` flips.
        let range = |range: Option<(f64, f64)>| match range {
            Some((low, high)) if self.metric.is_similarity() => Some((-high, -low)),
            range => range,
        };
        let allowed = (range(self.allowed_positive), range(self.allowed_negative));
        let (all_positive, all_negative) = (batch.labels.positive(), batch.labels.negative());
        let positives = |limits: Option<&Found>| {
            // A hard positive is far; a hard negative is near.
            let farthest = self.positive != Easy;
            choose(&matrix, &all_positive, farthest, allowed.0, limits)
        };
        let negatives = |limits: Option<&Found>| {
            let farthest = self.negative == Easy;
            choose(&matrix, &all_negative, farthest, allowed.1, limits)
        };
        let (positive, negative) = if self.positive == Semihard {
            let negative = negatives(None);
            (positives(Some(&negative)), negative)
        } else if self.negative == Semihard {
            let positive = positives(None);
            let negative = negatives(Some(&positive));
            (positive, negative)
        } else {
            (positives(None), negatives(None))
        };
        let listed = |found: &Found, other: Option<&Found>| -> Vec<(u32, u32)> {
            let anchors = found.iter().enumerate();
            anchors
                .filter(|(i, _)| other.is_none_or(|other| other[*i].is_some()))
                .filter_map(|(i, found)| found.map(|(place, _)| (i as u32, place)))
                .collect()
        };
        let (positive, negative) = match (self.positive, self.negative) {
            (All, All) => (all_positive, all_negative),
            (All, _) => (all_positive, listed(&negative, None)),
            (_, All) => (listed(&positive, None), all_negative),
            // Only anchors with both a positive and a negative.
            _ => (
                listed(&positive, Some(&negative)),
                listed(&negative, Some(&positive)),
            ),
        };
        Ok(Tuples::Pairs { positive, negative })
    }
}
