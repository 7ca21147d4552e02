//! Small pieces that losses are made of. They work on one batch of
//! embeddings, so candle's own operations are fast enough.

use candle_core::{D, DType, Tensor};

use crate::Result;

/// Each row of `x` divided by its Euclidean length.
pub(crate) fn normalize(x: &Tensor) -> Result<Tensor> {
    Ok(x.broadcast_div(&x.sqr()?.sum_keepdim(D::Minus1)?.sqrt()?)?)
}

/// Mean over the rows of `-log softmax(row)[row index]`: cross-entropy where
/// row `i` belongs to class `i`.
pub(crate) fn cross_entropy_of_diagonal(logits: &Tensor) -> Result<Tensor> {
    let n = logits.dim(0)?;
    let max = logits.max_keepdim(D::Minus1)?.detach();
    let sum = logits.broadcast_sub(&max)?.exp()?.sum_keepdim(D::Minus1)?;
    let log_sum = (sum.log()? + max)?.mean_all()?;
    let diagonal = (logits * Tensor::eye(n, DType::F32, logits.device())?)?.sum_all()?;
    Ok((log_sum - (diagonal / n as f64)?)?)
}
