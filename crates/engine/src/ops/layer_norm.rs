//! Layer normalisation (Ba et al. 2016, arXiv:1607.06450) over the last
//! dimension, and its variants without bias or mean.

use std::{borrow::Cow, sync::Arc};

use candle_core::{D, Tensor};

use super::{
    FusedOp, Pass, floats,
    node::node,
    tensors::{column_sums, row_means},
};
use crate::{
    Result, kernels,
    kernels::rms_norm,
    params::{Param, Params},
};

/// The kind of a normalisation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum NormKind {
    /// `(x - mean) / deviation * weight + bias`
    #[default]
    Layer,
    /// The same without `bias`.
    LayerWithoutBias,
    /// `x / sqrt(mean(x^2)) * weight` (Zhang and Sennrich 2019,
    /// arXiv:1910.07467).
    Rms,
    /// The same with `1 + weight`, as in Gemma.
    RmsPlusOne,
}

/// The parameters of a normalisation.
#[derive(Clone)]
pub(crate) struct LayerNorm {
    pub(crate) weight: Arc<Param>,
    /// Only [`NormKind::Layer`] has one.
    pub(crate) bias: Option<Arc<Param>>,
    pub(crate) eps: f32,
    pub(crate) kind: NormKind,
}

impl NormKind {
    /// Returns the names and shapes of the tensors of a normalisation.
    pub(crate) fn tensors(self, name: &str, width: usize) -> Vec<(String, Vec<usize>)> {
        let mut all = vec![(format!("{name}.weight"), vec![width])];
        if self == Self::Layer {
            all.insert(0, (format!("{name}.bias"), vec![width]));
        }
        all
    }
}

impl LayerNorm {
    /// Loads `{name}.weight` and `{name}.bias` of `width` elements.
    pub(crate) fn load(params: &Params, name: &str, width: usize, eps: f32) -> Result<Self> {
        Self::load_kind(params, name, width, eps, NormKind::Layer)
    }

    /// Loads a normalisation of this kind.
    pub(crate) fn load_kind(
        params: &Params,
        name: &str,
        width: usize,
        eps: f32,
        kind: NormKind,
    ) -> Result<Self> {
        let bias = match kind {
            NormKind::Layer => Some(params.get(&format!("{name}.bias"), &[width])?),
            NormKind::LayerWithoutBias | NormKind::Rms | NormKind::RmsPlusOne => None,
        };
        Ok(Self {
            weight: params.get(&format!("{name}.weight"), &[width])?,
            bias,
            eps,
            kind,
        })
    }

    fn is_rms(&self) -> bool {
        matches!(self.kind, NormKind::Rms | NormKind::RmsPlusOne)
    }

    /// Returns the factors of a normalised row.
    fn factors<'a>(&self, weight: &'a [f32]) -> Cow<'a, [f32]> {
        match self.kind {
            NormKind::RmsPlusOne => weight.iter().map(|weight| weight + 1.0).collect(),
            _ => Cow::Borrowed(weight),
        }
    }

    /// Adds the gradient with respect to `x` to `dx`, and accumulates the
    /// parameters'.
    pub(crate) fn backward(&self, x: &[f32], g: &[f32], dx: &mut [f32]) -> candle_core::Result<()> {
        let mut dweight = self.weight.grad();
        let dweight = dweight.as_mut().map(|g| g.as_mut_slice());
        let weight = floats(self.weight.tensor())?;
        let weight = self.factors(&weight);
        if self.is_rms() {
            rms_norm::rms_norm_backward(x, &weight, self.eps, g, dx, dweight);
            return Ok(());
        }
        let mut dbias = self.bias.as_ref().and_then(|bias| bias.grad());
        let dbias = dbias.as_mut().map(|g| g.as_mut_slice());
        kernels::layer_norm_backward(x, &weight, self.eps, g, dx, dweight, dbias);
        Ok(())
    }

    pub(crate) fn forward(&self, x: &[f32], y: &mut [f32]) -> candle_core::Result<()> {
        let weight = floats(self.weight.tensor())?;
        let weight = self.factors(&weight);
        if self.is_rms() {
            rms_norm::rms_norm(x, &weight, self.eps, y);
            return Ok(());
        }
        let bias = self.bias.as_ref();
        let bias = bias.map(|bias| floats(bias.tensor())).transpose()?;
        let bias = match &bias {
            Some(bias) => Cow::Borrowed(&**bias),
            None => Cow::Owned(vec![0.0; weight.len()]),
        };
        kernels::layer_norm(x, &weight, &bias, self.eps, y);
        Ok(())
    }
}

