//! Pooling: from the vectors of a sequence's positions to one vector.

use std::sync::{Mutex, PoisonError};

use candle_core::Tensor;

use super::{
    FusedOp, Pass, Segments, block::select_positions, largest::first_largest, rows::take_rows,
    tensors::NO_ROW,
};
use crate::{Result, kernels::simd};

/// The pooling of a network's outputs into one embedding. Padding is never
/// included. Formulas and order follow sentence-transformers' `Pooling`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pooler {
    /// Mean over all positions.
    Mean,
    /// Maximum of each element.
    Max,
    /// The first position: BERT's `[CLS]` token.
    Cls,
    /// Sum over all positions, divided by the square root of their number.
    MeanSqrtLength,
    /// Mean over all positions, weighted by position: 1, 2, 3 and so on.
    WeightedMean,
    /// The last position.
    LastToken,
    /// Generalized mean (Radenovic et al. 2018, arXiv:1711.02512):
    /// `mean(max(x, eps)^p)^(1/p)`.
    GeM {
        /// The exponent, 3 by default: 1 is the mean, infinity the maximum.
        p: f32,
        /// Lower bound of the values, 1e-6 by default.
        eps: f32,
    },
    /// Concatenation of several poolers.
    Concat(Concat),
}

/// Largest number of concatenated poolers.
const MOST: usize = 6;

/// Poolers that can be concatenated, with their names in sentence-transformers,
/// in the order in which its older versions concatenate them.
const BASIC: [(Pooler, &str); MOST] = [
    (Pooler::Cls, "cls"),
    (Pooler::Max, "max"),
    (Pooler::Mean, "mean"),
    (Pooler::MeanSqrtLength, "mean_sqrt_len_tokens"),
    (Pooler::WeightedMean, "weightedmean"),
    (Pooler::LastToken, "lasttoken"),
];

/// Two to six poolers whose vectors are concatenated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Concat {
    /// Indices into [`BASIC`], of which the first `count` are used.
    positions: [u8; MOST],
    count: u8,
}

impl Concat {
    pub(crate) fn poolers(self) -> impl ExactSizeIterator<Item = (Pooler, &'static str)> {
        let chosen = self.positions.into_iter().take(usize::from(self.count));
        chosen.map(|position| BASIC[usize::from(position) % MOST])
    }
}

impl Pooler {
    /// Returns the pooler with these names of sentence-transformers.
    ///
    /// # Errors
    /// If a name is unknown, or if there are none or more than six.
    pub fn named(names: &[&str]) -> Result<Self, String> {
        let known = || BASIC.map(|(_, name)| format!("`{name}`")).join(", ");
        let mut positions = [0; MOST];
        let wanted = names.len();
        if wanted == 0 || wanted > MOST {
            let known = known();
            return Err(format!(
                "{wanted} pooling modes; 1 to {MOST} of {known} can be combined"
            ));
        }
        for (position, name) in positions.iter_mut().zip(names) {
            let found = BASIC.iter().position(|(_, known)| known == name);
            *position = found.ok_or_else(|| {
                let known = known();
                format!("the pooling mode `{name}` is unknown; use one of {known}")
            })? as u8;
        }
        let count = wanted as u8;
        Ok(match names.len() {
            1 => BASIC[usize::from(positions[0])].0,
            _ => Self::Concat(Concat { positions, count }),
        })
    }

