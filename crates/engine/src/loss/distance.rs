//! Differentiable distances and similarities between two sets of embeddings.
//!
//! Losses use double precision, which costs little for the embeddings of one batch.

use candle_core::{CpuStorage, CustomOp2, D, Layout, Shape, Tensor};
use rayon::prelude::*;

use super::class::read_class;
pub(crate) use crate::ops::normalize;
use crate::{Result, options::OptionReader};

/// A distance or similarity of embeddings.
///
/// It is a class of `pytorch_metric_learning.distances` with its options.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Metric {
    kind: Kind,
    /// Order of the norm, for normalisation and for `Kind::Lp`.
    pub(super) p: f64,
    /// Exponent applied to each distance.
    pub(super) power: f64,
    normalize: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    /// Norm of the difference.
    Lp,
    /// Cosine similarity.
    Cosine,
    /// Dot product.
    Dot,
    /// Variance of the difference divided by that of the first embedding.
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
    /// Squared Euclidean distance of normalised embeddings.
    pub(super) const LP_SQUARED: Self = Self {
        power: 2.0,
        ..Self::LP
    };
    /// Cosine similarity.
    pub(crate) const COSINE: Self = Self::of(Kind::Cosine);
    /// Dot product of normalised embeddings.
    pub(super) const DOT: Self = Self::of(Kind::Dot);
    /// Signal-to-noise ratio distance.
    pub(super) const SNR: Self = Self::of(Kind::Snr);

    const fn of(kind: Kind) -> Self {
        Self {
            kind,
            p: 2.0,
            power: 1.0,
            normalize: true,
        }
    }

    /// Reads the option `distance`: a name, or an object with `name` and `options`.
    ///
    /// # Errors
    /// [`crate::Error::Config`] if it is unknown or not allowed by `limit`.
    pub(crate) fn read(read: &OptionReader<'_>, default: Self, limit: Limit) -> Result<Self> {
        let Some((name, options)) = read_class(read, "distance")? else {
            default.note_as_default(read);
            return Ok(default);
        };
        let Some((_, kind)) = Kind::ALL.iter().find(|(known, _)| *known == name) else {
            let known = Kind::ALL.map(|(known, _)| known).join(", ");
            return Err(read.bad("distance", &format!("give one of {known}")));
        };
        let field = format!("{}.distance", read.field());
        let inner = OptionReader::new(&field, options.as_ref());
        let metric = Self {
            kind: *kind,
            p: inner.number("p", 2.0, 1.0, 1e6)?,
            // A root would have an infinite gradient at 0, the distance of an example
            // from itself.
            power: inner.number("power", 1.0, 1.0, 100.0)?,
            // Cosine similarity always normalises.
            normalize: *kind == Kind::Cosine || inner.flag("normalize_embeddings", true)?,
        };
        if metric.is_similarity() && metric.power.fract() != 0.0 {
            return Err(inner.bad("power", "give a whole number: similarities may be negative"));
        }
        inner.finish()?;
        match limit.allows(metric) {
            true => Ok(metric),
            false => Err(read.bad("distance", limit.wanted())),
        }
    }

    /// Notes this metric and its options as the default of the option `distance`.
    fn note_as_default(self, read: &OptionReader<'_>) {
        let named = Kind::ALL.iter().find(|(_, kind)| *kind == self.kind);
        read.note_default("distance", named.map(|(name, _)| *name));
        read.note_default("distance.p", self.p);
        read.note_default("distance.power", self.power);
        if self.kind != Kind::Cosine {
            read.note_default("distance.normalize_embeddings", self.normalize);
        }
    }

    /// Returns whether greater values mean more similar embeddings.
    pub(crate) fn is_similarity(self) -> bool {
        matches!(self.kind, Kind::Cosine | Kind::Dot)
    }

    /// Returns the matrix `[n, m]` for embeddings `[n, dim]` and `[m, dim]`.
    pub(crate) fn matrix(self, x: &Tensor, y: &Tensor) -> Result<Tensor> {
        let prepared = |x: &Tensor| match self.normalize {
            true => self.normalized(x),
            false => Ok(x.clone()),
        };
        let (x, y) = (prepared(x)?, prepared(y)?);
        let matrix = match self.kind {
            Kind::Cosine | Kind::Dot => x.matmul(&y.t()?)?,
            Kind::Lp => lp(&x, &y, self.p)?,
            Kind::Snr => snr(&x, &y)?,
        };
        Ok(match self.power {
            1.0 => matrix,
            2.0 => matrix.sqr()?,
            power => matrix.powf(power)?,
        })
    }

    /// Scales rows to length 1 in the metric's norm.
    ///
    /// Does so even if the metric does not normalise.
    pub(super) fn normalized(self, x: &Tensor) -> Result<Tensor> {
        if self.p == 2.0 {
            return normalize(x);
        }
        let length = self.lengths(x)?.maximum(1e-12)?;
        Ok(x.broadcast_div(&length)?)
    }

    /// Returns the norm of each row, `[n, 1]`.
    pub(super) fn lengths(self, x: &Tensor) -> Result<Tensor> {
        let sum = |x: Tensor| x.sum_keepdim(D::Minus1);
        Ok(match self.p {
            2.0 => sum(x.sqr()?)?.maximum(1e-24)?.sqrt()?,
            1.0 => sum(x.abs()?)?,
            p => sum(x.abs()?.powf(p)?)?.maximum(1e-300)?.powf(1.0 / p)?,
        })
    }

    /// Returns how much farther `x` is than `limit`.
    pub(crate) fn over(self, x: &Tensor, limit: f64) -> candle_core::Result<Tensor> {
        if self.is_similarity() {
            x.affine(-1.0, limit)
        } else {
            x.affine(1.0, -limit)
        }
    }

    /// Returns how much farther `limit` is than `x`.
    pub(crate) fn under(self, limit: f64, x: &Tensor) -> candle_core::Result<Tensor> {
        self.over(x, limit)?.neg()
    }

    /// Returns how much farther `x` is than `y`.
    pub(super) fn margin(self, x: &Tensor, y: &Tensor) -> candle_core::Result<Tensor> {
        if self.is_similarity() { y - x } else { x - y }
    }

    /// Returns the nearer of `x` and `y`, element by element.
    pub(super) fn nearer(self, x: &Tensor, y: &Tensor) -> candle_core::Result<Tensor> {
        if self.is_similarity() {
            x.maximum(y)
        } else {
            x.minimum(y)
        }
    }

    /// Converts distances to similarities by their sign.
    pub(super) fn to_similarity(self, x: Tensor) -> candle_core::Result<Tensor> {
        if self.is_similarity() { Ok(x) } else { x.neg() }
    }
}

