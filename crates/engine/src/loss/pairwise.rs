//! Losses over the members of each example, such as pairs and triplets.

use candle_core::{D, DType, Tensor};

use super::{
    maker::Maker,
    math::{cross_entropy, vector, zero_loss},
};
use crate::{
    Error, Result,
    models::Model,
    ops::{Pass, cross_entropy_of_diagonal, normalize},
};

/// Maximum factor of the similarities (section 2.5 of the CLIP paper).
///
/// The model stores the logarithm of the factor.
pub const MAX_LOGIT_SCALE: f32 = 100.0;

/// Computes the CLIP loss: symmetric cross-entropy over all pairs of a batch.
///
/// See Radford et al. 2021, arXiv:2103.00020, figure 3. `texts` and `images` are
/// embeddings `[batch, dim]`, of which row `i` of one matches row `i` of the other.
/// With `logits = exp(logit_scale) * cos(texts, images)`, the loss is the mean of the
/// cross-entropies of finding the image of each text and the text of each image.
/// Equal to the loss of `CLIPModel` in `transformers`.
///
/// # Errors
/// Returns an error if the shapes differ or `model` has no logit scale.
pub fn clip_loss(model: &Model, pass: &Pass, texts: &Tensor, images: &Tensor) -> Result<Tensor> {
    let scale = model
        .logit_scale()
        .ok_or_else(|| Error::config("loss", "`CLIPLoss` is for models of texts and images"))?;
    let scale = pass.value(scale).exp()?;
    let logits = normalize(texts)?
        .matmul(&normalize(images)?.t()?)?
        .broadcast_mul(&scale)?;
    let by_text = cross_entropy_of_diagonal(&logits)?;
    let by_image = cross_entropy_of_diagonal(&logits.t()?.contiguous()?)?;
    Ok(((by_text + by_image)? / 2.0)?)
}

/// A loss over the members of a batch's examples.
pub(super) trait MemberLoss: Send {
    /// Returns the loss as a scalar.
    fn loss(&self, batch: &Members<'_>) -> Result<Tensor>;
}

/// The embedded members of a batch's examples.
pub(super) struct Members<'a> {
    pub(super) model: &'a Model,
    pub(super) pass: &'a Pass,
    /// One tensor `[batch, dim]` for each member.
    pub(super) parts: &'a [Tensor],
    /// Score of each pair, or margins of each example.
    pub(super) scores: &'a [f32],
    /// Embeddings of the same members by a guide or teacher.
    pub(super) guide: &'a [Tensor],
    /// Name of the loss, for errors.
    pub(super) loss: &'a str,
}

impl Members<'_> {
    /// Returns the embeddings of all members in double precision.
    pub(super) fn all_to_f64(&self) -> Result<Vec<Tensor>> {
        self.parts.iter().map(to_f64).collect()
    }

    /// Returns the embeddings of all members in double precision on the CPU.
    ///
    /// Losses over labels select the examples to compare there.
    pub(super) fn all_on_cpu(&self) -> Result<Vec<Tensor>> {
        self.parts.iter().map(on_cpu).collect()
    }

    /// Returns the embeddings of examples with `N` members in double precision.
    pub(super) fn to_f64<const N: usize>(&self) -> Result<[Tensor; N]> {
        let parts = self.all_to_f64()?;
        parts.try_into().map_err(|_| self.refused())
    }

    pub(super) fn refused(&self) -> Error {
        Error::data(format!(
            "`{}` can't compare examples of {} parts",
            self.loss,
            self.parts.len()
        ))
    }

    /// Returns the scores, on the device of the embeddings.
    pub(super) fn scores(&self) -> Result<Tensor> {
        let scores = vector(self.scores.iter().map(|s| f64::from(*s)).collect())?;
        match self.parts.first() {
            Some(part) if part.device().is_cuda() => Ok(scores.to_device(part.device())?),
            _ => Ok(scores),
        }
    }
}

/// `CLIPLoss`; see [`clip_loss`].
pub(super) struct Clip;

impl Clip {
    /// Reads its options.
    pub(super) fn make(m: &mut Maker<'_>) -> Result<Box<dyn MemberLoss>> {
        m.mini_batch_size(None)?;
        Ok(Box::new(Self))
    }
}

impl MemberLoss for Clip {
    fn loss(&self, batch: &Members<'_>) -> Result<Tensor> {
        match batch.parts {
            [texts, images] => clip_loss(batch.model, batch.pass, texts, images),
            _ => Err(batch.refused()),
        }
    }
}

/// Returns the cosine similarity of each row of `x` and `y`.
pub(super) fn cosines(x: &Tensor, y: &Tensor) -> Result<Tensor> {
    let product = super::distance::normalize(x)? * super::distance::normalize(y)?;
    Ok(product?.sum(D::Minus1)?)
}

/// Mean squared error between the cosine similarity of each pair and its score.
pub(super) struct CosineSimilarity;

impl CosineSimilarity {
    /// Creates the loss, which has no options.
    pub(super) fn make(_: &mut Maker<'_>) -> Result<Box<dyn MemberLoss>> {
        Ok(Box::new(Self))
    }
}

impl MemberLoss for CosineSimilarity {
    fn loss(&self, batch: &Members<'_>) -> Result<Tensor> {
        let [x, y] = batch.to_f64()?;
        Ok((cosines(&x, &y)? - batch.scores()?)?.sqr()?.mean_all()?)
    }
}

/// Margin MSE (Hofstätter et al. 2020, arXiv:2010.02666).
///
/// Mean squared error between `q·p - q·n` and the teacher's margin, for each negative
/// `n`.
pub(super) struct MarginMse;

