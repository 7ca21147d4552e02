//! From the vectors of a sequence's places to one vector for the sequence.

use std::sync::{Mutex, PoisonError};

use candle_core::Tensor;

use super::{
    FusedOp, Pass, Segments, block::select_places, largest::first_largest, rows::take_rows,
    tensors::NO_ROW,
};
use crate::{Result, kernels::simd};

/// How the outputs of all places become one embedding. Only the places of a
/// sequence count, never padding. Formulas and order are those of
/// sentence-transformers' `Pooling`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pooler {
    /// The mean of all places.
    Mean,
    /// The largest value of each element.
    Max,
    /// The first place: the `[CLS]` token of a BERT.
    Cls,
    /// The sum of all places, divided by the square root of their number.
    MeanSqrtLength,
    /// The mean of all places, weighted by their position: 1, 2, 3 and so on.
    WeightedMean,
    /// The last place.
    LastToken,
    /// Generalized mean (Radenovic et al. 2018, arXiv:1711.02512):
    /// `mean(max(x, eps)^p)^(1/p)`.
    GeM {
        /// The power, 3 by default: 1 is the mean, infinity the maximum.
        p: f32,
        /// Smaller values count as this, 1e-6 by default.
        eps: f32,
    },
    /// Several poolers, their vectors side by side.
    Concat(Concat),
}

/// The most poolers that are combined.
const MOST: usize = 6;

/// The poolers that can be combined, with the names that sentence-transformers
/// gives them, in the order in which its older versions put them side by side.
const BASIC: [(Pooler, &str); MOST] = [
    (Pooler::Cls, "cls"),
    (Pooler::Max, "max"),
    (Pooler::Mean, "mean"),
    (Pooler::MeanSqrtLength, "mean_sqrt_len_tokens"),
    (Pooler::WeightedMean, "weightedmean"),
    (Pooler::LastToken, "lasttoken"),
];

/// Two to six poolers whose vectors are put side by side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Concat {
    /// Places in [`BASIC`], of which the first `count` are used.
    places: [u8; MOST],
    count: u8,
}

impl Concat {
    pub(crate) fn poolers(self) -> impl ExactSizeIterator<Item = (Pooler, &'static str)> {
        let chosen = self.places.into_iter().take(usize::from(self.count));
        chosen.map(|place| BASIC[usize::from(place) % MOST])
    }
}

impl Pooler {
    /// The pooler of these names, which are those of sentence-transformers.
    ///
    /// # Errors
    /// Where a name is unknown, or there are none or more than six.
    pub fn named(names: &[&str]) -> Result<Self, String> {
        let known = || BASIC.map(|(_, name)| format!("`{name}`")).join(", ");
        let mut places = [0; MOST];
        let wanted = names.len();
        if wanted == 0 || wanted > MOST {
            let known = known();
            return Err(format!(
                "{wanted} pooling modes; 1 to {MOST} of {known} can be combined"
            ));
        }
        for (place, name) in places.iter_mut().zip(names) {
            let found = BASIC.iter().position(|(_, known)| known == name);
            *place = found.ok_or_else(|| {
                let known = known();
                format!("the pooling mode `{name}` is unknown; {known} are known")
            })? as u8;
        }
        let count = wanted as u8;
        Ok(match names.len() {
            1 => BASIC[usize::from(places[0])].0,
            _ => Self::Concat(Concat { places, count }),
        })
    }

    /// The names that sentence-transformers has for it, in their order; `None`
    /// where it has none.
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

    /// Length of an embedding pooled from vectors of `width` elements.
    #[must_use]
    pub fn dim(self, width: usize) -> usize {
        match self {
            Self::Concat(concat) => concat.poolers().len() * width,
            _ => width,
        }
    }

    /// The one place of each sequence that this pooler takes, if it needs no
    /// others: the last block then computes these alone.
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

/// Pools `[rows, width]` to `[sequences, pooler.dim(width)]`. The places that
/// [`Segments::left_out`] counts at the beginning of each sequence are left out.
pub(crate) fn pool(pass: &Pass, x: &Tensor, segments: &Segments, pooler: Pooler) -> Result<Tensor> {
    if let Some(only) = pooler.only(segments) {
        return select_places(pass, x, segments, &only);
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

/// The same on any device.
fn composite(pass: &Pass, x: &Tensor, segments: &Segments, pooler: Pooler) -> Result<Tensor> {
    match pooler {
        Pooler::Max => {
            let longest = pooled_places(segments).map(|(_, length)| length).max();
            let longest = longest.unwrap_or(0);
            let rows = pooled_places(segments).flat_map(|(start, length)| {
                (0..longest).map(move |place| match place < length {
                    true => (start + place) as u32,
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

/// The sum of the places of each sequence, each times its weight.
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
    // A product with a row of weights for each sequence.
    let mut weights = vec![0f32; count * rows];
    let places = pooled_places(segments).zip(weights.chunks_exact_mut(rows.max(1)));
    for ((start, length), row) in places {
        let own = &mut row[start..start + length];
        match pooler {
            Pooler::WeightedMean => own.copy_from_slice(&position_weights(left_out, length)),
            pooler => own.fill(1.0 / divisor(pooler, length)),
        }
    }
    let weights = Tensor::from_vec(weights, (count, rows), x.device())?;
    Ok(weights.matmul(x)?)
}

/// What is added to a place that is not pooled.
const BELOW_ALL: f32 = -1e30;

/// The first row and the number of the rows of each sequence that are pooled.
fn pooled_places(segments: &Segments) -> impl Iterator<Item = (usize, usize)> {
    let left_out = segments.left_out();
    segments
        .iter()
        .map(move |(start, length)| (start + left_out, length - left_out))
}

/// The weights of `length` places behind `left_out` others, which add up to 1.
fn position_weights(left_out: usize, length: usize) -> Vec<f32> {
    let positions = left_out + 1..=left_out + length;
    let sum: usize = positions.clone().sum();
    positions.map(|place| place as f32 / sum as f32).collect()
}

struct Pool {
    segments: Segments,
    pooler: Pooler,
    /// The row that each element of the result was taken from, where the
    /// largest is wanted.
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
        for (i, ((start, length), y)) in pooled_places(&self.segments)
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
        for ((start, length), g) in pooled_places(&self.segments).zip(g.chunks_exact(width)) {
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

/// The number by which the sum of `length` places is divided.
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
    fn poolers_are_told_by_the_names_of_sentence_transformers() {
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
