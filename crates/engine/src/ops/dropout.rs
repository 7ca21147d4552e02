//! Dropout (Srivastava et al. 2014) and stochastic depth (Huang et al. 2016,
//! arXiv:1603.09382) with reproducible masks.
//!
//! A mask depends only on the run's seed, the batch number, the member of the
//! examples, the site in the network, the number of the example in its batch,
//! and the element. So a resumed run has the same masks, and so has the second
//! pass over a mini-batch of cached gradients.

use candle_core::Tensor;
use rayon::prelude::*;

use super::{
    Pass, Segments,
    draws::{Draws, GOLDEN, derive_key, mix},
};
use crate::Result;

/// Elements that share one 64-bit random number.
const LANES: usize = 4;
/// Rates are multiples of one part in this many.
const PARTS: f64 = 65_536.0;

/// The masks of one operation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Masks {
    draws: Draws,
    /// An element is dropped if its 16 bits are below this.
    dropped: u64,
    /// Factor of kept elements.
    kept: f32,
}

impl Masks {
    /// Returns the masks of the operation `site` of a pass, or `None` if it
    /// drops nothing.
    pub(crate) fn new(pass: &Pass, site: u64, rate: f32) -> Option<Self> {
        Self::of(pass.draws()?, site, rate)
    }

    /// Returns the masks of the operation `site`, or `None` if it drops
    /// nothing.
    pub(super) fn of(draws: Draws, site: u64, rate: f32) -> Option<Self> {
        let dropped = (f64::from(rate) * PARTS).round().clamp(0.0, PARTS - 1.0);
        (dropped > 0.0).then(|| Self {
            draws: draws.within(site),
            dropped: dropped as u64,
            kept: (1.0 / (1.0 - dropped / PARTS)) as f32,
        })
    }

    /// Applies dropout to row `row` of an example: zeroes some elements and
    /// scales the others.
    pub(super) fn apply(&self, example: usize, row: u64, x: &mut [f32]) {
        let example = (self.draws.first + example) as u64;
        let key = derive_key(derive_key(self.draws.key, example), row);
        for (i, part) in x.chunks_mut(LANES).enumerate() {
            let mut word = mix(key.wrapping_add((i as u64).wrapping_mul(GOLDEN)));
            for x in part {
                *x = match word & 0xFFFF < self.dropped {
                    true => 0.0,
                    false => *x * self.kept,
                };
                word >>= 16;
            }
        }
    }

    /// Applies dropout to rows of `width` elements, each given by its example
    /// and its position in it.
    pub(super) fn apply_rows(&self, positions: &[(usize, usize)], width: usize, x: &mut [f32]) {
        x.par_chunks_exact_mut(width)
            .zip(positions)
            .for_each(|(row, (example, position))| self.apply(*example, *position as u64, row));
    }

    /// Returns the factor of a whole example: 0 if dropped, else that of kept
    /// elements.
    pub(super) fn factor(&self, example: usize) -> f32 {
        let mut factor = [1.0];
        self.apply(example, 0, &mut factor);
        factor[0]
    }
}

/// Dropout rates of a block.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct BlockRates {
    /// Rate for attention weights.
    pub(crate) attention: f32,
    /// Rate for the output of each half's last layer.
    pub(crate) halves: [f32; 2],
    /// Rate for the input of the MLP's last layer.
    pub(crate) inner: f32,
    /// Rate at which an example skips a half (stochastic depth).
    pub(crate) path: f32,
}

/// The masks of a block.
#[derive(Clone, Copy, Default)]
pub(super) struct BlockMasks {
    pub(super) attention: Option<Masks>,
    pub(super) halves: [Option<Masks>; 2],
    pub(super) inner: Option<Masks>,
    pub(super) paths: [Option<Masks>; 2],
}

impl BlockRates {
    /// Returns the rates of a BERT block, with `hidden` after both halves.
    pub(crate) fn new(attention: f32, hidden: f32) -> Self {
        Self {
            attention,
            halves: [hidden; 2],
            ..Self::default()
        }
    }

    pub(super) fn masks(&self, pass: &Pass) -> BlockMasks {
        let masks = |site, rate| Masks::new(pass, site, rate);
        BlockMasks {
            attention: masks(0, self.attention),
            halves: [masks(1, self.halves[0]), masks(2, self.halves[1])],
            inner: masks(3, self.inner),
            paths: [masks(4, self.path), masks(5, self.path)],
        }
    }
}

/// Sites of dropout outside the blocks. Blocks have the numbers from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Site {
    /// Input of the first block.
    Embeddings,
    /// Output of the network.
    Output,
    /// The module of sentence-transformers with this number.
    Module(usize),
    /// The block of a convolutional network with this number.
    Convolution(usize),
}

impl Site {
    fn number(self) -> u64 {
        let (kind, position) = match self {
            Self::Embeddings => (1, 0),
            Self::Output => (2, 0),
            Self::Module(position) => (3, position),
            Self::Convolution(position) => (4, position),
        };
        (kind << 32) | position as u64
    }
}

/// Applies dropout to the rows of several sequences, `[rows, width]`, or to one
/// row per sequence at the positions `only`.
pub(crate) fn dropout(
    pass: &Pass,
    x: &Tensor,
    (site, rate): (Site, f32),
    segments: &Segments,
    only: Option<&[usize]>,
) -> Result<Tensor> {
    match Masks::new(pass, site.number(), rate) {
        None => Ok(x.clone()),
        Some(masks) => apply_masks(x, &masks, &segments.positions(only)),
    }
}

