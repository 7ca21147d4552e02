//! Attention pooling: one learned query attends to all positions of a sequence
//! (Lee et al. 2019, arXiv:1810.00825), as in SigLIP's image tower.
//!
//! It has only a composite form: it runs once per image, whereas the blocks run
//! for every position.

use std::sync::Arc;

use candle_core::{D, Tensor};

use super::{Activation, AttentionConfig, BlockForm, LayerNorm, Linear, Pass, layer_norm, linear};
use crate::{
    Result,
    params::{Param, Params},
};

/// The layers of an attention pooling, which computes:
///
/// ```text
/// h = out(attention(query(probe), key(x), value(x)))
/// y = h + fc2(act(fc1(norm(h))))
/// ```
pub(crate) struct AttentionPool {
    /// `[1, 1, width]`
    pub(crate) probe: Arc<Param>,
    pub(crate) query: Linear,
    pub(crate) key: Linear,
    pub(crate) value: Linear,
    pub(crate) out: Linear,
    pub(crate) norm: LayerNorm,
    pub(crate) fc1: Linear,
    pub(crate) fc2: Linear,
    pub(crate) activation: Activation,
    pub(crate) attention: AttentionConfig,
}

impl AttentionPool {
    /// Loads the layers `{name}.probe`, `{name}.attention` (with the names of
    /// PyTorch's `MultiheadAttention`), `{name}.layernorm` and `{name}.mlp`.
    ///
    /// # Errors
    /// If a tensor is missing or has another shape.
    pub(crate) fn load(params: &Params, name: &str, form: &BlockForm) -> Result<Self> {
        let (width, hidden) = (form.width, form.hidden);
        let attention = format!("{name}.attention");
        let weight = params.get(&format!("{attention}.in_proj_weight"), &[3 * width, width])?;
        let bias = params.get(&format!("{attention}.in_proj_bias"), &[3 * width])?;
        let part = |part: usize| Linear {
            weight: weight.clone(),
            bias: Some(bias.clone()),
            inputs: width,
            outputs: width,
            first: part * width,
            adapter: None,
        };
        let layer = |part: &str, inputs, outputs| {
            Linear::load(params, &format!("{name}.{part}"), inputs, outputs, true)
        };
        Ok(Self {
            probe: params.get(&format!("{name}.probe"), &[1, 1, width])?,
            query: part(0),
            key: part(1),
            value: part(2),
            out: Linear {
                // PyTorch's `MultiheadAttention` reads this weight directly
                // instead of calling the layer, so PEFT puts no adapter on it.
                weight: params.get(&format!("{attention}.out_proj.weight"), &[width, width])?,
                bias: Some(params.get(&format!("{attention}.out_proj.bias"), &[width])?),
                inputs: width,
                outputs: width,
                first: 0,
                adapter: None,
            },
            norm: LayerNorm::load(params, &format!("{name}.layernorm"), width, form.eps)?,
            fc1: layer("mlp.fc1", width, hidden)?,
            fc2: layer("mlp.fc2", hidden, width)?,
            activation: form.activation,
            attention: form.attention.clone(),
        })
    }

    /// Pools `[rows, width]`, `batch` sequences of equal length, to `[batch,
    /// width]`.
    ///
    /// # Errors
    /// If the number of rows is not a multiple of the number of sequences.
    pub(crate) fn forward(&self, pass: &Pass, x: &Tensor, batch: usize) -> Result<Tensor> {
        let AttentionConfig { heads, head, .. } = self.attention;
        let (rows, width) = x.dims2()?;
        let length = rows / batch.max(1);
        let probe = pass.value(&self.probe).reshape((1, width))?;
        let query = linear(pass, &probe, &self.query)?;
        let query = query.reshape((1, heads, 1, head))?;
        let split = |x: Tensor| -> Result<Tensor> {
            let x = x.reshape((batch, length, heads, head))?;
            Ok(x.transpose(1, 2)?.contiguous()?)
        };
        let key = split(linear(pass, x, &self.key)?)?;
        let value = split(linear(pass, x, &self.value)?)?;
        let query = query.broadcast_as((batch, heads, 1, head))?.contiguous()?;
        let scores = query.matmul(&key.transpose(2, 3)?.contiguous()?)?;
        let scores = (scores * f64::from(self.attention.scale))?;
        let shifted = scores.broadcast_sub(&scores.max_keepdim(D::Minus1)?.detach())?;
        let exp = shifted.exp()?;
        let weights = exp.broadcast_div(&exp.sum_keepdim(D::Minus1)?)?;
        let mixed = weights.matmul(&value)?.reshape((batch, width))?;
        let h = linear(pass, &mixed, &self.out)?;
        let y = layer_norm(pass, &h, &self.norm)?;
        let y = self.activation.composite(&linear(pass, &y, &self.fc1)?)?;
        Ok((h + linear(pass, &y, &self.fc2)?)?)
    }
}
