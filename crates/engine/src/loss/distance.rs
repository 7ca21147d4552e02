//! Distances and similarities between two sets of embeddings, with gradients.
//! Losses compute in double precision: on one batch it costs nothing.

use candle_core::{CpuStorage, CustomOp2, D, Layout, Shape, Tensor};
use rayon::prelude::*;

use super::class::class;
pub(crate) use crate::ops::normalize;
use crate::{Result, options::OptionReader};

/// How far apart, or how alike, two embeddings are: a class of
/// `pytorch_metric_learning.distances` with its options.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Metric {
    kind: Kind,
    /// The norm that embeddings are normalised by, and that of `Kind::Lp`.
    pub(super) p: f64,
    /// The power that each distance is raised to.
    pub(super) power: f64,
    normalize: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    /// The norm of the difference.
    Lp,
    /// Cosine of the angle.
    Cosine,
    /// The product of both.
    Dot,
    /// Variance of the difference over the variance of the first.
    Snr,
}

impl Kind {
    const ALL: [(&'static str, Self); 4] = [
        ("CosineSimilarity", Self::Cosine),
        ("DotProductSimilarity", Self::Dot),
        ("LpDistance", Self::Lp),
        ("SNRDistance", Self::Snr),
    ];
}

impl Metric {
    /// Euclidean distance of normalised embeddings.
    pub(crate) const LP: Self = Self::of(Kind::Lp);
    /// Its square.
    pub(super) const LP_SQUARED: Self = Self {
        power: 2.0,
        ..Self::LP
    };
    /// Cosine of the angle.
    pub(crate) const COSINE: Self = Self::of(Kind::Cosine);
    /// The product of normalised embeddings.
    pub(super) const DOT: Self = Self::of(Kind::Dot);
    /// Variance of the difference over the variance of the first.
    pub(super) const SNR: Self = Self::of(Kind::Snr);

    const fn of(kind: Kind) -> Self {
        Self {
            kind,
            p: 2.0,
            power: 1.0,
            normalize: true,
        }
    }

    /// Reads the option `distance`: a name, or an object with `name` and
    /// `options`.
    ///
    /// # Errors
    /// [`crate::Error::Config`] where it is no distance, or one that `limit` does not
    /// allow.
    pub(crate) fn read(read: &OptionReader<'_>, default: Self, limit: Limit) -> Result<Self> {
        let Some((name, options)) = class(read, "distance")? else {
            return Ok(default);
        };
        let Some((_, kind)) = Kind::ALL.iter().find(|(known, _)| *known == name) else {
            let known = Kind::ALL.map(|(known, _)| known).join(", ");
            return Err(read.bad("distance", &format!("one of {known} is wanted")));
        };
        let field = format!("{}.distance", read.field());
        let inner = OptionReader::new(&field, options.as_ref());
        let metric = Self {
            kind: *kind,
            p: inner.number("p", 2.0, 1.0, 1e6)?,
            // A root has no slope at 0, where each example is from itself.
            power: inner.number("power", 1.0, 1.0, 100.0)?,
            // A cosine is one of normalised embeddings.
            normalize: *kind == Kind::Cosine || inner.flag("normalize_embeddings", true)?,
        };
        if metric.is_similarity() && metric.power.fract() != 0.0 {
            return Err(inner.bad(
                "power",
                "a whole number is wanted: similarities may be negative",
            ));
        }
        inner.finish()?;
        match limit.allows(metric) {
            true => Ok(metric),
            false => Err(read.bad("distance", limit.wanted())),
        }
    }

    /// Whether larger means more alike.
    pub(crate) fn is_similarity(self) -> bool {
        matches!(self.kind, Kind::Cosine | Kind::Dot)
    }

    /// `[n, m]` for embeddings `[n, dim]` and `[m, dim]`.
    pub(crate) fn matrix(self, x: &Tensor, y: &Tensor) -> Result<Tensor> {
        let prepared = |x: &Tensor| match self.normalize {
            true => self.normalized(x),
            false => Ok(x.clone()),
        };
        let (x, y) = (prepared(x)?, prepared(y)?);
        let matrix = match self.kind {
            Kind::Cosine | Kind::Dot => x.matmul(&y.t()?)?,
            Kind::Lp => lp(&x, &y, self.p)?,
            Kind::Snr => noise(&x, &y)?,
        };
        Ok(match self.power {
            1.0 => matrix,
            2.0 => matrix.sqr()?,
            power => matrix.powf(power)?,
        })
    }

    /// Rows with the length 1 by the metric's norm, whether or not it
    /// normalises embeddings.
    pub(super) fn normalized(self, x: &Tensor) -> Result<Tensor> {
        if self.p == 2.0 {
            return normalize(x);
        }
        let length = self.lengths(x)?.maximum(1e-12)?;
        Ok(x.broadcast_div(&length)?)
    }

