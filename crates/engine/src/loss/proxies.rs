//! Losses with weights: one or several proxies for each class.
//!
//! They classify, so they need no pairs in a batch. Their definitions are those of
//! pytorch-metric-learning.

use std::sync::Arc;

use candle_core::Tensor;

use super::{
    batch::{Batch, MetricLoss},
    distance::{Limit, Metric},
    maker::Maker,
    math::{cos_of_sum, cross_entropy, log_sum_exp, mask, softmax, vector},
    neighbours::nca,
    reduce::{Owners, Part, PartLoss, Reducer, Shape},
    tuples::{Tuples, elements_at},
};
use crate::{Result, params::Param, random::uniform_weights};

/// Margin of a softmax over classes.
#[derive(Clone, Copy, Debug, PartialEq)]
enum MarginKind {
    /// `cos(theta + margin)` (Deng et al. 2019, arXiv:1801.07698).
    ///
    /// The margin is in degrees.
    ArcFace,
    /// `cos(theta) - margin` (Wang et al. 2018, arXiv:1801.09414).
    CosFace,
    /// `cos(margin * theta)` times both lengths (Liu et al. 2016, arXiv:1612.02295).
    LargeMargin,
    /// `cos(margin * theta)` times the embedding's length.
    ///
    /// Liu et al. 2017, arXiv:1704.08063.
    SphereFace,
}

/// Softmax over classes with a margin for the target class.
pub(super) struct MarginSoftmax {
    kind: MarginKind,
    /// `[dim, classes]`
    weight: Arc<Param>,
    margin: f64,
    scale: f64,
    metric: Metric,
}

impl MarginSoftmax {
    /// Reads the options of `ArcFaceLoss`.
    pub(super) fn make_arc_face(m: &mut Maker<'_>) -> Result<Box<dyn MetricLoss>> {
        let margin = m.read.number("margin", 28.6, 0.0, 180.0)?;
        Self::make(m, MarginKind::ArcFace, margin, 64.0)
    }

    /// Reads the options of `CosFaceLoss`.
    pub(super) fn make_cos_face(m: &mut Maker<'_>) -> Result<Box<dyn MetricLoss>> {
        let margin = m.read.any_number("margin", 0.35)?;
        Self::make(m, MarginKind::CosFace, margin, 64.0)
    }

    /// Reads the options of `LargeMarginSoftmaxLoss`.
    pub(super) fn make_large_margin(m: &mut Maker<'_>) -> Result<Box<dyn MetricLoss>> {
        let margin = m.read.number("margin", 4.0, 1.0, 16.0)?.trunc();
        Self::make(m, MarginKind::LargeMargin, margin, 1.0)
    }

    /// Reads the options of `SphereFaceLoss`.
    pub(super) fn make_sphere_face(m: &mut Maker<'_>) -> Result<Box<dyn MetricLoss>> {
        let margin = m.read.number("margin", 4.0, 1.0, 16.0)?.trunc();
        Self::make(m, MarginKind::SphereFace, margin, 1.0)
    }

    fn make(
        m: &mut Maker<'_>,
        kind: MarginKind,
        margin: f64,
        scale: f64,
    ) -> Result<Box<dyn MetricLoss>> {
        let loss = Self {
            kind,
            margin,
            scale: m.read.positive("scale", scale)?,
            weight: m.normal_weight("W", [m.dim(), m.classes()], 1.0)?,
            metric: m.metric(Metric::COSINE, Limit::Cosine)?,
        };
        m.reduced(loss, Reducer::Mean, Shape::Examples)
    }
}

impl MarginSoftmax {
    /// Returns the cosine with the target class after applying the margin.
    fn with_margin(&self, cosine: &Tensor) -> Result<Tensor> {
        Ok(match self.kind {
            MarginKind::CosFace => (cosine - self.margin)?,
            MarginKind::ArcFace => {
                let margin = self.margin.to_radians();
                // Beyond pi, continue with a straight line, so that the function still
                // decreases.
                let limit = (std::f64::consts::PI - margin).cos();
                let inside = cosine.ge(limit)?;
                let bounded = (cosine - margin * margin.sin())?;
                inside.where_cond(&cos_of_sum(cosine, margin)?, &bounded)?
            }
            MarginKind::LargeMargin | MarginKind::SphereFace => {
                // cos(m theta) as a polynomial in cos(theta), extended to decrease
                // monotonically (equations 6 and 7 of the paper).
                let m = self.margin as usize;
                let sine = cosine.sqr()?.affine(-1.0, 1.0)?;
                let mut multiple = cosine.zeros_like()?;
                for n in 0..=m / 2 {
                    let sign = if n % 2 == 0 { 1.0 } else { -1.0 };
                    let factor = sign * binomial(m, 2 * n);
                    let term = (power(cosine, m - 2 * n)? * power(&sine, n)?)?;
                    multiple = (multiple + term.affine(factor, 0.0)?)?;
                }
                let turns: Vec<f64> = cosine
                    .to_vec1::<f64>()?
                    .into_iter()
                    .map(|c| {
                        (c.clamp(-1.0, 1.0).acos() / (std::f64::consts::PI / m as f64)).floor()
                    })
                    .collect();
                let signs = turns
                    .iter()
                    .map(|k| 1.0 - 2.0 * k.rem_euclid(2.0))
                    .collect();
                let twice = turns.iter().map(|k| 2.0 * k).collect();
                ((multiple * vector(signs)?)? - vector(twice)?)?
            }
        })
    }
}

