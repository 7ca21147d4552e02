//! Checks over all gradients of a step: finiteness and total norm.

use std::sync::Arc;

use candle_core::{D, Tensor};
use rayon::prelude::*;

use super::rule::CHUNK;
use crate::{
    Result,
    params::{Param, Params},
};

/// Returns the sum of squares of each gradient on a device, read back at once.
fn squares_of_tensors<'a>(params: &[&'a Params]) -> Result<Vec<(&'a Arc<Param>, f64)>> {
    let mut found = Vec::new();
    let mut sums = Vec::new();
    for param in params.iter().flat_map(|params| params.iter()) {
        if let Some(grad) = param.tensor_gradient()? {
            let squares = grad.sqr()?;
            // Row by row first: a GPU sums all elements at once on a single
            // multiprocessor.
            let squares = match squares.rank() {
                0 | 1 => squares,
                _ => squares.sum(D::Minus1)?,
            };
            sums.push(squares.sum_all()?);
            found.push(param);
        }
    }
    if sums.is_empty() {
        return Ok(Vec::new());
    }
    let sums: Vec<f32> = Tensor::stack(&sums, 0)?.to_vec1()?;
    Ok(found
        .into_iter()
        .zip(sums.into_iter().map(f64::from))
        .collect())
}

fn is_finite(part: &[f32]) -> bool {
    /// Bits of positive infinity. Without the sign, infinities and NaNs are at
    /// least this.
    const INFINITE: u32 = 0x7F80_0000;
    let bits = part.iter().map(|g| g.to_bits() & 0x7FFF_FFFF);
    bits.fold(0, u32::max) < INFINITE
}

/// Returns the name of the first parameter with a gradient that is not finite.
///
/// # Errors
/// If the device fails.
pub(crate) fn not_finite<'a>(params: &[&'a Params]) -> Result<Option<&'a str>> {
    for (param, sum) in squares_of_tensors(params)? {
        // Squares of finite values can overflow.
        if !sum.is_finite() && !param.gradient()?.is_some_and(|grad| is_finite(&grad)) {
            return Ok(Some(param.name()));
        }
    }
    let mut all = params.iter().flat_map(|params| params.iter());
    let bad = all.find(|param| {
        let grad = param.grad();
        grad.is_some_and(|grad| !grad.par_chunks(CHUNK).all(is_finite))
    });
    Ok(bad.map(|param| param.name()))
}

/// Scales all gradients so that their total norm is at most `limit`, like
/// `torch.nn.utils.clip_grad_norm_`. Returns the norm before clipping.
///
/// # Errors
/// If the device fails.
pub(crate) fn clip_gradients(params: &[&Params], limit: f64) -> Result<f64> {
    let on_device = squares_of_tensors(params)?;
    let mut squares: f64 = on_device.iter().map(|(_, sum)| sum).sum();
    for param in params.iter().flat_map(|params| params.iter()) {
        if let Some(grad) = param.grad() {
            // Chunks are summed in order, so that the sum is the same in every
            // run.
            let parts: Vec<f64> = grad
                .par_chunks(CHUNK)
                .map(|part| part.iter().map(|g| f64::from(*g) * f64::from(*g)).sum())
                .collect();
            squares += parts.iter().sum::<f64>();
        }
    }
    let length = squares.sqrt();
    let factor = (limit / (length + 1e-6)) as f32;
    if factor < 1.0 {
        for (param, _) in on_device {
            param.scale_tensor_gradient(f64::from(factor))?;
        }
        for param in params.iter().flat_map(|params| params.iter()) {
            if let Some(mut grad) = param.grad() {
                grad.par_chunks_mut(CHUNK)
                    .for_each(|part| part.iter_mut().for_each(|g| *g *= factor));
            }
        }
    }
    Ok(length)
}
