//! Losses over examples that are pairs or triplets themselves.

use candle_core::{D, DType, Tensor};

use super::math::{cross_entropy, vector};
use crate::{
    Error, Result,
    models::Model,
    ops::{Pass, cross_entropy_of_diagonal, normalize},
};

/// Similarities are never multiplied with more than this (section 2.5 of the
/// CLIP paper). The model holds the logarithm.
pub const MAX_LOGIT_SCALE: f32 = 100.0;

/// The loss of CLIP (Radford et al. 2021, arXiv:2103.00020, figure 3):
/// symmetric cross-entropy over all pairs of a batch.
///
/// For embeddings `texts` and `images`, both `[batch, dim]`, row `i` of one
/// belonging to row `i` of the other:
/// `logits = exp(logit_scale) * cos(texts, images)`, and the loss is the mean of
/// the cross-entropies of finding the picture of each text and the text of
/// each picture. Equal to the loss of `CLIPModel` in `transformers`.
///
/// # Errors
/// Where the shapes differ, or `model` is no CLIP.
pub fn clip_loss(model: &Model, pass: &Pass, texts: &Tensor, images: &Tensor) -> Result<Tensor> {
    let scale = model
        .logit_scale()
        .ok_or_else(|| Error::config("loss", "`CLIPLoss` is for models of texts and pictures"))?;
    let scale = pass.value(scale).exp()?;
    let logits = normalize(texts)?
        .matmul(&normalize(images)?.t()?)?
        .broadcast_mul(&scale)?;
    let by_text = cross_entropy_of_diagonal(&logits)?;
    let by_image = cross_entropy_of_diagonal(&logits.t()?.contiguous()?)?;
    Ok(((by_text + by_image)? / 2.0)?)
}

/// Cosine of the angle between row `i` of both.
fn cosines(x: &Tensor, y: &Tensor) -> Result<Tensor> {
    let product = super::distance::normalize(x)? * super::distance::normalize(y)?;
    Ok(product?.sum(D::Minus1)?)
}

/// Mean squared difference between the cosine of each pair and its score.
pub(super) fn cosine_similarity(x: &Tensor, y: &Tensor, scores: &[f32]) -> Result<Tensor> {
    let wanted = vector(scores.iter().map(|s| f64::from(*s)).collect())?;
    Ok((cosines(x, y)? - wanted)?.sqr()?.mean_all()?)
}

/// Margin MSE (Hofstätter et al. 2020, arXiv:2010.02666): mean squared
/// difference between `q·p - q·n` and the margin that a better model gave.
pub(super) fn margin_mse(
    query: &Tensor,
    positive: &Tensor,
    negative: &Tensor,
    margins: &[f32],
) -> Result<Tensor> {
    let wanted = vector(margins.iter().map(|s| f64::from(*s)).collect())?;
    let found = (query * (positive - negative)?)?.sum(D::Minus1)?;
    Ok((found - wanted)?.sqr()?.mean_all()?)
}

/// Multiple negatives ranking (Henderson et al. 2017, arXiv:1705.00652): each
/// first member must find its second among those of the whole batch.
pub(super) fn multiple_negatives(x: &Tensor, y: &Tensor, scale: f64) -> Result<Tensor> {
    let (x, y) = (
        super::distance::normalize(x)?,
        super::distance::normalize(y)?,
    );
    let logits = x.matmul(&y.t()?)?.affine(scale, 0.0)?;
    let classes: Vec<u32> = (0..x.dim(0)? as u32).collect();
    Ok(cross_entropy(&logits, &classes)?.mean_all()?)
}

/// Double precision on the CPU, where losses are computed.
pub(super) fn widened(x: &Tensor) -> Result<Tensor> {
    Ok(x.to_device(&candle_core::Device::Cpu)?
        .to_dtype(DType::F64)?)
}