/// Applies dropout to inputs without positions, `[batch, ..]`.
pub(crate) fn dropout_examples(
    pass: &Pass,
    x: &Tensor,
    (site, rate): (Site, f32),
) -> Result<Tensor> {
    let batch = x.dim(0)?;
    let rows = x.reshape((batch, x.elem_count() / batch.max(1)))?;
    let dropped = dropout(
        pass,
        &rows,
        (site, rate),
        &Segments::uniform(batch, 1),
        None,
    )?;
    Ok(dropped.reshape(x.shape())?)
}

/// Applies masks to `x` with candle's operations.
pub(super) fn apply_masks(
    x: &Tensor,
    masks: &Masks,
    positions: &[(usize, usize)],
) -> Result<Tensor> {
    let (rows, width) = x.dims2()?;
    let mut factors = vec![1.0; rows * width];
    masks.apply_rows(positions, width, &mut factors);
    Ok((x * Tensor::from_vec(factors, (rows, width), x.device())?)?)
}

/// Returns the factor of each row's example, `[rows, 1]`.
pub(super) fn path_factors(
    masks: &Masks,
    positions: &[(usize, usize)],
    x: &Tensor,
) -> Result<Tensor> {
    let factors = positions.iter().map(|(example, _)| masks.factor(*example));
    Ok(Tensor::from_iter(factors, x.device())?.reshape((positions.len(), 1))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn masks(draws: Draws, rate: f64) -> Masks {
        Masks {
            draws,
            dropped: (rate * PARTS) as u64,
            kept: (1.0 / (1.0 - rate)) as f32,
        }
    }

    fn row(masks: &Masks, example: usize, row: u64) -> Vec<f32> {
        let mut x = vec![1.0; 1000];
        masks.apply(example, row, &mut x);
        x
    }

    #[test]
    fn masks_have_the_mean_and_the_variance_of_their_rate() {
        for rate in [0.1, 0.5, 0.9] {
            let masks = masks(Draws::new(7, 3, 1), rate);
            let values: Vec<f32> = (0..200)
                .flat_map(|i| row(&masks, i / 10, i as u64))
                .collect();
            let count = values.len() as f64;
            let mean = values.iter().map(|x| f64::from(*x)).sum::<f64>() / count;
            let squares = values.iter().map(|x| (f64::from(*x) - 1.0).powi(2));
            let variance = squares.sum::<f64>() / count;
            // Each factor is 0 at the rate, else 1 / (1 - rate).
            let expected = rate / (1.0 - rate);
            assert!(
                (mean - 1.0).abs() < 5.0 * (expected / count).sqrt(),
                "{rate}: {mean}"
            );
            assert!(
                (variance / expected - 1.0).abs() < 0.03,
                "{rate}: {variance}"
            );
            // Neighbours in a row and between rows are independent.
            for step in [1, 2, 3, 4, 1000] {
                let pairs = values.iter().zip(&values[step..]);
                let products = pairs.map(|(a, b)| f64::from(a - 1.0) * f64::from(b - 1.0));
                let covariance = products.sum::<f64>() / (count - step as f64);
                assert!(
                    covariance.abs() < 5.0 * expected / count.sqrt(),
                    "{rate}, {step} apart: {covariance}"
                );
            }
        }
    }

    #[test]
    fn every_part_of_the_key_gives_another_mask_and_the_same_key_the_same() {
        let draws = Draws::new(7, 3, 1);
        let first = row(&masks(draws, 0.5), 0, 0);
        assert_eq!(first, row(&masks(draws, 0.5), 0, 0));
        let others = [
            row(&masks(Draws::new(8, 3, 1), 0.5), 0, 0),
            row(&masks(Draws::new(7, 4, 1), 0.5), 0, 0),
            row(&masks(Draws::new(7, 3, 0), 0.5), 0, 0),
            row(&masks(draws.within(0), 0.5), 0, 0),
            row(&masks(draws.within(1), 0.5), 0, 0),
            row(&masks(draws, 0.5), 1, 0),
            row(&masks(draws, 0.5), 0, 1),
        ];
        for (i, other) in others.iter().enumerate() {
            // Half of the elements agree by chance.
            let equal = first.iter().zip(other).filter(|(a, b)| a == b).count();
            assert!(
                (400..600).contains(&equal),
                "{i}: {equal} of 1000 are equal"
            );
        }
        // A mini-batch that starts at a later example continues with its masks.
        let later = masks(draws.starting_at(5), 0.5);
        assert_eq!(row(&later, 2, 9), row(&masks(draws, 0.5), 7, 9));
    }

    #[test]
    fn an_example_is_dropped_as_often_as_the_rate_says() {
        let masks = masks(Draws::new(1, 2, 3), 0.25);
        let factors: Vec<f32> = (0..4000).map(|example| masks.factor(example)).collect();
        let dropped = factors.iter().filter(|factor| **factor == 0.0).count();
        assert!((880..1120).contains(&dropped), "{dropped}");
        let kept = factors.iter().filter(|factor| **factor > 0.0);
        assert!(kept.clone().all(|factor| (factor - 4.0 / 3.0).abs() < 1e-6));
    }
}
