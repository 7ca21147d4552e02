//! Losses over pairs of a batch, as defined by pytorch-metric-learning.

use candle_core::Tensor;

use super::{
    batch::{Batch, MetricLoss},
    distance::{Limit, Metric},
    maker::Maker,
    math::{cos_of_sum, log_sum_exp, mask, softplus},
    reduce::{Part, PartLoss, Reducer, Shape},
    tuples::{Pairs, elements_at},
};
use crate::Result;

/// Returns the distance matrix of a batch and the pairs to compare.
///
/// Returns `None` if there is at most one of each kind.
fn pairs(metric: Metric, batch: &Batch<'_>) -> Result<Option<(Tensor, Pairs, Pairs)>> {
    let (positive, negative) = batch.pairs();
    if positive.len() <= 1 && negative.len() <= 1 {
        return Ok(None);
    }
    Ok(Some((metric.matrix(batch.x, batch.y)?, positive, negative)))
}

/// Returns the matrix and pairs of [`pairs`], with the pairs as masks.
fn masks(metric: Metric, batch: &Batch<'_>) -> Result<Option<(Tensor, Tensor, Tensor)>> {
    let Some((matrix, positive, negative)) = pairs(metric, batch)? else {
        return Ok(None);
    };
    let (n, m) = matrix.dims2()?;
    Ok(Some((
        matrix,
        mask(positive.into_iter(), n, m)?,
        mask(negative.into_iter(), n, m)?,
    )))
}

/// Margins of a loss: positives should be within one, negatives beyond the other.
struct Margins {
    positive: f64,
    negative: f64,
    metric: Metric,
}

impl Margins {
    /// Reads `pos_margin` and `neg_margin`.
    fn read(m: &Maker<'_>, metric: Metric) -> Result<Self> {
        Ok(Self {
            positive: m.read.any_number("pos_margin", 0.0)?,
            negative: m.read.any_number("neg_margin", 1.0)?,
            metric,
        })
    }

    /// Returns how far distances are beyond the margin of positives.
    fn far(&self, distances: &Tensor) -> candle_core::Result<Tensor> {
        self.metric.over(distances, self.positive)
    }

    /// Returns how far distances are within the margin of negatives.
    fn near(&self, distances: &Tensor) -> candle_core::Result<Tensor> {
        self.metric.under(self.negative, distances)
    }
}

/// Contrastive loss (Hadsell et al. 2006), with Euclidean distances or the
/// signal-to-noise ratio (Yuan et al. 2019, arXiv:1904.02616).
pub(super) struct Contrastive(Margins);

impl Contrastive {
    /// Reads its options; the default distance is Euclidean.
    pub(super) fn make(m: &mut Maker<'_>) -> Result<Box<dyn MetricLoss>> {
        let metric = m.metric(Metric::LP, Limit::None)?;
        Self::with_metric(m, metric)
    }

    /// Reads the options of the loss of Yuan et al. (2019, arXiv:1904.02616).
    pub(super) fn make_snr(m: &mut Maker<'_>) -> Result<Box<dyn MetricLoss>> {
        let metric = m.metric(Metric::SNR, Limit::Snr)?;
        Self::with_metric(m, metric)
    }

    fn with_metric(m: &Maker<'_>, metric: Metric) -> Result<Box<dyn MetricLoss>> {
        let loss = Self(Margins::read(m, metric)?);
        m.reduced(loss, Reducer::NON_ZERO, Shape::Pairs)
    }
}

impl PartLoss for Contrastive {
    fn parts(&self, batch: &Batch<'_>) -> Result<Vec<Part>> {
        let Some((matrix, positive, negative)) = pairs(self.0.metric, batch)? else {
            return Ok(Vec::new());
        };
        let mut parts = Vec::new();
        if !positive.is_empty() {
            let found = elements_at(&matrix, positive.iter().copied())?;
            let far = self.0.far(&found)?.relu()?;
            parts.push(Part::of_pairs(far, positive));
        }
        if !negative.is_empty() {
            let found = elements_at(&matrix, negative.iter().copied())?;
            let near = self.0.near(&found)?.relu()?;
            parts.push(Part::of_pairs(near, negative));
        }
        Ok(parts)
    }
}

/// Intra-pair variance loss (Yu and Tao 2019): similarities close to their mean.
pub(super) struct IntraPairVariance {
    pos_eps: f64,
    neg_eps: f64,
    metric: Metric,
}