    /// Returns the names in sentence-transformers, in order, or `None` if it
    /// has no such pooler.
    #[must_use]
    pub fn names(self) -> Option<Vec<&'static str>> {
        match self {
            Self::Concat(concat) => Some(concat.poolers().map(|(_, name)| name).collect()),
            one => {
                let (_, name) = BASIC.iter().find(|(pooler, _)| *pooler == one)?;
                Some(vec![*name])
            }
        }
    }

    /// Returns the dimension of an embedding pooled from vectors of `width`
    /// elements.
    #[must_use]
    pub fn dim(self, width: usize) -> usize {
        match self {
            Self::Concat(concat) => concat.poolers().len() * width,
            _ => width,
        }
    }

    /// Returns the only position of each sequence that this pooler uses, if
    /// there is just one. The last block then computes only these positions.
    pub(crate) fn only(self, segments: &Segments) -> Option<Vec<usize>> {
        match self {
            Self::Cls => Some(vec![segments.left_out(); segments.count()]),
            Self::LastToken => Some(
                segments
                    .lengths()
                    .iter()
                    .map(|n| n.saturating_sub(1))
                    .collect(),
            ),
            _ => None,
        }
    }
}

/// Pools `[rows, width]` to `[sequences, pooler.dim(width)]`. Skips the first
/// [`Segments::left_out`] positions of each sequence.
pub(crate) fn pool(pass: &Pass, x: &Tensor, segments: &Segments, pooler: Pooler) -> Result<Tensor> {
    if let Some(only) = pooler.only(segments) {
        return select_positions(pass, x, segments, &only);
    }
    if let Pooler::Concat(concat) = pooler {
        let parts = concat
            .poolers()
            .map(|(pooler, _)| pool(pass, x, segments, pooler));
        return Ok(Tensor::cat(&parts.collect::<Result<Vec<_>>>()?, 1)?);
    }
    if pass.is_fused() {
        let op = Pool {
            segments: segments.clone(),
            pooler,
            chosen: Mutex::new(Vec::new()),
        };
        return pass.apply(x, op);
    }
    composite(pass, x, segments, pooler)
}

/// Pools on any device.
fn composite(pass: &Pass, x: &Tensor, segments: &Segments, pooler: Pooler) -> Result<Tensor> {
    match pooler {
        Pooler::Max => {
            let longest = pooled_rows(segments).map(|(_, length)| length).max();
            let longest = longest.unwrap_or(0);
            let rows = pooled_rows(segments).flat_map(|(start, length)| {
                (0..longest).map(move |position| match position < length {
                    true => (start + position) as u32,
                    false => NO_ROW,
                })
            });
            let rows: Vec<u32> = rows.collect();
            let below = rows.iter().map(|row| match *row {
                NO_ROW => BELOW_ALL,
                _ => 0.0,
            });
            let below: Vec<f32> = below.collect();
            let (count, width) = (segments.count(), x.dim(1)?);
            let below = Tensor::from_vec(below, (count, longest, 1), x.device())?;
            let x = take_rows(pass, x, rows)?.reshape((count, longest, width))?;
            first_largest(pass, &x.broadcast_add(&below)?)
        }
        Pooler::GeM { p, eps } => {
            let powers = x.maximum(eps)?.powf(f64::from(p))?;
            let means = weighted(&powers, segments, Pooler::Mean)?;
            Ok(means.powf(1.0 / f64::from(p))?)
        }
        pooler => weighted(x, segments, pooler),
    }
}

/// Returns the weighted sum over the positions of each sequence.
fn weighted(x: &Tensor, segments: &Segments, pooler: Pooler) -> Result<Tensor> {
    let (rows, width) = x.dims2()?;
    let (count, left_out) = (segments.count(), segments.left_out());
    if let (Some(length), false) = (
        segments.common_length().filter(|_| left_out == 0),
        pooler == Pooler::WeightedMean,
    ) {
        let sums = x.reshape((count, length, width))?.sum(1)?;
        return Ok(sums.affine(1.0 / f64::from(divisor(pooler, length)), 0.0)?);
    }
    // As a product with a row of weights per sequence.
    let mut weights = vec![0f32; count * rows];
    let positions = pooled_rows(segments).zip(weights.chunks_exact_mut(rows.max(1)));
    for ((start, length), row) in positions {
        let own = &mut row[start..start + length];
        match pooler {
            Pooler::WeightedMean => own.copy_from_slice(&position_weights(left_out, length)),
            pooler => own.fill(1.0 / divisor(pooler, length)),
        }
    }
    let weights = Tensor::from_vec(weights, (count, rows), x.device())?;
    Ok(weights.matmul(x)?)
}

