//! `y = x Wᵀ + b` on any device, with the gradients of all three.

use std::sync::Arc;

use candle_core::Tensor;

use super::{
    Pass,
    node::node,
    tensors::{column_sums, product},
};
use crate::{Result, params::Param};

/// A part of a parameter whose first dimension are rows.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a> {
    pub(super) param: &'a Arc<Param>,
    /// The first row.
    pub(super) first: usize,
}

impl<'a> Rows<'a> {
    /// From the first row on.
    pub(super) fn all(param: &'a Arc<Param>) -> Self {
        Self { param, first: 0 }
    }
}

/// The last dimension of `x` by `outputs` rows of `weight`, and with the same
/// rows of `bias`. Further dimensions of the weight count as one.
pub(super) fn map_rows(
    pass: &Pass,
    x: &Tensor,
    weight: Rows<'_>,
    bias: Option<&Arc<Param>>,
    outputs: usize,
) -> Result<Tensor> {
    let Rows { param, first } = weight;
    let mut shape = x.dims().to_vec();
    let inputs = shape.pop().unwrap_or(1);
    shape.push(outputs);
    let count = x.elem_count() / inputs.max(1);
    // In two dimensions: the gradient of a weight is one product then.
    let rows = x.reshape((count, inputs))?.contiguous()?;
    let (weight, bias) = (Arc::clone(param), bias.cloned());
    let own = move |param: &Param| {
        let tensor = param.tensor().detach();
        let all = tensor.dim(0)?;
        let each = tensor.elem_count() / all.max(1);
        tensor.reshape((all, each))?.narrow(0, first, outputs)
    };
    let precision = pass.precision();
    let mut y = product(precision, &rows.detach(), &own(&weight)?.t()?)?;
    if let Some(bias) = &bias {
        y = y.broadcast_add(&own(bias)?.reshape(outputs)?)?;
    }
    // The gradient of all rows, of which others are zero.
    let spread = move |param: &Param, grad: Tensor| {
        let all = param.tensor().dim(0)?;
        param.add_gradient(&grad.pad_with_zeros(0, first, all - first - outputs)?)
    };
    let kept = rows.detach();
    let y = node(pass, &rows, y, move |g, wanted| {
        if weight.is_trainable() {
            spread(&weight, product(precision, &g.t()?, &kept)?)?;
        }
        if let Some(bias) = bias.as_ref().filter(|bias| bias.is_trainable()) {
            spread(bias, column_sums(g)?)?;
        }
        let dx = wanted.then(|| product(precision, g, &own(&weight)?));
        dx.transpose()
    })?;
    Ok(y.reshape(shape)?)
}
