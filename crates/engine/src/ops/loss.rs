//! Building blocks of losses. They work on the embeddings of one batch, so
//! candle's own operations are fast enough.

use candle_core::{D, DType, Tensor};

use crate::Result;

/// Smallest length by which `torch.nn.functional.normalize` divides.
pub(crate) const SHORTEST: f64 = 1e-12;

/// Divides each row of `x` by its Euclidean length, like
/// `torch.nn.functional.normalize`. A row of zeros remains zero.
pub(crate) fn normalize(x: &Tensor) -> Result<Tensor> {
    // The limit is inside the root to keep the gradient of a zero row finite.
    let squares = x.sqr()?.sum_keepdim(D::Minus1)?;
    let length = squares.maximum(SHORTEST * SHORTEST)?.sqrt()?;
    Ok(x.broadcast_div(&length)?)
}

/// Returns the mean cross-entropy over rows, where row `i` belongs to class
/// `i`: `-log softmax(row)[i]`.
pub(crate) fn cross_entropy_of_diagonal(logits: &Tensor) -> Result<Tensor> {
    let n = logits.dim(0)?;
    let max = logits.max_keepdim(D::Minus1)?.detach();
    let sum = logits.broadcast_sub(&max)?.exp()?.sum_keepdim(D::Minus1)?;
    let log_sum = (sum.log()? + max)?.mean_all()?;
    let diagonal = (logits * Tensor::eye(n, DType::F32, logits.device())?)?.sum_all()?;
    Ok((log_sum - (diagonal / n as f64)?)?)
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;

    #[test]
    fn a_row_of_zeros_is_normalised_without_nan() {
        let x = Tensor::new(&[[3.0f32, 4.0], [0.0, 0.0]], &Device::Cpu).unwrap();
        let x = Var::from_tensor(&x).unwrap();
        let y = normalize(x.as_tensor()).unwrap();
        assert_eq!(
            y.to_vec2::<f32>().unwrap(),
            [[0.6, 0.8], [0.0, 0.0]].map(Vec::from)
        );
        let grads = y.sum_all().unwrap().backward().unwrap();
        let grad = grads.get(x.as_tensor()).unwrap().flatten_all().unwrap();
        let grad: Vec<f32> = grad.to_vec1().unwrap();
        assert!(grad.iter().all(|g| g.is_finite()), "{grad:?}");
    }
}
