//! Arithmetic on plain `f32` slices, for the fused operations.
//!
//! This module knows no tensors, parameters or graphs. Only [`gemm`] may use `unsafe`.
//! All other code is safe Rust that the compiler vectorises for the CPU through
//! [`pulp`].

pub(crate) mod conv;
pub(crate) mod conv_inference;
pub(crate) mod gemm;
pub(crate) mod pool;
pub(crate) mod rms_norm;
pub(crate) mod simd;
mod winograd;

use std::ops::Range;

use rayon::prelude::*;

/// Rows per task. A constant, so that sums do not depend on the number of threads.
const ROWS_PER_TASK: usize = 32;

/// Elements per task of element-wise operations.
const ELEMENTS_PER_TASK: usize = 16 * 1024;

/// Computes `out = kernel(x)` on all threads, for an element-wise kernel.
pub(crate) fn map(x: &[f32], out: &mut [f32], kernel: fn(&[f32], &mut [f32])) {
    out.par_chunks_mut(ELEMENTS_PER_TASK)
        .zip(x.par_chunks(ELEMENTS_PER_TASK))
        .for_each(|(out, x)| kernel(x, out));
}

/// Writes `bias` to every row of `out`, added to `base` if given.
pub(crate) fn fill_rows(out: &mut [f32], bias: &[f32], base: Option<&[f32]>) {
    let chunk = bias.len() * ROWS_PER_TASK;
    match base {
        None => out.par_chunks_mut(chunk).for_each(|rows| {
            for row in rows.chunks_exact_mut(bias.len()) {
                row.copy_from_slice(bias);
            }
        }),
        Some(base) => out
            .par_chunks_mut(chunk)
            .zip(base.par_chunks(chunk))
            .for_each(|(rows, base)| {
                for (row, base) in rows
                    .chunks_exact_mut(bias.len())
                    .zip(base.chunks_exact(bias.len()))
                {
                    simd::add(base, bias, row);
                }
            }),
    }
}

/// Writes the transpose of `x`, which has `cols` columns, to `out`.
pub(crate) fn transpose(x: &[f32], cols: usize, out: &mut [f32]) {
    // Square blocks, one cache line wide, are read by rows and written by columns.
    const SIDE: usize = 16;
    let rows = x.len() / cols;
    out.par_chunks_mut(rows * SIDE)
        .enumerate()
        .for_each(|(band, out)| {
            let first = band * SIDE;
            let width = SIDE.min(cols - first);
            let mut square = [[0.0; SIDE]; SIDE];
            for top in (0..rows).step_by(SIDE) {
                let height = SIDE.min(rows - top);
                for (row, line) in square.iter_mut().enumerate().take(height) {
                    let start = (top + row) * cols + first;
                    line[..width].copy_from_slice(&x[start..start + width]);
                }
                for (col, out) in out.chunks_exact_mut(rows).enumerate() {
                    let out = &mut out[top..top + height];
                    for (out, line) in out.iter_mut().zip(&square) {
                        *out = line[col];
                    }
                }
            }
        });
}

/// Adds the column sums of `x` to `acc`.
///
/// The order of the additions depends only on the shape.
pub(crate) fn add_column_sums(x: &[f32], acc: &mut [f32]) {
    let width = acc.len();
    let partial: Vec<Vec<f32>> = x
        .par_chunks(width * 4 * ROWS_PER_TASK)
        .map(|rows| {
            let mut sum = vec![0.0; width];
            for row in rows.chunks_exact(width) {
                simd::add_assign(&mut sum, row);
            }
            sum
        })
        .collect();
    for part in &partial {
        simd::add_assign(acc, part);
    }
}

/// `y = LayerNorm(x) * weight + bias` over rows of `weight.len()` elements.
pub(crate) fn layer_norm(x: &[f32], weight: &[f32], bias: &[f32], eps: f32, y: &mut [f32]) {
    let chunk = weight.len() * ROWS_PER_TASK;
    y.par_chunks_mut(chunk)
        .zip(x.par_chunks(chunk))
        .for_each(|(y, x)| simd::layer_norm_rows(x, weight, bias, eps, y));
}

/// Backward pass of [`layer_norm`].
///
/// Adds the gradient of `x` to `dx`, and those of weight and bias to theirs if given.
pub(crate) fn layer_norm_backward(
    x: &[f32],
    weight: &[f32],
    eps: f32,
    g: &[f32],
    dx: &mut [f32],
    dweight: Option<&mut [f32]>,
    dbias: Option<&mut [f32]>,
) {
    let width = weight.len();
    let chunk = width * 4 * ROWS_PER_TASK;
    let partial: Vec<(Vec<f32>, Vec<f32>)> = dx
        .par_chunks_mut(chunk)
        .zip(x.par_chunks(chunk))
        .zip(g.par_chunks(chunk))
        .map(|((dx, x), g)| {
            let (mut dw, mut db) = (vec![0.0; width], vec![0.0; width]);
            simd::layer_norm_backward_rows(x, weight, eps, g, dx, &mut dw, &mut db);
            (dw, db)
        })
        .collect();
    if let Some(dweight) = dweight {
        for (dw, _) in &partial {
            simd::add_assign(dweight, dw);
        }
    }
    if let Some(dbias) = dbias {
        for (_, db) in &partial {
            simd::add_assign(dbias, db);
        }
    }
}

/// Target number of elements per task that works on whole rows.
const ROWS: usize = 64 * 1024;

/// Returns the elements per task: whole rows of `width`, about 64 k elements.
pub(crate) fn whole_rows(width: usize) -> usize {
    (ROWS / width).max(1) * width
}

/// Splits `0..n` into `parts` ranges whose lengths differ by at most 1.
fn split_evenly(n: usize, parts: usize) -> impl Iterator<Item = Range<usize>> {
    (0..parts).map(move |i| i * n / parts..(i + 1) * n / parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transposes_whole_and_partial_blocks() {
        for (rows, cols) in [(1, 1), (16, 16), (33, 5), (5, 33), (48, 17), (17, 48)] {
            let x: Vec<f32> = (0..rows * cols).map(|i| i as f32).collect();
            let mut out = vec![f32::NAN; x.len()];
            transpose(&x, cols, &mut out);
            for (i, value) in out.iter().enumerate() {
                assert_eq!(*value, x[i % rows * cols + i / rows], "{rows}x{cols}");
            }
        }
    }
}