    /// The length of each row by the metric's norm, `[n, 1]`.
    pub(super) fn lengths(self, x: &Tensor) -> Result<Tensor> {
        let sum = |x: Tensor| x.sum_keepdim(D::Minus1);
        Ok(match self.p {
            2.0 => sum(x.sqr()?)?.maximum(1e-24)?.sqrt()?,
            1.0 => sum(x.abs()?)?,
            p => sum(x.abs()?.powf(p)?)?.maximum(1e-300)?.powf(1.0 / p)?,
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

    /// By how much `x` is farther than `y`.
    pub(super) fn margin(self, x: &Tensor, y: &Tensor) -> candle_core::Result<Tensor> {
        if self.is_similarity() { y - x } else { x - y }
    }

    /// The nearer of both.
    pub(super) fn nearer(self, x: &Tensor, y: &Tensor) -> candle_core::Result<Tensor> {
        if self.is_similarity() {
            x.maximum(y)
        } else {
            x.minimum(y)
        }
    }

    /// Distances as similarities: the larger, the more alike.
    pub(super) fn alike(self, x: Tensor) -> candle_core::Result<Tensor> {
        if self.is_similarity() { Ok(x) } else { x.neg() }
    }
}

/// The distances that a loss or a miner can be computed with, as the library
/// asserts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Limit {
    /// Any.
    None,
    /// The cosine.
    Cosine,
    /// Euclidean distance of normalised embeddings.
    Euclidean,
    /// The same, to any power.
    EuclideanPower,
    /// A similarity.
    Similarity,
    /// The ratio of signal and noise.
    Snr,
}

impl Limit {
    fn allows(self, metric: Metric) -> bool {
        let euclidean = Metric {
            power: metric.power,
            ..Metric::LP
        };
        match self {
            Self::None => true,
            Self::Cosine => metric.kind == Kind::Cosine,
            Self::Euclidean => metric == Metric::LP,
            Self::EuclideanPower => metric == euclidean,
            Self::Similarity => metric.is_similarity(),
            Self::Snr => metric.kind == Kind::Snr,
        }
    }

    fn wanted(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Cosine => "`CosineSimilarity` is the only one possible here",
            Self::Euclidean => {
                "`LpDistance` with `p` 2, `power` 1 and `normalize_embeddings` true is the only one \
                 possible here"
            }
            Self::EuclideanPower => {
                "`LpDistance` with `p` 2 and `normalize_embeddings` true is the only one possible \
                 here"
            }
            Self::Similarity => "`CosineSimilarity` or `DotProductSimilarity` is wanted",
            Self::Snr => "`SNRDistance` is the only one possible here",
        }
    }
}

/// The variance of each difference over that of its first side.
fn noise(x: &Tensor, y: &Tensor) -> Result<Tensor> {
    let dim = x.dim(1)? as f64;
    let centered = |x: &Tensor| x.broadcast_sub(&x.mean_keepdim(D::Minus1)?);
    let (x, y) = (centered(x)?, centered(y)?);
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
    Ok(of_difference.broadcast_div(&vx)?)
}

/// Length of each difference.
pub(super) fn euclidean(x: &Tensor, y: &Tensor) -> Result<Tensor> {
    lp(x, y, 2.0)
}

/// The `p`-norm of each difference.
fn lp(x: &Tensor, y: &Tensor, p: f64) -> Result<Tensor> {
    Ok(x.contiguous()?.apply_op2(&y.contiguous()?, Lp { p })?)
}

/// Its slope where two rows are equal is zero, as in PyTorch; the root of a sum
/// from candle's operations would have none.
struct Lp {
    p: f64,
}

impl Lp {
    fn slice<'a>(storage: &'a CpuStorage, layout: &Layout) -> candle_core::Result<&'a [f64]> {
        match (storage, layout.contiguous_offsets()) {
            (CpuStorage::F64(data), Some((start, end))) => Ok(&data[start..end]),
            _ => candle_core::bail!("distances take contiguous f64 on the CPU"),
        }
    }

    fn between(&self, x: &[f64], y: &[f64]) -> f64 {
        let differences = x.iter().zip(y).map(|(x, y)| x - y);
        match self.p {
            2.0 => differences.map(|d| d * d).sum::<f64>().sqrt(),
            1.0 => differences.map(f64::abs).sum(),
            p => {
                let sum: f64 = differences.map(|d| d.abs().powf(p)).sum();
                sum.powf(1.0 / p)
            }
        }
    }

    /// The slope of a distance in one of the differences.
    fn slope(&self, difference: f64, distance: f64) -> f64 {
        match self.p {
            2.0 => difference / distance,
            // A slope of no difference is 0.
            _ if difference == 0.0 => 0.0,
            1.0 => difference.signum(),
            p => difference.signum() * (difference.abs() / distance).powf(p - 1.0),
        }
    }
}

impl CustomOp2 for Lp {
    fn name(&self) -> &'static str {
        "lp-distance"
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
                    *out = self.between(x, y);
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
        let (mut dx, mut dy) = (vec![0.0; n * dim], vec![0.0; m * dim]);
        for (i, (x, dx)) in xs
            .chunks_exact(dim)
            .zip(dx.chunks_exact_mut(dim))
            .enumerate()
        {
            for (j, (y, dy)) in ys
                .chunks_exact(dim)
                .zip(dy.chunks_exact_mut(dim))
                .enumerate()
            {
                let (distance, g) = (ds[i * m + j], gs[i * m + j]);
                if distance == 0.0 || g == 0.0 {
                    continue;
                }
                for (((x, y), dx), dy) in x.iter().zip(y).zip(&mut *dx).zip(dy) {
                    let slope = g * self.slope(x - y, distance);
                    *dx += slope;
                    *dy -= slope;
                }
            }
        }
        Ok((
            Some(Tensor::from_vec(dx, x.shape(), x.device())?),
            Some(Tensor::from_vec(dy, y.shape(), y.device())?),
        ))
    }
}
