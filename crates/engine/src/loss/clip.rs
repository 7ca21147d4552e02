//! The loss of CLIP (Radford et al. 2021, arXiv:2103.00020, figure 3).

use candle_core::Tensor;

use crate::{
    Result,
    models::Clip,
    ops::{Pass, cross_entropy_of_diagonal, normalize},
};

/// Similarities are never multiplied with more than this (section 2.5 of the
/// paper). The model holds the logarithm.
pub const MAX_LOGIT_SCALE: f32 = 100.0;

/// Symmetric cross-entropy over all pairs of a batch.
///
/// For embeddings `texts` and `images`, both `[batch, dim]`, row `i` of one
/// belonging to row `i` of the other:
/// `logits = exp(logit_scale) * cos(texts, images)`, and the loss is the mean of
/// the cross-entropies of finding the picture of each text and the text of
/// each picture. Equal to the loss of `CLIPModel` in `transformers`.
///
/// # Errors
/// Where the shapes differ.
pub fn clip_loss(model: &Clip, pass: &Pass, texts: &Tensor, images: &Tensor) -> Result<Tensor> {
    let scale = pass.value(model.logit_scale()).exp()?;
    let logits = normalize(texts)?
        .matmul(&normalize(images)?.t()?)?
        .broadcast_mul(&scale)?;
    let by_text = cross_entropy_of_diagonal(&logits)?;
    let by_image = cross_entropy_of_diagonal(&logits.t()?.contiguous()?)?;
    Ok(((by_text + by_image)? / 2.0)?)
}
