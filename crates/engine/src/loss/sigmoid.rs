//! The loss of SigLIP.

use std::sync::Arc;

use candle_core::{DType, Tensor};

use super::{
    Maker,
    math::softplus,
    pairwise::{MemberLoss, Members},
};
use crate::{
    Error, Result,
    models::Model,
    ops::{Pass, normalize},
    params::Param,
};

/// Where the bias starts, so that the many pairs that do not belong together
/// weigh little at first (section 3.2 of the paper).
const FIRST_BIAS: f32 = -10.0;

/// `SigLIPLoss`: see [`sigmoid_loss`].
pub(super) struct SigLip {
    /// For models that have no bias of their own.
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

/// The sigmoid loss (Zhai et al. 2023, arXiv:2303.15343): each pair of a text
/// and a picture of the batch is classified for itself, as belonging together
/// or not.
///
/// For embeddings `texts` and `images`, both `[batch, dim]`, row `i` of one
/// belonging to row `i` of the other: `logits = exp(logit_scale) * cos(texts,
/// images) + bias`, and the loss is the mean over the rows of the sum of
/// `-log sigmoid(±logits)`. Equal to the loss of `SiglipModel` in `transformers`.
///
/// # Errors
/// Where the shapes differ, or `model` has no logit scale.
fn sigmoid_loss(
    model: &Model,
    pass: &Pass,
    texts: &Tensor,
    images: &Tensor,
    bias: &Arc<Param>,
) -> Result<Tensor> {
    let scale = model
        .logit_scale()
        .ok_or_else(|| Error::config("loss", "`SigLIPLoss` is for models of texts and pictures"))?;
    let scale = pass.value(scale).exp()?;
    let bias = pass.value(model.logit_bias().unwrap_or(bias));
    let logits = normalize(texts)?
        .matmul(&normalize(images)?.t()?)?
        .broadcast_mul(&scale)?
        .broadcast_add(&bias.to_device(texts.device())?)?;
    let rows = logits.dim(0)?;
    // -1 where both belong together, 1 elsewhere.
    let sign = Tensor::eye(rows, DType::F32, logits.device())?.affine(-2.0, 1.0)?;
    Ok((softplus(&(logits * sign)?)?.sum_all()? / rows as f64)?)
}