fn binomial(n: usize, k: usize) -> f64 {
    (0..k)
        .map(|i| (n - i) as f64 / (i + 1) as f64)
        .product::<f64>()
        .round()
}

fn power(x: &Tensor, n: usize) -> Result<Tensor> {
    let mut product = x.ones_like()?;
    for _ in 0..n {
        product = (product * x)?;
    }
    Ok(product)
}

impl PartLoss for MarginSoftmax {
    fn parts(&self, batch: &Batch<'_>) -> Result<Vec<Part>> {
        let weight = batch.own(&self.weight)?;
        let classes = batch.labels.batch;
        let (n, count) = (classes.len(), weight.dim(1)?);
        let cosine = self.metric.matrix(batch.x, &weight.t()?)?;
        let places = || classes.iter().enumerate().map(|(i, c)| (i as u32, *c));
        let of_class = elements_at(&cosine, places())?;
        let changed = (self.with_margin(&of_class)? - &of_class)?;
        let target = mask(places(), n, count)?;
        let mut logits = (cosine + target.broadcast_mul(&changed.unsqueeze(1)?)?)?;
        match self.kind {
            MarginKind::SphereFace => {
                logits = logits.broadcast_mul(&Metric::LP.lengths(batch.x)?)?;
            }
            MarginKind::LargeMargin => {
                let of_weights = self.metric.lengths(&weight.t()?)?.t()?;
                logits = logits.broadcast_mul(&self.metric.lengths(batch.x)?)?;
                logits = logits.broadcast_mul(&of_weights)?;
            }
            MarginKind::ArcFace | MarginKind::CosFace => {}
        }
        let losses = cross_entropy(&logits.affine(self.scale, 0.0)?, classes)?;
        weighted(&losses, batch)
    }
}

/// Weights the examples' losses by how often a miner selected them.
fn weighted(losses: &Tensor, batch: &Batch<'_>) -> Result<Vec<Part>> {
    let weights = Tuples::weights(batch.tuples, batch.labels.batch.len(), false);
    let losses = (losses * vector(weights)?)?;
    Ok(vec![Part::of_batch(losses, batch)])
}

/// Normalised softmax loss (Zhai and Wu 2019, arXiv:1811.12649).
pub(super) struct NormalizedSoftmax {
    /// `[dim, classes]`
    weight: Arc<Param>,
    temperature: f64,
    metric: Metric,
}

impl NormalizedSoftmax {
    /// Reads its options.
    pub(super) fn make(m: &mut Maker<'_>) -> Result<Box<dyn MetricLoss>> {
        let loss = Self {
            temperature: m.read.positive("temperature", 0.05)?,
            weight: m.normal_weight("W", [m.dim(), m.classes()], 1.0)?,
            metric: m.metric(Metric::DOT, Limit::None)?,
        };
        m.reduced(loss, Reducer::Mean, Shape::Examples)
    }
}

impl PartLoss for NormalizedSoftmax {
    fn parts(&self, batch: &Batch<'_>) -> Result<Vec<Part>> {
        let weight = batch.own(&self.weight)?.t()?;
        let weight = self.metric.normalized(&weight)?;
        let logits = self
            .metric
            .to_similarity(self.metric.matrix(batch.x, &weight)?)?;
        let logits = (logits / self.temperature)?;
        weighted(&cross_entropy(&logits, batch.labels.batch)?, batch)
    }
}

/// Proxy NCA (Movshovitz-Attias et al. 2017, arXiv:1703.07464).
pub(super) struct ProxyNca {
    /// `[classes, dim]`
    proxies: Arc<Param>,
    softmax_scale: f64,
    metric: Metric,
}

impl ProxyNca {
    /// Reads its options.
    pub(super) fn make(m: &mut Maker<'_>) -> Result<Box<dyn MetricLoss>> {
        let loss = Self {
            softmax_scale: m.read.positive("softmax_scale", 1.0)?,
            proxies: m.normal_weight("proxies", [m.classes(), m.dim()], 1.0)?,
            metric: m.metric(Metric::LP_SQUARED, Limit::None)?,
        };
        m.reduced(loss, Reducer::Mean, Shape::Examples)
    }
}

