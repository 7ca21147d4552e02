//! Layer normalisation (Ba et al. 2016, arXiv:1607.06450) over the last
//! dimension, with scale and shift.

use std::sync::Arc;

use candle_core::{D, Tensor};

use super::{FusedOp, Pass, floats};
use crate::{
    Result, kernels,
    params::{Param, Params},
};

/// Scale, shift and the small number under the root.
#[derive(Clone)]
pub(crate) struct LayerNorm {
    pub(crate) weight: Arc<Param>,
    pub(crate) bias: Arc<Param>,
    pub(crate) eps: f32,
}

impl LayerNorm {
    /// Takes `{name}.weight` and `{name}.bias` of `width` elements.
    pub(crate) fn load(params: &Params, name: &str, width: usize, eps: f32) -> Result<Self> {
        Ok(Self {
            weight: params.get(&format!("{name}.weight"), &[width])?,
            bias: params.get(&format!("{name}.bias"), &[width])?,
            eps,
        })
    }

    /// Adds the gradient with respect to `x` to `dx`, and the parameters' to
    /// theirs.
    pub(crate) fn backward(&self, x: &[f32], g: &[f32], dx: &mut [f32]) -> candle_core::Result<()> {
        let (mut dweight, mut dbias) = (self.weight.grad(), self.bias.grad());
        kernels::layer_norm_backward(
            x,
            &floats(self.weight.tensor())?,
            self.eps,
            g,
            dx,
            dweight.as_mut().map(|g| g.as_mut_slice()),
            dbias.as_mut().map(|g| g.as_mut_slice()),
        );
        Ok(())
    }

    pub(crate) fn forward(&self, x: &[f32], y: &mut [f32]) -> candle_core::Result<()> {
        let (weight, bias) = (floats(self.weight.tensor())?, floats(self.bias.tensor())?);
        kernels::layer_norm(x, &weight, &bias, self.eps, y);
        Ok(())
    }
}

/// `(x - mean) / sqrt(variance + eps) * weight + bias`
pub(crate) fn layer_norm(pass: &Pass, x: &Tensor, norm: &LayerNorm) -> Result<Tensor> {
    if pass.is_fused() {
        return pass.apply(x, norm.clone());
    }
    let centered = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
    let variance = centered.sqr()?.mean_keepdim(D::Minus1)?;
    Ok(centered
        .broadcast_div(&(variance + f64::from(norm.eps))?.sqrt()?)?
        .broadcast_mul(&pass.value(&norm.weight))?
        .broadcast_add(&pass.value(&norm.bias))?)
}

impl FusedOp for LayerNorm {
    const NAME: &'static str = "layer-norm";

    fn forward(&self, x: &[f32], shape: &[usize]) -> candle_core::Result<(Vec<f32>, Vec<usize>)> {
        let mut y = vec![0.0; x.len()];
        LayerNorm::forward(self, x, &mut y)?;
        Ok((y, shape.to_vec()))
    }

    fn backward(
        &self,
        x: &[f32],
        _shape: &[usize],
        g: &[f32],
        wanted: bool,
    ) -> candle_core::Result<Option<Vec<f32>>> {
        let mut dx = vec![0.0; x.len()];
        LayerNorm::backward(self, x, g, &mut dx)?;
        Ok(wanted.then_some(dx))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::ops::testing::{compare, noise, params};

    #[test]
    fn fused_equals_composite() {
        let params = params(&[("n.weight", &[37]), ("n.bias", &[37])], &[]);
        let norm = LayerNorm::load(&params, "n", 37, 1e-5).unwrap();
        let x = Tensor::from_vec(noise(5, 3 * 70 * 37), (3, 70, 37), &Device::Cpu).unwrap();
        compare(&params, &x, |pass, x| layer_norm(pass, x, &norm));
    }

    #[test]
    fn frozen_parameters_get_no_gradient_and_the_input_still_does() {
        let params = params(&[("n.weight", &[8]), ("n.bias", &[8])], &["n.weight"]);
        let norm = LayerNorm::load(&params, "n", 8, 1e-5).unwrap();
        let x = Tensor::from_vec(noise(5, 40), (5, 8), &Device::Cpu).unwrap();
        compare(&params, &x, |pass, x| layer_norm(pass, x, &norm));
    }
}