impl IntraPairVariance {
    /// Reads its options.
    pub(super) fn make(m: &mut Maker<'_>) -> Result<Box<dyn MetricLoss>> {
        let loss = Self {
            pos_eps: m.read.any_number("pos_eps", 0.01)?,
            neg_eps: m.read.any_number("neg_eps", 0.01)?,
            metric: m.metric(Metric::COSINE, Limit::None)?,
        };
        m.reduced(loss, Reducer::Mean, Shape::Pairs)
    }
}

impl PartLoss for IntraPairVariance {
    fn parts(&self, batch: &Batch<'_>) -> Result<Vec<Part>> {
        let Some((matrix, positive, negative)) = pairs(self.metric, batch)? else {
            return Ok(Vec::new());
        };
        let part = |pairs: Pairs, eps: f64, is_to_grow: bool| -> Result<Part> {
            let found = elements_at(&matrix, pairs.iter().copied())?;
            let mean = found.mean_all()?;
            let short = match is_to_grow {
                true => found.neg()?.broadcast_add(&mean.affine(1.0 - eps, 0.0)?)?,
                false => found.broadcast_sub(&mean.affine(1.0 + eps, 0.0)?)?,
            };
            Ok(Part::of_pairs(short.relu()?.sqr()?, pairs))
        };
        let mut parts = Vec::new();
        let is_similarity = self.metric.is_similarity();
        if !positive.is_empty() {
            parts.push(part(positive, self.pos_eps, is_similarity)?);
        }
        if !negative.is_empty() {
            parts.push(part(negative, self.neg_eps, !is_similarity)?);
        }
        Ok(parts)
    }
}

/// Returns the mask of the negative pairs that belong to each positive pair.
///
/// Its shape is `[positives, negatives]`.
fn negatives_per_positive(
    positive: &[(u32, u32)],
    negative: &[(u32, u32)],
    counts: impl Fn((u32, u32), u32) -> bool,
) -> Result<Tensor> {
    let places = positive.iter().enumerate().flat_map(|(i, pair)| {
        let chosen = negative.iter().enumerate();
        let chosen = chosen.filter(|(_, (anchor, _))| counts(*pair, *anchor));
        let chosen: Vec<(u32, u32)> = chosen.map(|(j, _)| (i as u32, j as u32)).collect();
        chosen
    });
    mask(places, positive.len(), negative.len())
}

/// Repeats the values of the negative pairs for each positive pair.
fn repeated(negatives: &Tensor, positives: usize) -> Result<Tensor> {
    let n = negatives.dim(0)?;
    Ok(negatives.reshape((1, n))?.broadcast_as((positives, n))?)
}

/// Normalised temperature-scaled cross-entropy.
///
/// Van den Oord et al. 2018, arXiv:1807.03748; Chen et al. 2020, arXiv:2002.05709.
pub(super) struct NtXent {
    temperature: f64,
    metric: Metric,
}

impl NtXent {
    /// Reads its options.
    pub(super) fn make(m: &mut Maker<'_>) -> Result<Box<dyn MetricLoss>> {
        let loss = Self {
            temperature: m.read.positive("temperature", 0.07)?,
            metric: m.metric(Metric::COSINE, Limit::None)?,
        };
        m.reduced(loss, Reducer::Mean, Shape::Pairs)
    }
}

impl PartLoss for NtXent {
    fn parts(&self, batch: &Batch<'_>) -> Result<Vec<Part>> {
        let Some((matrix, positive, negative)) = pairs(self.metric, batch)? else {
            return Ok(Vec::new());
        };
        if positive.is_empty() || negative.is_empty() {
            return Ok(Vec::new());
        }
        let keep = negatives_per_positive(&positive, &negative, |(a, _), b| a == b)?;
        let n = positive.len();
        let matrix = (self.metric.to_similarity(matrix)? / self.temperature)?;
        let found = elements_at(&matrix, positive.iter().copied())?;
        let others = repeated(&elements_at(&matrix, negative.into_iter())?, n)?;
        // -log(e^p / (e^p + sum e^n)) = log(1 + sum e^(n - p))
        let over = others.broadcast_sub(&found.reshape((n, 1))?)?;
        let losses = log_sum_exp(&over, Some(&keep), true, 1)?;
        // A row without negatives already gives log(1) = 0.
        Ok(vec![Part::of_pairs(losses, positive)])
    }
}

/// Supervised contrastive loss (Khosla et al. 2020, arXiv:2004.11362).
pub(super) struct SupCon {
    temperature: f64,
    metric: Metric,
}

