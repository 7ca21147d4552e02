//! Triplet losses that select their triplets from each batch.

use candle_core::Tensor;

use super::{
    batch::{Batch, MetricLoss},
    distance::{euclidean, normalize},
    maker::Maker,
    math::{mean_of_positive, softplus, vector, zero_loss},
    tuples::elements_at,
};
use crate::Result;

/// Default margin of sentence-transformers.
const MARGIN: f64 = 5.0;

/// Selection of a batch's triplets.
#[derive(Clone, Copy)]
enum Chosen {
    /// The farthest positive and the nearest negative of each anchor.
    Hardest,
    /// All triplets with a positive loss.
    All,
    /// For each positive pair, the nearest negative that is farther than the positive.
    ///
    /// If there is none, the farthest negative.
    SemiHard,
}

/// Batch triplet losses of sentence-transformers.
///
/// Hermans et al. 2017, arXiv:1703.07737; Schroff et al. 2015, arXiv:1503.03832.
///
/// `distance_metric` is `euclidean` (default, without normalisation) or `cosine` (1 -
/// cos). `margin` is 5 by default.
pub(super) struct BatchTriplets {
    chosen: Chosen,
    /// Margin; `None` for a soft margin (`softplus`).
    margin: Option<f64>,
    cosine: bool,
}

impl BatchTriplets {
    /// `BatchHardTripletLoss`
    pub(super) fn make_hard(m: &mut Maker<'_>) -> Result<Box<dyn MetricLoss>> {
        Self::of(m, Chosen::Hardest, true)
    }

    /// `BatchHardSoftMarginTripletLoss`
    pub(super) fn make_soft(m: &mut Maker<'_>) -> Result<Box<dyn MetricLoss>> {
        Self::of(m, Chosen::Hardest, false)
    }

    /// `BatchAllTripletLoss`
    pub(super) fn make_all(m: &mut Maker<'_>) -> Result<Box<dyn MetricLoss>> {
        Self::of(m, Chosen::All, true)
    }

    /// `BatchSemiHardTripletLoss`
    pub(super) fn make_semi_hard(m: &mut Maker<'_>) -> Result<Box<dyn MetricLoss>> {
        Self::of(m, Chosen::SemiHard, true)
    }

    fn of(m: &mut Maker<'_>, chosen: Chosen, has_margin: bool) -> Result<Box<dyn MetricLoss>> {
        let distances = ["euclidean", "cosine"];
        let distance = m.read.choice("distance_metric", "euclidean", &distances)?;
        let margin = match has_margin {
            true => Some(m.read.any_number("margin", MARGIN)?),
            false => None,
        };
        Ok(Box::new(Self {
            chosen,
            margin,
            cosine: distance == "cosine",
        }))
    }
}

impl MetricLoss for BatchTriplets {
    fn loss(&self, batch: &Batch<'_>) -> Result<Tensor> {
        let distances = match self.cosine {
            true => normalize(batch.x)?
                .matmul(&normalize(batch.y)?.t()?)?
                .affine(-1.0, 1.0)?,
            false => euclidean(batch.x, batch.y)?,
        };
        let values: Vec<Vec<f64>> = distances.to_vec2()?;
        let (near, far) = partners(batch, values.len());
        let triplets = match self.chosen {
            Chosen::Hardest => hardest(&values, &near, &far),
            Chosen::All => all(&near, &far),
            Chosen::SemiHard => semi_hard(&values, &near, &far),
        };
        if triplets.is_empty() {
            return zero_loss();
        }
        // An anchor without positives has itself as positive, at distance 0.
        let alone = |t: &Triplet| if t.positive.is_none() { 0.0 } else { 1.0 };
        let counts = vector(triplets.iter().map(alone).collect())?;
        let of = |t: &Triplet| (t.anchor, t.positive.unwrap_or(t.anchor));
        let positive = (elements_at(&distances, triplets.iter().map(of))? * counts)?;
        let negative = elements_at(&distances, triplets.iter().map(|t| (t.anchor, t.negative)))?;
        let apart = (positive - negative)?;
        let costs = match self.margin {
            Some(margin) => apart.affine(1.0, margin)?.relu()?,
            None => softplus(&apart)?,
        };
        match self.chosen {
            Chosen::All => mean_of_positive(&costs),
            _ => Ok(costs.mean_all()?),
        }
    }
}

/// Indices in the batch.
struct Triplet {
    anchor: u32,
    positive: Option<u32>,
    negative: u32,
}

/// Returns the positives and the negatives of each anchor.
fn partners(batch: &Batch<'_>, anchors: usize) -> (Vec<Vec<u32>>, Vec<Vec<u32>>) {
    let (positive, negative) = batch.pairs();
    let by_anchor = |pairs: Vec<(u32, u32)>| {
        let mut partners = vec![Vec::new(); anchors];
        for (anchor, partner) in pairs {
            partners[anchor as usize].push(partner);
        }
        partners
    };
    (by_anchor(positive), by_anchor(negative))
}

fn hardest(values: &[Vec<f64>], near: &[Vec<u32>], far: &[Vec<u32>]) -> Vec<Triplet> {
    let mut triplets = Vec::new();
    for (anchor, row) in values.iter().enumerate() {
        let by_distance = |a: &&u32, b: &&u32| row[**a as usize].total_cmp(&row[**b as usize]);
        if let Some(negative) = far[anchor].iter().min_by(by_distance) {
            triplets.push(Triplet {
                anchor: anchor as u32,
                positive: near[anchor].iter().max_by(by_distance).copied(),
                negative: *negative,
            });
        }
    }
    triplets
}

fn all(near: &[Vec<u32>], far: &[Vec<u32>]) -> Vec<Triplet> {
    let mut triplets = Vec::new();
    for (anchor, (near, far)) in near.iter().zip(far).enumerate() {
        for positive in near {
            triplets.extend(far.iter().map(|negative| Triplet {
                anchor: anchor as u32,
                positive: Some(*positive),
                negative: *negative,
            }));
        }
    }
    triplets
}

fn semi_hard(values: &[Vec<f64>], near: &[Vec<u32>], far: &[Vec<u32>]) -> Vec<Triplet> {
    let mut triplets = Vec::new();
    for (anchor, row) in values.iter().enumerate() {
        let mut negatives = far[anchor].clone();
        negatives.sort_by(|a, b| row[*a as usize].total_cmp(&row[*b as usize]));
        for positive in &near[anchor] {
            let limit = row[*positive as usize];
            let outside = negatives.partition_point(|n| row[*n as usize] <= limit);
            if let Some(negative) = negatives.get(outside).or(negatives.last()) {
                triplets.push(Triplet {
                    anchor: anchor as u32,
                    positive: Some(*positive),
                    negative: *negative,
                });
            }
        }
    }
    triplets
}