impl PartLoss for ProxyNca {
    fn parts(&self, batch: &Batch<'_>) -> Result<Vec<Part>> {
        let proxies = batch.own(&self.proxies)?;
        let labels: Vec<u32> = (0..proxies.dim(0)? as u32).collect();
        nca(batch, (&proxies, &labels), self.metric, self.softmax_scale)
    }
}

/// Proxy anchor loss (Kim et al. 2020, arXiv:2003.13911).
pub(super) struct ProxyAnchor {
    /// `[classes, dim]`
    proxies: Arc<Param>,
    margin: f64,
    alpha: f64,
    metric: Metric,
}

impl ProxyAnchor {
    /// Reads its options.
    pub(super) fn make(m: &mut Maker<'_>) -> Result<Box<dyn MetricLoss>> {
        let spread = (2.0 / m.classes() as f64).sqrt();
        let loss = Self {
            margin: m.read.any_number("margin", 0.1)?,
            alpha: m.read.positive("alpha", 32.0)?,
            proxies: m.normal_weight("proxies", [m.classes(), m.dim()], spread)?,
            metric: m.metric(Metric::COSINE, Limit::None)?,
        };
        m.reduced(loss, Reducer::Divisor, Shape::DividedClasses)
    }
}

impl PartLoss for ProxyAnchor {
    fn parts(&self, batch: &Batch<'_>) -> Result<Vec<Part>> {
        let proxies = batch.own(&self.proxies)?;
        let classes = batch.labels.batch;
        let (n, count) = (classes.len(), proxies.dim(0)?);
        let found = self.metric.matrix(batch.x, &proxies)?;
        let positive = mask(
            classes.iter().enumerate().map(|(i, c)| (i as u32, *c)),
            n,
            count,
        )?;
        let negative = positive.affine(-1.0, 1.0)?;
        let weights = Tuples::weights(batch.tuples, n, false);
        let weights = vector(weights.iter().map(|w| w - 1.0).collect())?.unsqueeze(1)?;
        let term = |over: Tensor, mask: &Tensor, divisor: f64| -> Result<Part> {
            let over = over.affine(self.alpha, 0.0)?.broadcast_add(&weights)?;
            Ok(Part {
                losses: log_sum_exp(&over, Some(mask), true, 0)?,
                owners: Owners::Other,
                divisor: Some(divisor),
            })
        };
        let present = positive.max(0)?.sum_all()?.to_scalar()?;
        let far = self.metric.over(&found, self.margin)?;
        let near = self.metric.under(-self.margin, &found)?;
        Ok(vec![
            term(far, &positive, present)?,
            term(near, &negative, count as f64)?,
        ])
    }
}

/// SoftTriple loss (Qian et al. 2019, arXiv:1909.05235).
///
/// It has several centres per class.
pub(super) struct SoftTriple {
    /// `[dim, classes * centers]`
    centers: Arc<Param>,
    centers_per_class: usize,
    la: f64,
    gamma: f64,
    margin: f64,
    metric: Metric,
}

impl SoftTriple {
    /// Reads its options.
    pub(super) fn make(m: &mut Maker<'_>) -> Result<Box<dyn MetricLoss>> {
        let centers_per_class = m.read.count("centers_per_class", 10, 1)?;
        let (dim, columns) = (m.dim(), m.classes() * centers_per_class);
        let bound = 1.0 / (columns as f64).sqrt();
        let values = uniform_weights(m.seed(), dim * columns, bound);
        let loss = Self {
            centers_per_class,
            la: m.read.positive("la", 20.0)?,
            gamma: m.read.positive("gamma", 0.1)?,
            margin: m.read.any_number("margin", 0.01)?,
            centers: m.weight("fc", &[dim, columns], values)?,
            metric: m.metric(Metric::COSINE, Limit::Similarity)?,
        };
        m.reduced(loss, Reducer::Mean, Shape::Examples)
    }
}

impl PartLoss for SoftTriple {
    fn parts(&self, batch: &Batch<'_>) -> Result<Vec<Part>> {
        let centers = batch.own(&self.centers)?;
        let classes = batch.labels.batch;
        let (n, count) = (classes.len(), centers.dim(1)? / self.centers_per_class);
        let alike = self.metric.matrix(batch.x, &centers.t()?)?;
        let alike = alike.reshape((n, count, self.centers_per_class))?;
        let share = softmax(&alike.affine(1.0 / self.gamma, 0.0)?)?;
        let alike = (share * alike)?.sum(2)?;
        let places = classes.iter().enumerate().map(|(i, c)| (i as u32, *c));
        let margin = mask(places, n, count)?.affine(self.margin, 0.0)?;
        let logits = (alike - margin)?.affine(self.la, 0.0)?;
        weighted(&cross_entropy(&logits, classes)?, batch)
    }
}
