//! Root mean square normalisation (Zhang and Sennrich 2019, arXiv:1910.07467).
//!
//! It is a layer norm without mean and shift.

use rayon::prelude::*;

use super::{ROWS_PER_TASK, simd};

/// Computes `y = x / sqrt(mean(x^2) + eps) * weight` for each row.
///
/// A row has `weight.len()` elements.
pub(crate) fn rms_norm(x: &[f32], weight: &[f32], eps: f32, y: &mut [f32]) {
    let chunk = weight.len() * ROWS_PER_TASK;
    y.par_chunks_mut(chunk)
        .zip(x.par_chunks(chunk))
        .for_each(|(y, x)| simd::rms_norm_rows(x, weight, eps, y));
}

/// Backward pass of [`rms_norm`].
///
/// Adds the gradient of `x` to `dx`, and that of the weight to `dweight` if given.
pub(crate) fn rms_norm_backward(
    x: &[f32],
    weight: &[f32],
    eps: f32,
    g: &[f32],
    dx: &mut [f32],
    dweight: Option<&mut [f32]>,
) {
    let n = weight.len();
    let chunk = n * 4 * ROWS_PER_TASK;
    let partial: Vec<Vec<f32>> = dx
        .par_chunks_mut(chunk)
        .zip(x.par_chunks(chunk))
        .zip(g.par_chunks(chunk))
        .map(|((dx, x), g)| {
            let mut dw = vec![0.0; n];
            simd::rms_norm_backward_rows(x, weight, eps, g, dx, &mut dw);
            dw
        })
        .collect();
    if let Some(dweight) = dweight {
        for dw in &partial {
            simd::add_assign(dweight, dw);
        }
    }
}
