//! Functions that several losses use.

use candle_core::{D, DType, Device, Tensor};

use crate::Result;

/// Replaces masked logits: `exp` of it is 0.
const MASKED: f64 = -1e30;

/// Returns a loss of 0.
pub(crate) fn zero_loss() -> Result<Tensor> {
    Ok(Tensor::zeros((), DType::F64, &Device::Cpu)?)
}

/// Returns the mean of all elements; 0 if there are none.
pub(crate) fn mean(losses: &Tensor) -> Result<Tensor> {
    match losses.elem_count() {
        0 => zero_loss(),
        _ => Ok(losses.mean_all()?),
    }
}

/// Returns the mean of the positive elements; 0 if there are none.
pub(crate) fn mean_of_positive(losses: &Tensor) -> Result<Tensor> {
    let mask = losses.gt(0f64)?.to_dtype(DType::F64)?;
    let count: f64 = mask.sum_all()?.to_scalar()?;
    if count == 0.0 {
        return zero_loss();
    }
    Ok(((losses * mask)?.sum_all()? / count)?)
}

/// Computes `log(1 + exp(x))`.
pub(crate) fn softplus(x: &Tensor) -> Result<Tensor> {
    let small = (x.abs()?.neg()?.exp()? + 1.0)?.log()?;
    Ok((x.relu()? + small)?)
}

/// Computes `log(sum(exp(x)))` over a dimension, where `keep` is 1.
///
/// If `add_one` is set, the sum includes `exp(0)`. The result is 0 where no element is
/// kept.
pub(crate) fn log_sum_exp(
    x: &Tensor,
    keep: Option<&Tensor>,
    add_one: bool,
    dim: usize,
) -> Result<Tensor> {
    let x = match keep {
        Some(keep) => {
            let never = Tensor::full(MASKED, x.shape(), x.device())?;
            keep.to_dtype(DType::U8)?.where_cond(x, &never)?
        }
        None => x.clone(),
    };
    let mut max = x.max_keepdim(dim)?.detach();
    if add_one {
        max = max.maximum(0.0)?;
    }
    let mut sum = x.broadcast_sub(&max)?.exp()?.sum_keepdim(dim)?;
    if add_one {
        sum = (sum + max.neg()?.exp()?)?;
    }
    let result = (sum.log()? + &max)?;
    match keep {
        Some(keep) => {
            let any = keep.max_keepdim(dim)?.to_dtype(DType::U8)?;
            let zeros = result.zeros_like()?;
            Ok(any.where_cond(&result, &zeros)?.squeeze(dim)?)
        }
        None => Ok(result.squeeze(dim)?),
    }
}

/// Returns the cross-entropy of each row of logits with its class.
pub(crate) fn cross_entropy(logits: &Tensor, classes: &[u32]) -> Result<Tensor> {
    let places = classes.iter().enumerate();
    let of_class = super::tuples::elements_at(logits, places.map(|(i, class)| (i as u32, *class)))?;
    Ok((log_sum_exp(logits, None, false, 1)? - of_class)?)
}

/// Returns a matrix with 1 at the given positions and 0 elsewhere.
pub(crate) fn mask(
    places: impl Iterator<Item = (u32, u32)>,
    rows: usize,
    columns: usize,
) -> Result<Tensor> {
    let mut mask = vec![0f64; rows * columns];
    for (row, column) in places {
        mask[row as usize * columns + column as usize] = 1.0;
    }
    Ok(Tensor::from_vec(mask, (rows, columns), &Device::Cpu)?)
}

/// Returns a vector of the values.
pub(crate) fn vector(values: Vec<f64>) -> Result<Tensor> {
    let n = values.len();
    Ok(Tensor::from_vec(values, n, &Device::Cpu)?)
}

/// Returns the rows of `x` at the given indices.
pub(crate) fn select_rows(x: &Tensor, places: &[u32]) -> Result<Tensor> {
    let index = Tensor::from_slice(places, places.len(), x.device())?;
    Ok(x.index_select(&index, 0)?)
}

/// Computes `log(softmax(x))` over the last dimension.
pub(crate) fn log_softmax(x: &Tensor) -> Result<Tensor> {
    let shifted = x.broadcast_sub(&x.max_keepdim(D::Minus1)?.detach())?;
    let sum = shifted.exp()?.sum_keepdim(D::Minus1)?;
    Ok(shifted.broadcast_sub(&sum.log()?)?)
}

/// Computes `softmax(x)` over the last dimension.
pub(crate) fn softmax(x: &Tensor) -> Result<Tensor> {
    let shifted = x.broadcast_sub(&x.max_keepdim(D::Minus1)?.detach())?;
    let exp = shifted.exp()?;
    Ok(exp.broadcast_div(&exp.sum_keepdim(D::Minus1)?)?)
}

/// Computes `cos(acos(c) + angle)`, with the angle in radians.
pub(super) fn cos_of_sum(c: &Tensor, angle: f64) -> Result<Tensor> {
    // Keep the root away from zero, where its gradient is infinite.
    let sine = c.sqr()?.affine(-1.0, 1.0)?.maximum(1e-14)?.sqrt()?;
    Ok((c.affine(angle.cos(), 0.0)? - sine.affine(angle.sin(), 0.0)?)?)
}