/// Restriction of the distances of a loss or miner, as the library asserts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Limit {
    /// Any distance.
    None,
    /// Cosine similarity only.
    Cosine,
    /// Euclidean distance of normalised embeddings only.
    Euclidean,
    /// Any power of that distance.
    EuclideanPower,
    /// Similarities only.
    Similarity,
    /// Signal-to-noise ratio only.
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
            Self::Cosine => "`CosineSimilarity` is the only supported distance here",
            Self::Euclidean => {
                "`LpDistance` with `p` 2, `power` 1 and `normalize_embeddings` true is the only \
                 supported distance here"
            }
            Self::EuclideanPower => {
                "`LpDistance` with `p` 2 and `normalize_embeddings` true is the only supported \
                 distance here"
            }
            Self::Similarity => "give `CosineSimilarity` or `DotProductSimilarity`",
            Self::Snr => "`SNRDistance` is the only supported distance here",
        }
    }
}

/// Returns the variance of each difference divided by that of its first embedding.
fn snr(x: &Tensor, y: &Tensor) -> Result<Tensor> {
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

/// Returns the Euclidean distance of each pair of rows.
pub(super) fn euclidean(x: &Tensor, y: &Tensor) -> Result<Tensor> {
    lp(x, y, 2.0)
}

/// Returns the `p`-norm of each difference.
fn lp(x: &Tensor, y: &Tensor, p: f64) -> Result<Tensor> {
    Ok(x.contiguous()?.apply_op2(&y.contiguous()?, Lp { p })?)
}

/// Distance whose gradient for equal rows is zero, as in PyTorch.
///
/// The root of a sum from candle's operations would give NaN.
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

    /// Returns the derivative of a distance with respect to one component.
    fn slope(&self, difference: f64, distance: f64) -> f64 {
        match self.p {
            2.0 => difference / distance,
            // The derivative at 0 is 0.
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