/// Added to positions that the maximum must not choose.
const BELOW_ALL: f32 = -1e30;

/// Returns the first row and number of rows of each sequence that are pooled.
fn pooled_rows(segments: &Segments) -> impl Iterator<Item = (usize, usize)> {
    let left_out = segments.left_out();
    segments
        .iter()
        .map(move |(start, length)| (start + left_out, length - left_out))
}

/// Returns the weights of `length` positions after `left_out` others, with sum
/// 1.
fn position_weights(left_out: usize, length: usize) -> Vec<f32> {
    let positions = left_out + 1..=left_out + length;
    let sum: usize = positions.clone().sum();
    positions
        .map(|position| position as f32 / sum as f32)
        .collect()
}

struct Pool {
    segments: Segments,
    pooler: Pooler,
    /// For the maximum: the row from which each element of the output was
    /// taken.
    chosen: Mutex<Vec<u32>>,
}

impl FusedOp for Pool {
    const NAME: &'static str = "pool";

    fn forward(&self, x: &[f32], shape: &[usize]) -> candle_core::Result<(Vec<f32>, Vec<usize>)> {
        let [_, width] = *shape else {
            candle_core::bail!("pooling takes [rows, width], not {shape:?}")
        };
        let count = self.segments.count();
        let mut y = vec![0.0; count * width];
        let mut chosen = Vec::new();
        if self.pooler == Pooler::Max {
            chosen = vec![0u32; count * width];
        }
        for (i, ((start, length), y)) in pooled_rows(&self.segments)
            .zip(y.chunks_exact_mut(width))
            .enumerate()
        {
            let rows = x[start * width..(start + length) * width].chunks_exact(width);
            match self.pooler {
                Pooler::Max => {
                    let chosen = &mut chosen[i * width..(i + 1) * width];
                    y.fill(f32::NEG_INFINITY);
                    for (number, row) in rows.enumerate() {
                        for ((y, x), chosen) in y.iter_mut().zip(row).zip(&mut *chosen) {
                            if *x > *y {
                                (*y, *chosen) = (*x, (start + number) as u32);
                            }
                        }
                    }
                }
                Pooler::GeM { p, eps } => {
                    for row in rows {
                        for (y, x) in y.iter_mut().zip(row) {
                            *y += x.max(eps).powf(p);
                        }
                    }
                    y.iter_mut()
                        .for_each(|y| *y = (*y / length as f32).powf(1.0 / p));
                }
                Pooler::WeightedMean => {
                    let weights = position_weights(self.segments.left_out(), length);
                    for (row, weight) in rows.zip(weights) {
                        for (y, x) in y.iter_mut().zip(row) {
                            *y += weight * x;
                        }
                    }
                }
                pooler => {
                    rows.for_each(|row| simd::add_assign(y, row));
                    let divisor = divisor(pooler, length);
                    y.iter_mut().for_each(|y| *y /= divisor);
                }
            }
        }
        *self.chosen.lock().unwrap_or_else(PoisonError::into_inner) = chosen;
        Ok((y, vec![count, width]))
    }