impl SupCon {
    /// Reads its options.
    pub(super) fn make(m: &mut Maker<'_>) -> Result<Box<dyn MetricLoss>> {
        let loss = Self {
            temperature: m.read.positive("temperature", 0.1)?,
            metric: m.metric(Metric::COSINE, Limit::None)?,
        };
        m.reduced(loss, Reducer::NON_ZERO, Shape::Examples)
    }
}

impl PartLoss for SupCon {
    fn parts(&self, batch: &Batch<'_>) -> Result<Vec<Part>> {
        let Some((matrix, positive, negative)) = masks(self.metric, batch)? else {
            return Ok(Vec::new());
        };
        let some =
            |mask: &Tensor| -> Result<bool> { Ok(mask.sum_all()?.to_scalar::<f64>()? > 0.0) };
        if !some(&positive)? || !some(&negative)? {
            return Ok(Vec::new());
        }
        let matrix = (self.metric.to_similarity(matrix)? / self.temperature)?;
        let all = (&positive + &negative)?;
        let denominator = log_sum_exp(&matrix, Some(&all), false, 1)?.unsqueeze(1)?;
        let log_prob = matrix.broadcast_sub(&denominator)?;
        let count = (positive.sum(1)? + f64::from(f32::MIN_POSITIVE))?;
        let losses = ((positive * log_prob)?.sum(1)? / count)?.neg()?;
        Ok(vec![Part::of_batch(losses, batch)])
    }
}

/// Circle loss (Sun et al. 2020, arXiv:2002.10857).
pub(super) struct Circle {
    m: f64,
    gamma: f64,
    metric: Metric,
}

impl Circle {
    /// Reads its options.
    pub(super) fn make(m: &mut Maker<'_>) -> Result<Box<dyn MetricLoss>> {
        let loss = Self {
            m: m.read.any_number("m", 0.4)?,
            gamma: m.read.any_number("gamma", 80.0)?,
            metric: m.metric(Metric::COSINE, Limit::Cosine)?,
        };
        m.reduced(loss, Reducer::NON_ZERO, Shape::Examples)
    }
}

impl PartLoss for Circle {
    fn parts(&self, batch: &Batch<'_>) -> Result<Vec<Part>> {
        let Some((matrix, positive, negative)) = masks(self.metric, batch)? else {
            return Ok(Vec::new());
        };
        // The optima are 1 + m and -m, and the margins 1 - m and m. The weights get no
        // gradient.
        let still = matrix.detach();
        let weight = still.affine(-1.0, 1.0 + self.m)?.relu()?;
        let of_positive = (weight * (&matrix - (1.0 - self.m))?)?.affine(-self.gamma, 0.0)?;
        let weight = still.affine(1.0, self.m)?.relu()?;
        let of_negative = (weight * (&matrix - self.m)?)?.affine(self.gamma, 0.0)?;
        let sum = (log_sum_exp(&of_positive, Some(&positive), false, 1)?
            + log_sum_exp(&of_negative, Some(&negative), false, 1)?)?;
        // Ignore rows without positives or without negatives.
        let both = (positive.max(1)? * negative.max(1)?)?;
        Ok(vec![Part::of_batch((softplus(&sum)? * both)?, batch)])
    }
}

/// Multi-similarity loss (Wang et al. 2019, arXiv:1904.06627).
pub(super) struct MultiSimilarity {
    alpha: f64,
    beta: f64,
    base: f64,
    metric: Metric,
}

impl MultiSimilarity {
    /// Reads its options.
    pub(super) fn make(m: &mut Maker<'_>) -> Result<Box<dyn MetricLoss>> {
        let loss = Self {
            alpha: m.read.positive("alpha", 2.0)?,
            beta: m.read.positive("beta", 50.0)?,
            base: m.read.any_number("base", 0.5)?,
            metric: m.metric(Metric::COSINE, Limit::None)?,
        };
        m.reduced(loss, Reducer::Mean, Shape::Examples)
    }
}

impl PartLoss for MultiSimilarity {
    fn parts(&self, batch: &Batch<'_>) -> Result<Vec<Part>> {
        let Some((matrix, positive, negative)) = masks(self.metric, batch)? else {
            return Ok(Vec::new());
        };
        let part = |weight: f64, over: Tensor, mask: &Tensor| -> Result<Tensor> {
            let sum = log_sum_exp(&over.affine(weight, 0.0)?, Some(mask), true, 1)?;
            Ok(sum.affine(1.0 / weight, 0.0)?)
        };
        let far = self.metric.over(&matrix, self.base)?;
        let near = self.metric.under(self.base, &matrix)?;
        let losses = (part(self.alpha, far, &positive)? + part(self.beta, near, &negative)?)?;
        Ok(vec![Part::of_batch(losses, batch)])
    }
}

