//! Miners that filter by distance or sample by it.

use rand_chacha::{
    ChaCha8Rng,
    rand_core::{Rng, SeedableRng},
};

use super::mined::{Mine, Mined, Miner};
use crate::{
    Result,
    loss::{Limit, Metric, Tuples},
    options::OptionReader,
};

/// Angular miner (Wang et al. 2017, arXiv:1708.01682).
///
/// Selects triplets whose angle at the negative exceeds a limit, in radians.
pub(super) struct Angular {
    angle: f64,
}

impl Angular {
    /// Reads its options.
    pub(super) fn make(read: &OptionReader<'_>) -> Result<Miner> {
        Miner::metric(read, Metric::LP, Limit::Euclidean)?;
        Ok(Miner::tuples(Self {
            angle: read.number("angle", 20.0, 0.0, 90.0)?.to_radians(),
        }))
    }
}

impl Mine for Angular {
    fn mine(&self, batch: &Mined<'_>) -> Result<Tuples> {
        let distance = |a: &[f64], b: &[f64]| {
            let squares = a.iter().zip(b).map(|(a, b)| (a - b) * (a - b));
            squares.sum::<f64>().sqrt()
        };
        let mut triplets = batch.labels.triplets();
        triplets.retain(|[a, p, n]| {
            let anchor = Mined::row(batch.batch, batch.dim, *a);
            let positive = Mined::row(batch.reference, batch.dim, *p);
            let negative = Mined::row(batch.reference, batch.dim, *n);
            let center: Vec<f64> = anchor
                .iter()
                .zip(positive)
                .map(|(a, p)| (a + p) / 2.0)
                .collect();
            let angle = (distance(anchor, positive) / (2.0 * distance(negative, &center))).atan();
            angle > self.angle
        });
        Ok(Tuples::Triplets(triplets))
    }
}

/// Selects triplets by the margin between positive and negative distance.
pub(super) struct TripletMargin {
    margin: f64,
    kind: String,
    metric: Metric,
}

impl TripletMargin {
    /// Reads its options.
    pub(super) fn make(read: &OptionReader<'_>) -> Result<Miner> {
        let kinds = ["all", "easy", "semihard", "hard"];
        Ok(Miner::tuples(Self {
            margin: read.any_number("margin", 0.2)?,
            kind: read.choice("type_of_triplets", "all", &kinds)?,
            metric: Miner::metric(read, Metric::LP, Limit::None)?,
        }))
    }
}

impl Mine for TripletMargin {
    fn mine(&self, batch: &Mined<'_>) -> Result<Tuples> {
        let matrix = batch.distances(self.metric)?;
        let mut triplets = batch.labels.triplets();
        triplets.retain(|[a, p, n]| {
            let row = &matrix[*a as usize];
            let margin = row[*n as usize] - row[*p as usize];
            match self.kind.as_str() {
                "easy" => margin > self.margin,
                "hard" => margin <= self.margin && margin <= 0.0,
                "semihard" => margin <= self.margin && margin > 0.0,
                _ => margin <= self.margin,
            }
        });
        Ok(Tuples::Triplets(triplets))
    }
}

/// Selects positives beyond one limit and negatives within another.
pub(super) struct PairMargin {
    pos_margin: f64,
    neg_margin: f64,
    metric: Metric,
}

impl PairMargin {
    /// Reads its options.
    pub(super) fn make(read: &OptionReader<'_>) -> Result<Miner> {
        Ok(Miner::tuples(Self {
            pos_margin: read.any_number("pos_margin", 0.2)?,
            neg_margin: read.any_number("neg_margin", 0.8)?,
            metric: Miner::metric(read, Metric::LP, Limit::None)?,
        }))
    }
}

impl Mine for PairMargin {
    fn mine(&self, batch: &Mined<'_>) -> Result<Tuples> {
        let matrix = batch.distances(self.metric)?;
        let (mut positive, mut negative) = (batch.labels.positive(), batch.labels.negative());
        let sign = if self.metric.is_similarity() {
            -1.0
        } else {
            1.0
        };
        let (far, near) = (sign * self.pos_margin, sign * self.neg_margin);
        positive.retain(|(a, p)| matrix[*a as usize][*p as usize] > far);
        negative.retain(|(a, n)| matrix[*a as usize][*n as usize] < near);
        Ok(Tuples::Pairs { positive, negative })
    }
}

/// Hard-aware miner (Yuan et al. 2017, arXiv:1611.05720).
///
/// Selects the hardest share of all pairs.
pub(super) struct Hdc {
    filter_percentage: f64,
    metric: Metric,
}

impl Hdc {
    /// Reads its options.
    pub(super) fn make(read: &OptionReader<'_>) -> Result<Miner> {
        Ok(Miner::tuples(Self {
            filter_percentage: read.number("filter_percentage", 0.5, 0.0, 1.0)?,
            metric: Miner::metric(read, Metric::LP, Limit::None)?,
        }))
    }
}