/// Normalises the last dimension of `x`.
pub(crate) fn layer_norm(pass: &Pass, x: &Tensor, norm: &LayerNorm) -> Result<Tensor> {
    if pass.is_fused() {
        return pass.apply(x, norm.clone());
    }
    composite(pass, x, norm)
}

/// Normalises on any device. The backward pass keeps only the input.
fn composite(pass: &Pass, x: &Tensor, norm: &LayerNorm) -> Result<Tensor> {
    let width = x.dim(D::Minus1)?;
    let shape = x.shape();
    let rows = x
        .reshape((x.elem_count() / width.max(1), width))?
        .contiguous()?;
    let parts = norm.parts(&rows.detach())?;
    let mut y = parts.normal.broadcast_mul(&norm.scale()?)?;
    if let Some(bias) = &norm.bias {
        y = y.broadcast_add(&bias.tensor().detach())?;
    }
    let (kept, norm) = (rows.detach(), norm.clone());
    let y = node(pass, &rows, y, move |g, wanted| {
        let Parts { normal, rstd } = norm.parts(&kept)?;
        let product = (g * &normal)?;
        if norm.weight.is_trainable() {
            norm.weight.add_gradient(&column_sums(&product)?)?;
        }
        if let Some(bias) = norm.bias.as_ref().filter(|bias| bias.is_trainable()) {
            bias.add_gradient(&column_sums(g)?)?;
        }
        if !wanted {
            return Ok(None);
        }
        // dx = rstd (dn - mean(dn) - n mean(dn n)), with dn = g weight and n
        // the normalised input. RMS norms lack the term mean(dn).
        let dn = g.broadcast_mul(&norm.scale()?)?;
        let along = row_means(&(&dn * &normal)?)?;
        let mut dx = (&dn - normal.broadcast_mul(&along)?)?;
        if !norm.is_rms() {
            dx = dx.broadcast_sub(&row_means(&dn)?)?;
        }
        Ok(Some(dx.broadcast_mul(&rstd)?))
    })?;
    Ok(y.reshape(shape)?)
}

/// Normalised rows, before scale and shift.
struct Parts {
    normal: Tensor,
    /// Inverse standard deviation, `[rows, 1]`.
    rstd: Tensor,
}

impl LayerNorm {
    fn parts(&self, x: &Tensor) -> candle_core::Result<Parts> {
        let centered = match self.is_rms() {
            true => x.clone(),
            false => x.broadcast_sub(&row_means(x)?)?,
        };
        let variance = row_means(&centered.sqr()?)?;
        let rstd = (variance + f64::from(self.eps))?.sqrt()?.recip()?;
        Ok(Parts {
            normal: centered.broadcast_mul(&rstd)?,
            rstd,
        })
    }

    /// Returns the factors of a normalised row, as a tensor.
    fn scale(&self) -> candle_core::Result<Tensor> {
        let weight = self.weight.tensor().detach();
        match self.kind {
            NormKind::RmsPlusOne => weight + 1.0,
            _ => Ok(weight),
        }
    }
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
    fn fused_equals_composite_without_bias_and_without_mean() {
        let params = params(&[("n.weight", &[37])], &[]);
        for kind in [
            NormKind::LayerWithoutBias,
            NormKind::Rms,
            NormKind::RmsPlusOne,
        ] {
            let norm = LayerNorm::load_kind(&params, "n", 37, 1e-5, kind).unwrap();
            let x = Tensor::from_vec(noise(5, 3 * 70 * 37), (3, 70, 37), &Device::Cpu).unwrap();
            compare(&params, &x, |pass, x| layer_norm(pass, x, &norm));
        }
    }

    #[test]
    fn frozen_parameters_get_no_gradient_and_the_input_still_does() {
        let params = params(&[("n.weight", &[8]), ("n.bias", &[8])], &["n.weight"]);
        let norm = LayerNorm::load(&params, "n", 8, 1e-5).unwrap();
        let x = Tensor::from_vec(noise(5, 40), (5, 8), &Device::Cpu).unwrap();
        compare(&params, &x, |pass, x| layer_norm(pass, x, &norm));
    }
}
