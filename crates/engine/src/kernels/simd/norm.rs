//! Layer norm and RMS norm of rows.

use pulp::Arch;

use super::math::sum;

/// Returns mean and reciprocal standard deviation of a row.
#[inline(always)]
fn moments(x: &[f32], eps: f32) -> (f32, f32) {
    let n = x.len();
    let mean = sum(n, |i| x[i]) / n as f32;
    let variance = sum(n, |i| {
        let d = x[i] - mean;
        d * d
    }) / n as f32;
    (mean, 1.0 / (variance + eps).sqrt())
}

pub(crate) fn layer_norm_rows(x: &[f32], weight: &[f32], bias: &[f32], eps: f32, y: &mut [f32]) {
    let n = weight.len();
    Arch::new().dispatch(
        #[inline(always)]
        || {
            for (x, y) in x.chunks_exact(n).zip(y.chunks_exact_mut(n)) {
                let (mean, rstd) = moments(x, eps);
                for (((y, &x), &w), &b) in y.iter_mut().zip(x).zip(weight).zip(bias) {
                    *y = (x - mean) * rstd * w + b;
                }
            }
        },
    );
}

/// Adds the gradients to `dx`, `dweight` and `dbias`.
pub(crate) fn layer_norm_backward_rows(
    x: &[f32],
    weight: &[f32],
    eps: f32,
    g: &[f32],
    dx: &mut [f32],
    dweight: &mut [f32],
    dbias: &mut [f32],
) {
    let n = weight.len();
    let (dweight, dbias) = (&mut dweight[..n], &mut dbias[..n]);
    Arch::new().dispatch(
        #[inline(always)]
        || {
            for ((x, g), dx) in x
                .chunks_exact(n)
                .zip(g.chunks_exact(n))
                .zip(dx.chunks_exact_mut(n))
            {
                let (mean, rstd) = moments(x, eps);
                let mean_g = sum(n, |i| g[i] * weight[i]) / n as f32;
                let mean_gx = sum(n, |i| g[i] * weight[i] * ((x[i] - mean) * rstd)) / n as f32;
                for i in 0..n {
                    let normed = (x[i] - mean) * rstd;
                    dx[i] += rstd * (g[i] * weight[i] - mean_g - normed * mean_gx);
                    dweight[i] += g[i] * normed;
                    dbias[i] += g[i];
                }
            }
        },
    );
}

/// Returns the reciprocal root mean square of a row.
#[inline(always)]
fn reciprocal_root(x: &[f32], eps: f32) -> f32 {
    let square = sum(x.len(), |i| x[i] * x[i]) / x.len() as f32;
    1.0 / (square + eps).sqrt()
}

/// Computes `y = x / sqrt(mean(x^2) + eps) * weight` for each row.
pub(crate) fn rms_norm_rows(x: &[f32], weight: &[f32], eps: f32, y: &mut [f32]) {
    let n = weight.len();
    Arch::new().dispatch(
        #[inline(always)]
        || {
            for (x, y) in x.chunks_exact(n).zip(y.chunks_exact_mut(n)) {
                let scale = reciprocal_root(x, eps);
                for ((y, &x), &w) in y.iter_mut().zip(x).zip(weight) {
                    *y = x * scale * w;
                }
            }
        },
    );
}

/// Adds the gradients to `dx` and `dweight`.
pub(crate) fn rms_norm_backward_rows(
    x: &[f32],
    weight: &[f32],
    eps: f32,
    g: &[f32],
    dx: &mut [f32],
    dweight: &mut [f32],
) {
    let n = weight.len();
    let dweight = &mut dweight[..n];
    Arch::new().dispatch(
        #[inline(always)]
        || {
            let rows = x.chunks_exact(n).zip(g.chunks_exact(n));
            for ((x, g), dx) in rows.zip(dx.chunks_exact_mut(n)) {
                let scale = reciprocal_root(x, eps);
                let mean_gx = sum(n, |i| g[i] * weight[i] * x[i]) * scale / n as f32;
                for i in 0..n {
                    let normed = x[i] * scale;
                    dx[i] += scale * (g[i] * weight[i] - normed * mean_gx);
                    dweight[i] += g[i] * normed;
                }
            }
        },
    );
}
