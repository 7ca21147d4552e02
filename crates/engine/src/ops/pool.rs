//! From the vectors of a sequence's places to one vector for the sequence.

use std::sync::{Mutex, PoisonError};

use candle_core::Tensor;

use super::{FusedOp, Pass, Segments, block::select_places};
use crate::{Result, kernels::simd};

/// How the outputs of all places become one embedding. Only the places of a
/// sequence count, never padding.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pooler {
    /// The mean of all places.
    Mean,
    /// The largest value of each element.
    Max,
    /// The first place: the `[CLS]` token of a BERT.
    Cls,
    /// Generalized mean (Radenovic et al. 2018, arXiv:1711.02512):
    /// `mean(max(x, eps)^p)^(1/p)`.
    GeM {
        /// The power, 3 by default: 1 is the mean, infinity the maximum.
        p: f32,
        /// What smaller values count as, 1e-6 by default.
        eps: f32,
    },
}

/// Pools `[rows, width]` to `[sequences, width]`.
pub(crate) fn pool(pass: &Pass, x: &Tensor, segments: &Segments, pooler: Pooler) -> Result<Tensor> {
    if pooler == Pooler::Cls {
        return select_places(x, segments, &vec![0; segments.count()]);
    }
    if pass.is_fused() {
        let op = Pool {
            segments: segments.clone(),
            pooler,
            chosen: Mutex::new(Vec::new()),
        };
        return pass.apply(x, op);
    }
    let pooled: Vec<Tensor> = segments
        .iter()
        .map(|(start, length)| -> candle_core::Result<Tensor> {
            let rows = x.narrow(0, start, length)?;
            match pooler {
                Pooler::Max => rows.max_keepdim(0),
                Pooler::GeM { p, eps } => rows
                    .maximum(eps)?
                    .powf(f64::from(p))?
                    .mean_keepdim(0)?
                    .powf(1.0 / f64::from(p)),
                Pooler::Mean | Pooler::Cls => rows.mean_keepdim(0),
            }
        })
        .collect::<candle_core::Result<_>>()?;
    Ok(Tensor::cat(&pooled, 0)?)
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
        for (i, ((start, length), y)) in self
            .segments
            .iter()
            .zip(y.chunks_exact_mut(width))
            .enumerate()
        {
            let rows = x[start * width..(start + length) * width].chunks_exact(width);
            match self.pooler {
                Pooler::Mean | Pooler::Cls => {
                    rows.for_each(|row| simd::add_assign(y, row));
                    y.iter_mut().for_each(|y| *y /= length as f32);
                }
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
        for ((start, length), g) in self.segments.iter().zip(g.chunks_exact(width)) {
            let rows = start * width..(start + length) * width;
            let parts = || x[rows.clone()].chunks_exact(width);
            let mut scaled: Vec<f32> = g.iter().map(|g| g / length as f32).collect();
            if let Pooler::GeM { p, eps } = self.pooler {
                // d/dx of m^(1/p), m the mean of x^p: m^(1/p - 1) x^(p-1) / n.
                let mut mean = vec![0.0; width];
                for row in parts() {
                    for (mean, x) in mean.iter_mut().zip(row) {
                        *mean += x.max(eps).powf(p) / length as f32;
                    }
                }
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
            } else {
                for dx in dx[rows].chunks_exact_mut(width) {
                    dx.copy_from_slice(&scaled);
                }
            }
        }
        Ok(Some(dx))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::ops::testing::{compare, noise, params};

    #[test]
    fn fused_equals_composite_for_every_pooler() {
        let params = params(&[], &[]);
        let segments = Segments::new([3, 1, 5]);
        let x = Tensor::from_vec(noise(2, 9 * 7), (9, 7), &Device::Cpu).unwrap();
        let gem = Pooler::GeM { p: 3.0, eps: 1e-2 };
        for pooler in [Pooler::Mean, Pooler::Max, Pooler::Cls, gem] {
            compare(&params, &x, |pass, x| pool(pass, x, &segments, pooler));
        }
    }
}
