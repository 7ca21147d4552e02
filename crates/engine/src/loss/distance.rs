//! Distances and similarities between two sets of embeddings, with gradients.
//! Losses compute in double precision: on one batch it costs nothing.

use candle_core::{CpuStorage, CustomOp2, D, Layout, Shape, Tensor};
use rayon::prelude::*;

use crate::Result;
pub(crate) use crate::ops::normalize;

/// How far apart, or how alike, two embeddings are: the classes of
/// `pytorch_metric_learning.distances` with their defaults.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Metric {
    /// Euclidean distance of normalised embeddings.
    Lp,
    /// Its square.
    LpSquared,
    /// Cosine of the angle.
    Cosine,
    /// Variance of the difference over the variance of the first.
    Snr,
}

impl Metric {
    /// Whether larger means more alike.
    pub(crate) fn is_similarity(self) -> bool {
        self == Self::Cosine
    }

    /// `[n, m]` for embeddings `[n, dim]` and `[m, dim]`.
    pub(crate) fn matrix(self, x: &Tensor, y: &Tensor) -> Result<Tensor> {
        let (x, y) = (normalize(x)?, normalize(y)?);
        Ok(match self {
            Self::Cosine => x.matmul(&y.t()?)?,
            Self::Lp => euclidean(&x, &y)?,
            Self::LpSquared => euclidean(&x, &y)?.sqr()?,
            Self::Snr => {
                let dim = x.dim(1)? as f64;
                let centered = |x: &Tensor| x.broadcast_sub(&x.mean_keepdim(D::Minus1)?);
                let (x, y) = (centered(&x)?, centered(&y)?);
                let variance = |x: &Tensor| {
                    x.sqr()?
                        .sum_keepdim(D::Minus1)?
                        .affine(1.0 / (dim - 1.0), 0.0)
                };
                let (vx, vy) = (variance(&x)?, variance(&y)?);
                let covariance = (x.matmul(&y.t()?)? / (dim - 1.0))?;
                let of_difference = vx
                    .broadcast_add(&vy.t()?)?
                    .sub(&(covariance * 2.0)?)?
                    .maximum(0.0)?;
                of_difference.broadcast_div(&vx)?
            }
        })
    }

    /// By how much `x` is worse than a number: above zero where it is farther.
    pub(crate) fn over(self, x: &Tensor, limit: f64) -> candle_core::Result<Tensor> {
        if self.is_similarity() {
            x.affine(-1.0, limit)
        } else {
            x.affine(1.0, -limit)
        }
    }

    /// By how much a number is worse than `x`.
    pub(crate) fn under(self, limit: f64, x: &Tensor) -> candle_core::Result<Tensor> {
        self.over(x, limit)?.neg()
    }
}

/// Length of each difference.
pub(super) fn euclidean(x: &Tensor, y: &Tensor) -> Result<Tensor> {
    Ok(x.contiguous()?.apply_op2(&y.contiguous()?, Euclidean)?)
}

/// Its slope where two rows are equal is zero, as in PyTorch; the root of a sum
/// of squares from candle's operations would have none.
struct Euclidean;

impl Euclidean {
    fn slice<'a>(storage: &'a CpuStorage, layout: &Layout) -> candle_core::Result<&'a [f64]> {
        match (storage, layout.contiguous_offsets()) {
            (CpuStorage::F64(data), Some((start, end))) => Ok(&data[start..end]),
            _ => candle_core::bail!("distances take contiguous f64 on the CPU"),
        }
    }
}

impl CustomOp2 for Euclidean {
    fn name(&self) -> &'static str {
        "euclidean-distance"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        y: &CpuStorage,
        y_layout: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let (x, y) = (Self::slice(x, x_layout)?, Self::slice(y, y_layout)?);
        let (n, dim) = x_layout.shape().dims2()?;
        let m = y_layout.shape().dims2()?.0;
        let mut out = vec![0.0; n * m];
        out.par_chunks_mut(m.max(1))
            .zip(x.par_chunks(dim))
            .for_each(|(out, x)| {
                for (out, y) in out.iter_mut().zip(y.chunks_exact(dim)) {
                    let squares = x.iter().zip(y).map(|(x, y)| (x - y) * (x - y));
                    *out = squares.sum::<f64>().sqrt();
                }
            });
        Ok((CpuStorage::F64(out), Shape::from((n, m))))
    }

    fn bwd(
        &self,
        x: &Tensor,
        y: &Tensor,
        distance: &Tensor,
        g: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>)> {
        let (n, dim) = x.dims2()?;
        let m = y.dim(0)?;
        let flat = |t: &Tensor| t.contiguous()?.flatten_all()?.to_vec1::<f64>();
        let (xs, ys, ds, gs) = (flat(x)?, flat(y)?, flat(distance)?, flat(g)?);
        // dx_i = sum_j g_ij (x_i - y_j) / d_ij, and dy_j the other way round.
        let side = |count: usize,
                    others: usize,
                    at: &dyn Fn(usize, usize) -> f64,
                    a: &[f64],
                    b: &[f64]| {
            let mut out = vec![0.0; count * dim];
            for (i, out) in out.chunks_exact_mut(dim).enumerate() {
                let row = &a[i * dim..(i + 1) * dim];
                for j in 0..others {
                    let weight = at(i, j);
                    if weight != 0.0 {
                        let other = &b[j * dim..(j + 1) * dim];
                        for ((out, a), b) in out.iter_mut().zip(row).zip(other) {
                            *out += weight * (a - b);
                        }
                    }
                }
            }
            out
        };
        let weight = |i: usize, j: usize| match ds[i * m + j] {
            0.0 => 0.0,
            distance => gs[i * m + j] / distance,
        };
        let dx = side(n, m, &weight, &xs, &ys);
        let dy = side(m, n, &|j, i| weight(i, j), &ys, &xs);
        Ok((
            Some(Tensor::from_vec(dx, x.shape(), x.device())?),
            Some(Tensor::from_vec(dy, y.shape(), y.device())?),
        ))
    }
}
