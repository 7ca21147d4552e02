//! Convolutions in inference: weights packed once, and normalisation, residual
//! and activation applied while a tile of the result is in the cache.

use rayon::prelude::*;

use super::{
    conv::{ConvDims, End},
    gemm::{Factor, Places, Product, Rows, Threads, multiply, multiply_places},
    pool::{Buffer, Pool},
    simd, winograd,
};

/// Rows of the result that one task computes.
const ROWS_PER_TASK: usize = 96;

/// Results with shorter lines are computed from rows that are laid out: a tile
/// of a product is of pixels of one line, and low ones are slow.
const SHORTEST_LINE: usize = 6;

/// Elements that one task copies.
const COPIED_PER_TASK: usize = 1 << 16;

/// The elements `y` of a layer's result, of which the first is the element
/// `first` of the whole.
fn product<'a>(factor: &'a Factor, end: End<'a>, first: usize, y: &'a mut [f32]) -> Product<'a> {
    Product {
        scale: Some(end.scale),
        bias: Some(end.shift),
        residual: end.residual.map(|r| &r[first..first + y.len()]),
        activate: end.curve.fast(),
        ..Product::new(factor, y)
    }
}

impl ConvDims {
    /// Columns of the factor that [`ConvDims::factor`] makes.
    pub(crate) fn factor_columns(&self, int8: bool) -> usize {
        match !int8 && winograd::suits(self) {
            true => winograd::columns(self.outputs),
            false => self.outputs,
        }
    }

    /// A checkpoint's weight as a factor for [`ConvDims::infer`].
    pub(crate) fn factor(&self, weight: &[f32], int8: bool) -> Factor {
        match !int8 && winograd::suits(self) {
            true => winograd::factor(weight, self.inputs),
            false => Factor::new(&self.channels_last(weight), self.taps(), int8),
        }
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
        if let Factor::Float(points) = factor
            && winograd::suits(self)
        {
            return winograd::infer(self, pool, x, points, end, y);
        }
        let (taps, outputs) = (self.taps(), self.outputs);
        if self.is_pointwise() {
            return multiply(x, &mut [product(factor, end, 0, y)], Threads::All);
        }
        if matches!(factor, Factor::Float(_)) && self.out_width >= SHORTEST_LINE {
            let padded = self.padded(pool, x);
            let [height, width] = match padded {
                Some(_) => self.reach(),
                None => [self.height, self.width],
            };
            let line = width * self.inputs;
            let places = Places {
                pictures: padded.as_deref().unwrap_or(x),
                picture: height * line,
                lines: self.out_height,
                down: self.stride * line,
                across: self.out_width,
                layout: Rows {
                    stride: self.stride * self.inputs,
                    pieces: self.kernel,
                    length: self.kernel * self.inputs,
                    apart: line,
                },
            };
            return multiply_places(places, product(factor, end, 0, y));
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
                        let product = product(factor, end, first * outputs, y);
                        multiply(cols, &mut [product], Threads::One);
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
        multiply(&cols, &mut [product(factor, end, 0, y)], Threads::All);
    }

    /// Height and width of what the kernel reaches over, padding included.
    fn reach(&self) -> [usize; 2] {
        [self.out_height, self.out_width].map(|out| (out - 1) * self.stride + self.kernel)
    }

    /// The pictures with zeros around, where the kernel reaches beyond them.
    fn padded(&self, pool: &Pool, x: &[f32]) -> Option<Buffer> {
        let [height, width] = self.reach();
        if self.pad == 0 && height <= self.height && width <= self.width {
            return None;
        }
        let line = width * self.inputs;
        let mut padded = pool.take(self.batch * height * line);
        padded
            .par_chunks_exact_mut(line)
            .enumerate()
            .with_min_len(COPIED_PER_TASK.div_ceil(line))
            .for_each(|(i, line)| {
                let (picture, y) = (i / height, (i % height).wrapping_sub(self.pad));
                if y >= self.height {
                    return line.fill(0.0);
                }
                let (before, rest) = line.split_at_mut(self.pad * self.inputs);
                let from = &x[(picture * self.height + y) * self.width * self.inputs..];
                let (inside, after) = rest.split_at_mut(rest.len().min(self.width * self.inputs));
                before.fill(0.0);
                inside.copy_from_slice(&from[..inside.len()]);
                after.fill(0.0);
            });
        Some(padded)
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
