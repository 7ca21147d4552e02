//! Losses over the neighbours of each example, as defined by pytorch-metric-learning.

use candle_core::{DType, Tensor};

use super::{
    batch::{Batch, MetricLoss},
    distance::{Limit, Metric},
    maker::Maker,
    math::{cross_entropy, log_sum_exp, mask, select_rows, vector},
    reduce::{Part, PartLoss, Reducer, Shape},
    tuples::Tuples,
};
use crate::Result;

/// Neighbourhood components analysis (Goldberger et al. 2004).
pub(super) struct Nca {
    softmax_scale: f64,
    metric: Metric,
}

impl Nca {
    /// Reads its options.
    pub(super) fn make(m: &mut Maker<'_>) -> Result<Box<dyn MetricLoss>> {
        let loss = Self {
            softmax_scale: m.read.positive("softmax_scale", 1.0)?,
            metric: m.metric(Metric::LP_SQUARED, Limit::None)?,
        };
        m.reduced(loss, Reducer::Mean, Shape::Examples)
    }
}

impl PartLoss for Nca {
    fn parts(&self, batch: &Batch<'_>) -> Result<Vec<Part>> {
        if batch.labels.batch.len() <= 1 {
            return Ok(Vec::new());
        }
        let reference = (batch.y, batch.labels.reference);
        nca(batch, reference, self.metric, self.softmax_scale)
    }
}

/// Computes the NCA loss of embeddings against others or against proxies.
pub(super) fn nca(
    batch: &Batch<'_>,
    (reference, reference_labels): (&Tensor, &[u32]),
    metric: Metric,
    scale: f64,
) -> Result<Vec<Part>> {
    let same = batch.labels.same && std::ptr::eq(reference, batch.y);
    let labels = batch.labels.batch;
    let (n, m) = (labels.len(), reference_labels.len());
    let logits = metric.to_similarity(metric.matrix(batch.x, reference)?)?;
    let logits = logits.affine(scale, 0.0)?;
    // Exclude the comparison of an example with itself.
    let places = (0..n).flat_map(|i| (0..m).map(move |j| (i, j)));
    let others = places.clone().filter(|(i, j)| !(same && i == j));
    let alike = others
        .clone()
        .filter(|(i, j)| labels[*i] == reference_labels[*j]);
    let number = |(i, j): (usize, usize)| (i as u32, j as u32);
    let alike = mask(alike.map(number), n, m)?;
    let all = log_sum_exp(&logits, Some(&mask(others.map(number), n, m)?), false, 1)?;
    let of_class = log_sum_exp(&logits, Some(&alike), false, 1)?;
    // Ignore rows without another example of their class.
    let counted: Vec<u32> = alike
        .max(1)?
        .to_vec1::<f64>()?
        .iter()
        .enumerate()
        .filter(|(_, any)| **any > 0.0)
        .map(|(i, _)| i as u32)
        .collect();
    if counted.is_empty() {
        return Ok(Vec::new());
    }
    let weights = vector(Tuples::weights(batch.tuples, n, !same))?;
    let losses = select_rows(&((all - of_class)? * weights)?, &counted)?;
    Ok(vec![Part::of_examples(losses, counted)])
}

/// FastAP (Cakir et al. 2019, arXiv:1904.05939).
///
/// Average precision is estimated from a soft histogram of distances.
pub(super) struct FastAp {
    num_bins: usize,
    metric: Metric,
}

impl FastAp {
    /// Reads its options.
    pub(super) fn make(m: &mut Maker<'_>) -> Result<Box<dyn MetricLoss>> {
        let loss = Self {
            num_bins: m.read.count("num_bins", 10, 1)?,
            metric: m.metric(Metric::LP_SQUARED, Limit::EuclideanPower)?,
        };
        m.reduced(loss, Reducer::Mean, Shape::Examples)
    }
}

impl PartLoss for FastAp {
    fn parts(&self, batch: &Batch<'_>) -> Result<Vec<Part>> {
        let n = batch.labels.batch.len();
        let positive = mask(batch.labels.positive().into_iter(), n, n)?;
        let negative = mask(batch.labels.negative().into_iter(), n, n)?;
        let counts: Vec<f64> = positive.sum(1)?.to_vec1()?;
        let safe: Vec<u32> = (0..n as u32)
            .filter(|i| counts[*i as usize] > 0.0)
            .collect();
        if safe.is_empty() {
            return Ok(Vec::new());
        }
        let distances = self.metric.matrix(batch.x, batch.y)?;
        // Normalised embeddings have a distance of at most 2.
        let (end, bins) = (2f64.powf(self.metric.power), self.num_bins);
        let width = end / bins as f64;
        let histogram = |of: &Tensor| -> Result<Vec<Tensor>> {
            (0..=bins)
                .map(|bin| -> Result<Tensor> {
                    let away = (&distances - bin as f64 * width)?.abs()?;
                    let pulse = away.affine(-1.0 / width, 1.0)?.relu()?;
                    Ok((pulse * of)?.sum(1)?)
                })
                .collect()
        };
        let (positives, negatives) = (histogram(&positive)?, histogram(&negative)?);
        let (mut found, mut seen) = (positives[0].zeros_like()?, positives[0].zeros_like()?);
        let mut sum = found.clone();
        for (positive, negative) in positives.iter().zip(&negatives) {
            found = (found + positive)?;
            seen = ((seen + positive)? + negative)?;
            let product = (positive * &found)?;
            let counted = (product.gt(0f64)? * seen.gt(0f64)?)?;
            // Divide empty bins by one; they are masked below.
            let safe = counted.where_cond(&seen, &seen.ones_like()?)?;
            sum = (sum + ((product / safe)? * counted.to_dtype(DType::F64)?)?)?;
        }
        let weights = Tuples::weights(batch.tuples, n, false);
        let weights = vector(safe.iter().map(|i| weights[*i as usize]).collect())?;
        let counts = vector(safe.iter().map(|i| counts[*i as usize]).collect())?;
        let precision = (select_rows(&sum, &safe)? / counts)?;
        let losses = (precision.affine(-1.0, 1.0)? * weights)?;
        Ok(vec![Part::of_examples(losses, safe)])
    }
}

/// N-pairs loss (Sohn 2016): cross-entropy over one positive pair of each class.
pub(super) struct NPairs(Metric);

impl NPairs {
    /// Reads its options.
    pub(super) fn make(m: &mut Maker<'_>) -> Result<Box<dyn MetricLoss>> {
        let loss = Self(m.metric(Metric::DOT, Limit::None)?);
        m.reduced(loss, Reducer::Mean, Shape::Examples)
    }
}

impl PartLoss for NPairs {
    fn parts(&self, batch: &Batch<'_>) -> Result<Vec<Part>> {
        let (positive, _) = batch.pairs();
        let labels = batch.labels.batch;
        let mut first = std::collections::BTreeMap::new();
        for (a, p) in positive {
            first.entry(labels[a as usize]).or_insert((a, p));
        }
        if first.is_empty() {
            return Ok(Vec::new());
        }
        let (anchors, positives): (Vec<u32>, Vec<u32>) = first.into_values().unzip();
        let logits = self.0.matrix(
            &select_rows(batch.x, &anchors)?,
            &select_rows(batch.x, &positives)?,
        )?;
        let classes: Vec<u32> = (0..anchors.len() as u32).collect();
        let losses = cross_entropy(&self.0.to_similarity(logits)?, &classes)?;
        Ok(vec![Part::of_examples(losses, anchors)])
    }
}