/// Lifted structure loss (Song et al. 2016, arXiv:1511.06452).
pub(super) struct LiftedStructure(Margins);

impl LiftedStructure {
    /// Reads its options.
    pub(super) fn make(m: &mut Maker<'_>) -> Result<Box<dyn MetricLoss>> {
        let metric = m.metric(Metric::LP, Limit::None)?;
        let loss = Self(Margins::read(m, metric)?);
        m.reduced(loss, Reducer::Mean, Shape::Pairs)
    }
}

impl PartLoss for LiftedStructure {
    fn parts(&self, batch: &Batch<'_>) -> Result<Vec<Part>> {
        let Some((matrix, positive, negative)) = pairs(self.0.metric, batch)? else {
            return Ok(Vec::new());
        };
        if positive.is_empty() || negative.is_empty() {
            return Ok(Vec::new());
        }
        let n = positive.len();
        let keep = negatives_per_positive(&positive, &negative, |(a, p), b| b == a || b == p)?;
        let far = elements_at(&matrix, positive.iter().copied())?;
        let far = self.0.far(&far)?;
        let near = elements_at(&matrix, negative.into_iter())?;
        let near = self.0.near(&near)?;
        let near = log_sum_exp(&repeated(&near, n)?, Some(&keep), false, 1)?;
        // Halved, since each pair occurs in both orders.
        let losses = ((near + far)?.relu()?.sqr()? / 2.0)?;
        Ok(vec![Part::of_pairs(losses, positive)])
    }
}

/// Generalised lifted structure loss (Hermans et al. 2017, arXiv:1703.07737).
pub(super) struct GeneralizedLiftedStructure(Margins);

impl GeneralizedLiftedStructure {
    /// Reads its options.
    pub(super) fn make(m: &mut Maker<'_>) -> Result<Box<dyn MetricLoss>> {
        let metric = m.metric(Metric::LP, Limit::None)?;
        let loss = Self(Margins::read(m, metric)?);
        m.reduced(loss, Reducer::Mean, Shape::Examples)
    }
}

impl PartLoss for GeneralizedLiftedStructure {
    fn parts(&self, batch: &Batch<'_>) -> Result<Vec<Part>> {
        let Some((matrix, positive, negative)) = masks(self.0.metric, batch)? else {
            return Ok(Vec::new());
        };
        let far = self.0.far(&matrix)?;
        let near = self.0.near(&matrix)?;
        let sum = (log_sum_exp(&far, Some(&positive), false, 1)?
            + log_sum_exp(&near, Some(&negative), false, 1)?)?;
        Ok(vec![Part::of_batch(sum.relu()?, batch)])
    }
}

/// Tuplet margin loss (Yu and Tao 2019). The margin is in degrees.
pub(super) struct TupletMargin {
    margin: f64,
    scale: f64,
    metric: Metric,
}

impl TupletMargin {
    /// Reads its options.
    pub(super) fn make(m: &mut Maker<'_>) -> Result<Box<dyn MetricLoss>> {
        let loss = Self {
            margin: m.read.number("margin", 5.73, 0.0, 180.0)?,
            scale: m.read.positive("scale", 64.0)?,
            metric: m.metric(Metric::COSINE, Limit::Cosine)?,
        };
        m.reduced(loss, Reducer::Mean, Shape::Pairs)
    }
}

impl PartLoss for TupletMargin {
    fn parts(&self, batch: &Batch<'_>) -> Result<Vec<Part>> {
        let Some((matrix, positive, negative)) = pairs(self.metric, batch)? else {
            return Ok(Vec::new());
        };
        if positive.is_empty() || negative.is_empty() {
            return Ok(Vec::new());
        }
        let n = positive.len();
        let keep = negatives_per_positive(&positive, &negative, |(a, _), b| a == b)?;
        let found = elements_at(&matrix, positive.iter().copied())?;
        let eased = cos_of_sum(&found, -self.margin.to_radians())?;
        let others = repeated(&elements_at(&matrix, negative.into_iter())?, n)?;
        let over = others.broadcast_sub(&eased.reshape((n, 1))?)?;
        let over = over.affine(self.scale, 0.0)?;
        let losses = log_sum_exp(&over, Some(&keep), true, 1)?;
        Ok(vec![Part::of_pairs(losses, positive)])
    }
}