impl MarginMse {
    /// Creates the loss, which has no options.
    pub(super) fn make(_: &mut Maker<'_>) -> Result<Box<dyn MemberLoss>> {
        Ok(Box::new(Self))
    }
}

impl MemberLoss for MarginMse {
    fn loss(&self, batch: &Members<'_>) -> Result<Tensor> {
        let parts = batch.all_to_f64()?;
        let [query, positive, negatives @ ..] = &parts[..] else {
            return Err(batch.refused());
        };
        let margin = |negative: &Tensor| -> Result<Tensor> {
            Ok((query * (positive - negative)?)?.sum(D::Minus1)?)
        };
        let found: Vec<Tensor> = negatives.iter().map(margin).collect::<Result<_>>()?;
        if found.is_empty() {
            return Err(batch.refused());
        }
        let found = Tensor::stack(&found, 1)?;
        let wanted = batch.scores()?.reshape(found.shape())?;
        Ok((found - wanted)?.sqr()?.mean_all()?)
    }
}

/// Multiple negatives ranking (Henderson et al. 2017, arXiv:1705.00652).
///
/// Each anchor must match its positive among the positives and negatives of all
/// examples in the batch.
pub(super) struct MultipleNegatives {
    scale: f64,
}

/// Default `mini_batch_size` of the cached losses of sentence-transformers.
const CACHED_MINI_BATCH: usize = 32;

impl MultipleNegatives {
    /// Reads its options.
    pub(super) fn make(m: &mut Maker<'_>) -> Result<Box<dyn MemberLoss>> {
        m.mini_batch_size(None)?;
        Self::with_scale(m)
    }

    /// Reads the options with the default of the cached loss.
    ///
    /// It is that of `CachedMultipleNegativesRankingLoss` in sentence-transformers.
    pub(super) fn make_cached(m: &mut Maker<'_>) -> Result<Box<dyn MemberLoss>> {
        m.mini_batch_size(Some(CACHED_MINI_BATCH))?;
        Self::with_scale(m)
    }

    fn with_scale(m: &Maker<'_>) -> Result<Box<dyn MemberLoss>> {
        Ok(Box::new(Self {
            scale: m.read.positive("scale", 20.0)?,
        }))
    }
}

impl MemberLoss for MultipleNegatives {
    fn loss(&self, batch: &Members<'_>) -> Result<Tensor> {
        let parts = batch.all_to_f64()?;
        let parts = parts.iter().map(super::distance::normalize);
        let parts: Vec<Tensor> = parts.collect::<Result<_>>()?;
        let [x, candidates @ ..] = &parts[..] else {
            return Err(batch.refused());
        };
        if candidates.is_empty() {
            return Err(batch.refused());
        }
        let candidates = Tensor::cat(candidates, 0)?;
        let logits = x.matmul(&candidates.t()?)?.affine(self.scale, 0.0)?;
        let classes: Vec<u32> = (0..x.dim(0)? as u32).collect();
        Ok(cross_entropy(&logits, &classes)?.mean_all()?)
    }
}

/// VICReg (Bardes et al. 2022, arXiv:2105.04906) between the members of a pair.
pub(super) struct VicReg {
    invariance_lambda: f64,
    variance_mu: f64,
    covariance_v: f64,
    eps: f64,
}

impl VicReg {
    /// Reads its options.
    pub(super) fn make(m: &mut Maker<'_>) -> Result<Box<dyn MemberLoss>> {
        Ok(Box::new(Self {
            invariance_lambda: m.read.any_number("invariance_lambda", 25.0)?,
            variance_mu: m.read.any_number("variance_mu", 25.0)?,
            covariance_v: m.read.any_number("covariance_v", 1.0)?,
            eps: m.read.positive("eps", 1e-4)?,
        }))
    }
}

impl MemberLoss for VicReg {
    fn loss(&self, batch: &Members<'_>) -> Result<Tensor> {
        let [x, y] = batch.to_f64()?;
        let (n, dim) = x.dims2()?;
        if n < 2 {
            return zero_loss();
        }
        let mut loss = ((&x - &y)?.sqr()?.mean_all()? * self.invariance_lambda)?;
        for x in [&x, &y] {
            let centered = x.broadcast_sub(&x.mean_keepdim(0)?)?;
            let covariance = (centered.t()?.matmul(&centered)? / (n - 1) as f64)?;
            let variance = (centered.sqr()?.sum(0)? / (n - 1) as f64)?;
            let deviation = (variance.affine(1.0, self.eps))?.sqrt()?;
            let short = deviation.affine(-1.0, 1.0)?.relu()?.mean_all()?;
            loss = (loss + (short * (self.variance_mu / 2.0))?)?;
            let beside = (covariance.sqr()?.sum_all()? - variance.sqr()?.sum_all()?)?;
            loss = (loss + (beside * (self.covariance_v / dim as f64))?)?;
        }
        Ok(loss)
    }
}

/// Converts to double precision, in which losses are computed.
///
/// On CUDA, the result stays on the GPU. Otherwise it is moved to the CPU.
pub(super) fn to_f64(x: &Tensor) -> Result<Tensor> {
    match x.device().is_cuda() {
        true => Ok(x.to_dtype(DType::F64)?),
        false => on_cpu(x),
    }
}

/// Converts to double precision on the CPU.
fn on_cpu(x: &Tensor) -> Result<Tensor> {
    Ok(x.to_device(&candle_core::Device::Cpu)?
        .to_dtype(DType::F64)?)
}
