//! Computes `y = x Wᵀ + b` on any device, with all gradients.

use std::sync::Arc;

use candle_core::Tensor;

use super::{
    Pass,
    node::node,
    tensors::{column_sums, product},
};
use crate::{Result, params::Param};

/// A range of rows of a parameter.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a> {
    pub(super) param: &'a Arc<Param>,
    /// The first row.
    pub(super) first: usize,
}

impl<'a> Rows<'a> {
    /// Selects rows from 0.
    pub(super) fn all(param: &'a Arc<Param>) -> Self {
        Self { param, first: 0 }
    }
}

/// Multiplies the last dimension of `x` with `outputs` rows of `weight`, and
/// adds the same rows of `bias`. Further dimensions of the weight count as one.
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
    // As a matrix, so that the weight's gradient is a single product.
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
    // Adds a gradient of some rows; that of the others is zero.
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
