//! Selection of matrix rows by index, with gradients.

use std::sync::Arc;

use candle_core::Tensor;

use super::{
    Pass,
    node::node,
    tensors::{rows_at, sums_at},
};
use crate::{Result, params::Param};

/// Selects rows of `[rows, width]`; a row of zeros for
/// [`NO_ROW`](super::tensors::NO_ROW).
pub(super) fn take_rows(pass: &Pass, x: &Tensor, index: Vec<u32>) -> Result<Tensor> {
    if pass.is_fused() {
        let index = Tensor::from_slice(&index, index.len(), x.device())?;
        return Ok(x.index_select(&index, 0)?);
    }
    let count = x.dim(0)?;
    let y = rows_at(&x.detach(), &index)?;
    node(pass, x, y, move |g, wanted| {
        wanted.then(|| sums_at(g, &index, count)).transpose()
    })
}

/// Looks up rows of a table.
pub(super) fn look_up(pass: &Pass, table: &Arc<Param>, index: &[u32]) -> Result<Tensor> {
    let values = table.tensor().detach();
    let count = values.dim(0)?;
    let y = rows_at(&values, index)?;
    let (table, index) = (Arc::clone(table), index.to_vec());
    node(pass, &pass.anchor, y, move |g, _| {
        if table.is_trainable() {
            table.add_gradient(&sums_at(g, &index, count)?)?;
        }
        Ok(None)
    })
}
