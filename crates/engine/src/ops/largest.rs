//! The maximum of several values on any device. If values are equal, the first
//! gets the gradient, as in the fused operations.

use candle_core::{DType, Tensor};

use super::{Pass, node::node};
use crate::Result;

/// Returns the maximum along dimension 1 of `[count, values, width]`, as
/// `[count, width]`.
pub(super) fn first_largest(pass: &Pass, x: &Tensor) -> Result<Tensor> {
    let values = x.dim(1)?;
    let detached = x.detach();
    let y = detached.max(1)?;
    // Finds the first maximum: ranks decrease from `values`, so the first
    // position has the highest.
    let ranks: Vec<f32> = (0..values).map(|index| (values - index) as f32).collect();
    let ranks = Tensor::from_vec(ranks, (1, values, 1), x.device())?;
    let is_largest = detached
        .broadcast_eq(&y.unsqueeze(1)?)?
        .to_dtype(DType::F32)?;
    let first = is_largest.broadcast_mul(&ranks)?.max(1)?;
    node(pass, x, y, move |g, wanted| {
        if !wanted {
            return Ok(None);
        }
        let chosen = ranks.broadcast_eq(&first.unsqueeze(1)?)?;
        Ok(Some(
            chosen
                .to_dtype(DType::F32)?
                .broadcast_mul(&g.unsqueeze(1)?)?,
        ))
    })
}
