//! `SigLIPLoss`: the sigmoid loss of SigLIP.

use std::sync::Arc;

use candle_core::{DType, Tensor};

use super::{
    maker::Maker,
    math::softplus,
    pairwise::{MemberLoss, Members},
};
use crate::{
    Error, Result,
    models::Model,
    ops::{Pass, normalize},
    params::Param,
};

/// Initial bias (section 3.2 of the paper).
///
/// It keeps the loss of the many negative pairs small at first.
const FIRST_BIAS: f32 = -10.0;

/// `SigLIPLoss`; see [`sigmoid_loss`].
pub(super) struct SigLip {
    /// Bias for models that have none.
    bias: Arc<Param>,
}

impl SigLip {
    /// Reads its options.
    pub(super) fn make(m: &mut Maker<'_>) -> Result<Box<dyn MemberLoss>> {
        m.mini_batch_size(None)?;
        Ok(Box::new(Self {
            bias: m.weight("logit_bias", &[1], vec![FIRST_BIAS])?,
        }))
    }
}

impl MemberLoss for SigLip {
    fn loss(&self, batch: &Members<'_>) -> Result<Tensor> {
        match batch.parts {
            [texts, images] => sigmoid_loss(batch.model, batch.pass, texts, images, &self.bias),
            _ => Err(batch.refused()),
        }
    }
}

/// Computes the sigmoid loss (Zhai et al. 2023, arXiv:2303.15343).
///
/// Each pair of a text and an image of the batch is classified independently as
/// matching or not. `texts` and `images` are embeddings `[batch, dim]`, of which row
/// `i` of one matches row `i` of the other. With `logits = exp(logit_scale) *
/// cos(texts, images) + bias`, the loss is the mean over rows of the sum of `-log
/// sigmoid(±logits)`. Equal to the loss of `SiglipModel` in `transformers`.
///
/// # Errors
/// Returns an error if the shapes differ or `model` has no logit scale.
fn sigmoid_loss(
    model: &Model,
    pass: &Pass,
    texts: &Tensor,
    images: &Tensor,
    bias: &Arc<Param>,
) -> Result<Tensor> {
    let scale = model
        .logit_scale()
        .ok_or_else(|| Error::config("loss", "`SigLIPLoss` is for models of texts and images"))?;
    let scale = pass.value(scale).exp()?;
    let bias = pass.value(model.logit_bias().unwrap_or(bias));
    let logits = normalize(texts)?
        .matmul(&normalize(images)?.t()?)?
        .broadcast_mul(&scale)?
        .broadcast_add(&bias.to_device(texts.device())?)?;
    let rows = logits.dim(0)?;
    // -1 for matching pairs, 1 for all others.
    let sign = Tensor::eye(rows, DType::F32, logits.device())?.affine(-2.0, 1.0)?;
    Ok((softplus(&(logits * sign)?)?.sum_all()? / rows as f64)?)
}