impl Mine for Hdc {
    fn mine(&self, batch: &Mined<'_>) -> Result<Tuples> {
        let matrix = batch.distances(self.metric)?;
        let hardest = |mut pairs: Vec<(u32, u32)>, farthest: bool| {
            let wanted = (self.filter_percentage * pairs.len() as f64).ceil() as usize;
            let of = |pair: &(u32, u32)| matrix[pair.0 as usize][pair.1 as usize];
            pairs.sort_by(|x, y| {
                if farthest {
                    of(y).total_cmp(&of(x))
                } else {
                    of(x).total_cmp(&of(y))
                }
            });
            pairs.truncate(wanted);
            pairs
        };
        Ok(Tuples::Pairs {
            positive: hardest(batch.labels.positive(), true),
            negative: hardest(batch.labels.negative(), false),
        })
    }
}

/// Distance-weighted miner (Wu et al. 2017, arXiv:1706.07567).
///
/// Draws negatives so that all distances are equally likely.
pub(super) struct DistanceWeighted {
    cutoff: f64,
    nonzero_loss_cutoff: f64,
}

impl DistanceWeighted {
    /// Reads its options.
    pub(super) fn make(read: &OptionReader<'_>) -> Result<Miner> {
        Miner::metric(read, Metric::LP, Limit::Euclidean)?;
        Ok(Miner::tuples(Self {
            cutoff: read.positive("cutoff", 0.5)?,
            nonzero_loss_cutoff: read.positive("nonzero_loss_cutoff", 1.4)?,
        }))
    }
}

impl DistanceWeighted {
    /// Returns the log of the inverse density of distances between points on a sphere.
    fn log_weight(&self, distance: f64, dim: usize) -> f64 {
        let (distance, dim) = (distance.max(self.cutoff), dim as f64);
        (2.0 - dim) * distance.ln() - (dim - 3.0) / 2.0 * (1.0 - 0.25 * distance * distance).ln()
    }
}

impl Mine for DistanceWeighted {
    fn mine(&self, batch: &Mined<'_>) -> Result<Tuples> {
        let matrix = batch.matrix(Metric::LP)?;
        let log = |i: usize, j: usize| self.log_weight(matrix[i][j], batch.dim);
        let places = (0..batch.labels.batch.len())
            .flat_map(|i| (0..batch.labels.reference.len()).map(move |j| (i, j)));
        let most = places
            .map(|(i, j)| log(i, j))
            .filter(|w| w.is_finite())
            .fold(f64::NEG_INFINITY, f64::max);
        let weight = |i: usize, j: usize| {
            let log = log(i, j);
            let near = matrix[i][j].max(self.cutoff) < self.nonzero_loss_cutoff;
            if log.is_finite() && near {
                (log - most).exp()
            } else {
                0.0
            }
        };
        let triplets = batch
            .labels
            .random_triplets(None, Some(&weight), batch.seed);
        Ok(Tuples::Triplets(triplets))
    }
}

/// Draws the same number of pairs from each bin of distances.
pub(super) struct UniformHistogram {
    num_bins: usize,
    pos_per_bin: usize,
    neg_per_bin: usize,
    metric: Metric,
}

impl UniformHistogram {
    /// Reads its options.
    pub(super) fn make(read: &OptionReader<'_>) -> Result<Miner> {
        Ok(Miner::tuples(Self {
            num_bins: read.count("num_bins", 100, 1)?,
            pos_per_bin: read.count("pos_per_bin", 10, 1)?,
            neg_per_bin: read.count("neg_per_bin", 10, 1)?,
            metric: Miner::metric(read, Metric::LP, Limit::None)?,
        }))
    }
}

impl Mine for UniformHistogram {
    fn mine(&self, batch: &Mined<'_>) -> Result<Tuples> {
        let matrix = batch.matrix(self.metric)?;
        let mut rng = ChaCha8Rng::seed_from_u64(batch.seed);
        let mut even = |pairs: Vec<(u32, u32)>, per_bin: usize| {
            let of = |pair: &(u32, u32)| matrix[pair.0 as usize][pair.1 as usize];
            let low = pairs.iter().map(of).fold(f64::INFINITY, f64::min);
            let high = pairs.iter().map(of).fold(f64::NEG_INFINITY, f64::max);
            let width = (high - low) / self.num_bins as f64;
            let mut bins = vec![Vec::new(); self.num_bins];
            for pair in pairs {
                let bin = if width > 0.0 {
                    ((of(&pair) - low) / width) as usize
                } else {
                    0
                };
                bins[bin.min(self.num_bins - 1)].push(pair);
            }
            let mut chosen = Vec::new();
            for bin in bins.iter().filter(|bin| !bin.is_empty()) {
                let draw = (0..per_bin).map(|_| bin[(rng.next_u64() % bin.len() as u64) as usize]);
                chosen.extend(draw);
            }
            chosen
        };
        Ok(Tuples::Pairs {
            positive: even(batch.labels.positive(), self.pos_per_bin),
            negative: even(batch.labels.negative(), self.neg_per_bin),
        })
    }
}

/// Takes each three consecutive examples as a triplet.
pub(super) struct Packaged;

impl Packaged {
    /// Creates the miner, which has no options.
    pub(super) fn make(_: &OptionReader<'_>) -> Result<Miner> {
        Ok(Miner::tuples(Self))
    }
}

impl Mine for Packaged {
    fn mine(&self, batch: &Mined<'_>) -> Result<Tuples> {
        let whole = batch.labels.batch.len() as u32 / 3;
        let triplets = (0..whole).map(|i| [3 * i, 3 * i + 1, 3 * i + 2]);
        Ok(Tuples::Triplets(triplets.collect()))
    }
}