    fn backward(
        &self,
        x: &[f32],
        shape: &[usize],
        g: &[f32],
        wanted: bool,
    ) -> candle_core::Result<Option<Vec<f32>>> {
        if !wanted {
            return Ok(None);
        }
        let width = shape[1];
        let mut dx = vec![0.0; x.len()];
        if self.pooler == Pooler::Max {
            let chosen = self.chosen.lock().unwrap_or_else(PoisonError::into_inner);
            for (i, (row, g)) in chosen.iter().zip(g).enumerate() {
                dx[*row as usize * width + i % width] += g;
            }
            return Ok(Some(dx));
        }
        for ((start, length), g) in pooled_rows(&self.segments).zip(g.chunks_exact(width)) {
            let rows = start * width..(start + length) * width;
            let parts = || x[rows.clone()].chunks_exact(width);
            match self.pooler {
                Pooler::GeM { p, eps } => {
                    // d/dx of m^(1/p), m the mean of x^p: m^(1/p - 1) x^(p-1) / n.
                    let mut mean = vec![0.0; width];
                    for row in parts() {
                        for (mean, x) in mean.iter_mut().zip(row) {
                            *mean += x.max(eps).powf(p) / length as f32;
                        }
                    }
                    let mut scaled: Vec<f32> = g.iter().map(|g| g / length as f32).collect();
                    for (scaled, mean) in scaled.iter_mut().zip(&mean) {
                        *scaled *= mean.powf(1.0 / p - 1.0);
                    }
                    for (dx, x) in dx[rows.clone()].chunks_exact_mut(width).zip(parts()) {
                        for ((dx, x), scaled) in dx.iter_mut().zip(x).zip(&scaled) {
                            *dx = if *x >= eps {
                                scaled * x.powf(p - 1.0)
                            } else {
                                0.0
                            };
                        }
                    }
                }
                Pooler::WeightedMean => {
                    let weights = position_weights(self.segments.left_out(), length);
                    for (dx, weight) in dx[rows].chunks_exact_mut(width).zip(weights) {
                        for (dx, g) in dx.iter_mut().zip(g) {
                            *dx = weight * g;
                        }
                    }
                }
                pooler => {
                    let divisor = divisor(pooler, length);
                    let scaled: Vec<f32> = g.iter().map(|g| g / divisor).collect();
                    for dx in dx[rows].chunks_exact_mut(width) {
                        dx.copy_from_slice(&scaled);
                    }
                }
            }
        }
        Ok(Some(dx))
    }
}

/// Returns the number by which the sum of `length` positions is divided.
fn divisor(pooler: Pooler, length: usize) -> f32 {
    match pooler {
        Pooler::MeanSqrtLength => (length as f32).sqrt(),
        _ => length as f32,
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::ops::testing::{compare, noise, params};

    fn all() -> Vec<Pooler> {
        let gem = Pooler::GeM { p: 3.0, eps: 1e-2 };
        let several = Pooler::named(&["mean", "cls", "weightedmean", "mean"]).unwrap();
        let basic = BASIC.into_iter().map(|(pooler, _)| pooler);
        basic.chain([gem, several]).collect()
    }

    #[test]
    fn fused_equals_composite_for_every_pooler() {
        let params = params(&[], &[]);
        let x = Tensor::from_vec(noise(2, 9 * 7), (9, 7), &Device::Cpu).unwrap();
        for segments in [
            Segments::new([3, 1, 5]),
            Segments::new([3, 2, 4]).leaving_out(1),
        ] {
            for pooler in all() {
                compare(&params, &x, |pass, x| pool(pass, x, &segments, pooler));
            }
        }
    }

    #[test]
    fn poolers_have_the_names_of_sentence_transformers() {
        for (pooler, name) in BASIC {
            assert_eq!(Pooler::named(&[name]), Ok(pooler));
            assert_eq!(pooler.names(), Some(vec![name]));
            assert_eq!(pooler.dim(8), 8);
        }
        let two = Pooler::named(&["max", "cls"]).unwrap();
        assert_eq!(two.names(), Some(vec!["max", "cls"]));
        assert_eq!(two.dim(8), 16);
        assert_eq!(Pooler::GeM { p: 3.0, eps: 1e-6 }.names(), None);
        assert!(Pooler::named(&[]).is_err());
        let error = Pooler::named(&["mean", "best"]).unwrap_err();
        assert!(error.contains("`best`"), "{error}");
    }
}
