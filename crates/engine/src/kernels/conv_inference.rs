//! Convolutions in inference: weights packed once, and normalisation, residual
//! and activation applied while a tile of the result is in the cache.

use rayon::prelude::*;

use super::{
    conv::{ConvDims, TILE},
    gemm::{Factor, Product, Threads, multiply},
    pool::Pool,
    simd::{self, Curve},
};

/// What follows a convolution: `curve(scale * z + shift + residual)`, scale and
/// shift for each channel.
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
        let (pictures, outputs) = (self.group(), self.outputs);
        let out = pictures * self.out_pixels() * outputs;
        y.par_chunks_mut(out)
            .zip(x.par_chunks(pictures * self.in_picture()))
            .enumerate()
            .for_each(|(i, (y, x))| {
                let residual = end.residual.map(|r| &r[i * out..i * out + y.len()]);
                let product = |cols: &[f32], y: &mut [f32], first: usize| {
                    let residual = residual.map(|r| &r[first..first + y.len()]);
                    let product = Product {
                        scale: Some(end.scale),
                        bias: Some(end.shift),
                        residual,
                        activate: end.curve.fast(),
                        ..Product::new(factor, y)
                    };
                    multiply(cols, &mut [product], self.threads());
                };
                if self.is_pointwise() {
                    return product(x, y, 0);
                }
                let rows = y.len() / outputs;
                let tile = (TILE / self.taps()).clamp(1, rows);
                let mut cols = pool.take(tile * self.taps());
                for (i, y) in y.chunks_mut(tile * outputs).enumerate() {
                    let first = i * tile;
                    let rows = y.len() / outputs;
                    let cols = &mut cols[..rows * self.taps()];
                    // One thread lays out a line of places, if several may.
                    let some = match self.threads() {
                        Threads::All => self.out_width,
                        Threads::One => rows,
                    };
                    cols.par_chunks_mut(some * self.taps())
                        .with_min_len(rows.div_ceil(8 * some))
                        .enumerate()
                        .for_each(|(i, cols)| {
                            let start = first + i * some;
                            let end = start + cols.len() / self.taps();
                            self.lay_out(x, start..end, cols);
                        });
                    product(cols, y, first * outputs);
                }
            });
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
