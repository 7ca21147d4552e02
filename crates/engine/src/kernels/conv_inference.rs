//! Convolutions in inference: weights packed once, and normalisation, residual
//! and activation applied while a tile of the result is in the cache.

use rayon::prelude::*;

use super::{
    conv::ConvDims,
    gemm::{Factor, Product, Threads, multiply},
    pool::Pool,
    simd::{self, Curve},
};

/// Rows of the result that one task computes.
const ROWS_PER_TASK: usize = 96;

/// The step after a convolution: `curve(scale * z + shift + residual)`, with
/// scale and shift for each channel.
#[derive(Clone, Copy)]
pub(crate) struct End<'a> {
    pub(crate) scale: &'a [f32],
    pub(crate) shift: &'a [f32],
    pub(crate) residual: Option<&'a [f32]>,
    pub(crate) curve: Curve,
}

impl ConvDims {
    /// A checkpoint's weight as a factor for [`ConvDims::infer`].
    pub(crate) fn factor(&self, weight: &[f32], int8: bool) -> Factor {
        Factor::new(&self.channels_last(weight), self.taps(), int8)
    }

    /// The layer's result for `x`.
    pub(crate) fn infer(
        &self,
        pool: &Pool,
        x: &[f32],
        factor: &Factor,
        end: End<'_>,
        y: &mut [f32],
    ) {
        let (taps, outputs) = (self.taps(), self.outputs);
        // `first` is the first element of the result that is computed.
        let product = |cols: &[f32], y: &mut [f32], first: usize, threads: Threads| {
            let residual = end.residual.map(|r| &r[first..first + y.len()]);
            let product = Product {
                scale: Some(end.scale),
                bias: Some(end.shift),
                residual,
                activate: end.curve.fast(),
                ..Product::new(factor, y)
            };
            multiply(cols, &mut [product], threads);
        };
        if self.is_pointwise() {
            return product(x, y, 0, Threads::All);
        }
        let tasks = self.rows().div_ceil(ROWS_PER_TASK);
        if tasks >= 2 * rayon::current_num_threads() {
            // The rows of a task are multiplied while they are in the cache.
            y.par_chunks_mut(ROWS_PER_TASK * outputs)
                .enumerate()
                .for_each_init(
                    || pool.take(ROWS_PER_TASK * taps),
                    |cols, (i, y)| {
                        let first = i * ROWS_PER_TASK;
                        let rows = y.len() / outputs;
                        let cols = &mut cols[..rows * taps];
                        self.lay_out(x, first..first + rows, cols);
                        product(cols, y, first * outputs, Threads::One);
                    },
                );
            return;
        }
        // Few rows are laid out first, and shared out by columns.
        let mut cols = pool.take(self.rows() * taps);
        cols.par_chunks_mut(self.out_width * taps)
            .enumerate()
            .for_each(|(line, cols)| {
                let first = line * self.out_width;
                self.lay_out(x, first..first + self.out_width, cols);
            });
        product(&cols, y, 0, Threads::All);
    }

    /// As [`ConvDims::infer`] for a depthwise convolution, `weight` as
    /// `[kernel * kernel, channels]`.
    pub(crate) fn infer_depthwise(&self, x: &[f32], weight: &[f32], end: End<'_>, y: &mut [f32]) {
        let channels = self.inputs;
        let line = self.out_width * channels;
        y.par_chunks_mut(line).enumerate().for_each_init(
            || (vec![0.0; line], Vec::new()),
            |(z, taps), (i, y)| {
                for (column, z) in z.chunks_exact_mut(channels).enumerate() {
                    taps.clear();
                    self.taps_of(i * self.out_width + column, |tap, at| {
                        taps.push((tap * channels, at));
                    });
                    simd::weighted_sum(x, weight, taps, z);
                }
                let residual = end.residual.map(|r| (&r[i * line..], channels));
                let columns = (channels, channels);
                simd::finish_tile(z, columns, Some(end.scale), Some(end.shift), residual);
                match end.curve.fast() {
                    Some(activate) => activate(z, y),
                    None => y.copy_from_slice(z),
                }
            },
        );
    }
}
