//! Convolutions for inference.
//!
//! Weights are packed once. Normalisation, residual and activation are applied while a
//! tile of the output is in the cache.

use rayon::prelude::*;

use super::{
    conv::{ConvDims, Epilogue},
    gemm::{Factor, Patches, Product, Rows, Threads, multiply, multiply_patches},
    pool::{Buffer, Pool},
    simd, winograd,
};

/// Output rows per task.
const ROWS_PER_TASK: usize = 96;

/// Output width below which im2col is used.
///
/// The direct method computes tiles within one line, and short tiles are slow.
const SHORTEST_LINE: usize = 6;

/// Elements that one task copies.
const COPIED_PER_TASK: usize = 1 << 16;

/// Returns the product for the outputs `y`.
///
/// They start at element `first` of the layer's output.
fn product<'a>(
    factor: &'a Factor,
    end: Epilogue<'a>,
    first: usize,
    y: &'a mut [f32],
) -> Product<'a> {
    Product {
        scale: Some(end.scale),
        bias: Some(end.shift),
        residual: end.residual.map(|r| &r[first..first + y.len()]),
        activate: end.curve.fast(),
        ..Product::new(factor, y)
    }
}

impl ConvDims {
    /// Returns the number of columns of [`ConvDims::factor`].
    pub(crate) fn factor_columns(&self, int8: bool) -> usize {
        match !int8 && winograd::suits(self) {
            true => winograd::columns(self.outputs),
            false => self.outputs,
        }
    }

    /// Packs a checkpoint's weight for [`ConvDims::infer`].
    pub(crate) fn factor(&self, weight: &[f32], int8: bool) -> Factor {
        match !int8 && winograd::suits(self) {
            true => winograd::factor(weight, self.inputs),
            false => Factor::new(&self.channels_last(weight), self.taps(), int8),
        }
    }

    /// Computes the layer for `x`.
    pub(crate) fn infer(
        &self,
        pool: &Pool,
        x: &[f32],
        factor: &Factor,
        end: Epilogue<'_>,
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
            let patches = Patches {
                images: padded.as_deref().unwrap_or(x),
                image: height * line,
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
            return multiply_patches(patches, product(factor, end, 0, y));
        }
        let tasks = self.rows().div_ceil(ROWS_PER_TASK);
        if tasks >= 2 * rayon::current_num_threads() {
            // Each task multiplies its rows while they are in the cache.
            y.par_chunks_mut(ROWS_PER_TASK * outputs)
                .enumerate()
                .for_each_init(
                    || pool.take(ROWS_PER_TASK * taps),
                    |cols, (i, y)| {
                        let first = i * ROWS_PER_TASK;
                        let rows = y.len() / outputs;
                        let cols = &mut cols[..rows * taps];
                        self.im2col(x, first..first + rows, cols);
                        let product = product(factor, end, first * outputs, y);
                        multiply(cols, &mut [product], Threads::One);
                    },
                );
            return;
        }
        // With few rows, im2col comes first and the product is split by columns.
        let mut cols = pool.take(self.rows() * taps);
        cols.par_chunks_mut(self.out_width * taps)
            .enumerate()
            .for_each(|(line, cols)| {
                let first = line * self.out_width;
                self.im2col(x, first..first + self.out_width, cols);
            });
        multiply(&cols, &mut [product(factor, end, 0, y)], Threads::All);
    }

    /// Returns height and width that the kernel covers, padding included.
    fn reach(&self) -> [usize; 2] {
        [self.out_height, self.out_width].map(|out| (out - 1) * self.stride + self.kernel)
    }

    /// Returns the zero-padded images, if the kernel exceeds the original ones.
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
                let (image, y) = (i / height, (i % height).wrapping_sub(self.pad));
                if y >= self.height {
                    return line.fill(0.0);
                }
                let (before, rest) = line.split_at_mut(self.pad * self.inputs);
                let from = &x[(image * self.height + y) * self.width * self.inputs..];
                let (inside, after) = rest.split_at_mut(rest.len().min(self.width * self.inputs));
                before.fill(0.0);
                inside.copy_from_slice(&from[..inside.len()]);
                after.fill(0.0);
            });
        Some(padded)
    }

    /// Computes a depthwise convolution; see [`ConvDims::infer`].
    ///
    /// The shape of `weight` is `[kernel * kernel, channels]`.
    pub(crate) fn infer_depthwise(
        &self,
        x: &[f32],
        weight: &[f32],
        end: Epilogue<'_>,
        y: &mut [f32],
    ) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{kernels::simd::Curve, ops::testing::noise};

    /// Computes one output by definition, in double precision.
    fn exact(dims: &ConvDims, x: &[f32], weight: &[f32], end: Epilogue<'_>, at: usize) -> f64 {
        let (row, output) = (at / dims.outputs, at % dims.outputs);
        let (line, column) = (row / dims.out_width, row % dims.out_width);
        let (image, line) = (line / dims.out_height, line % dims.out_height);
        let taps = dims.kernel * dims.kernel;
        let mut sum = 0.0;
        for tap in 0..taps {
            let from_y = (line * dims.stride + tap / dims.kernel).wrapping_sub(dims.pad);
            let from_x = (column * dims.stride + tap % dims.kernel).wrapping_sub(dims.pad);
            if from_y >= dims.height || from_x >= dims.width {
                continue;
            }
            let place = (image * dims.height + from_y) * dims.width + from_x;
            for input in 0..dims.inputs {
                let x = f64::from(x[place * dims.inputs + input]);
                sum += x * f64::from(weight[(output * dims.inputs + input) * taps + tap]);
            }
        }
        let value = sum * f64::from(end.scale[output]) + f64::from(end.shift[output]);
        let value = value + end.residual.map_or(0.0, |r| f64::from(r[at]));
        match end.curve {
            Curve::Relu => value.max(0.0),
            _ => value,
        }
    }

    /// Channels in and out, kernel, stride, padding before and after.
    type Shape = ([usize; 2], usize, usize, [usize; 2]);

    fn dims(batch: usize, [height, width]: [usize; 2], shape: Shape) -> ConvDims {
        let ([inputs, outputs], kernel, stride, [before, after]) = shape;
        let out = |side: usize| (side + before + after - kernel) / stride + 1;
        ConvDims {
            batch,
            height,
            width,
            inputs,
            outputs,
            kernel,
            stride,
            pad: before,
            out_height: out(height),
            out_width: out(width),
        }
    }

    #[test]
    fn every_method_equals_the_definition_at_any_size() {
        // Odd and even sides, several images, partial panels, and padding on all, two
        // and no sides.
        let winograd = [
            (1, [10, 10], ([32, 32], 3, 1, [1, 1]), Curve::Identity),
            (2, [11, 13], ([48, 40], 3, 1, [1, 1]), Curve::Relu),
            (3, [12, 17], ([32, 70], 3, 1, [0, 0]), Curve::Relu),
            (1, [13, 12], ([64, 33], 3, 1, [0, 1]), Curve::Identity),
            (1, [11, 10], ([32, 32], 3, 1, [2, 2]), Curve::Relu),
            (1, [56, 57], ([32, 32], 3, 1, [1, 1]), Curve::Relu),
        ];
        let others = [
            (2, [21, 18], ([3, 34], 7, 2, [3, 3]), Curve::Relu),
            (2, [16, 15], ([16, 33], 3, 2, [1, 1]), Curve::Identity),
            (1, [15, 16], ([8, 8], 3, 2, [0, 1]), Curve::Relu),
            (3, [7, 7], ([32, 40], 3, 1, [1, 1]), Curve::Relu),
            (2, [14, 13], ([16, 48], 1, 2, [0, 0]), Curve::Identity),
            (1, [9, 12], ([5, 6], 5, 1, [0, 0]), Curve::Relu),
            (1, [4, 230], ([3, 16], 3, 1, [1, 1]), Curve::Relu),
            // Lines too short for the direct method.
            (9, [4, 5], ([16, 40], 3, 1, [1, 1]), Curve::Relu),
            (1, [3, 4], ([6, 7], 3, 2, [1, 1]), Curve::Relu),
        ];
        let cases = winograd.map(|case| (case, true)).into_iter();
        let cases = cases.chain(others.map(|case| (case, false)));
        for (number, ((batch, sides, shape, curve), by_winograd)) in cases.enumerate() {
            let dims = dims(batch, sides, shape);
            assert_eq!(winograd::suits(&dims), by_winograd, "{dims:?}");
            let outputs = dims.outputs;
            let x = noise(1, batch * dims.height * dims.width * dims.inputs);
            let weight = noise(2, outputs * dims.taps());
            let (scale, shift) = (noise(3, outputs), noise(4, outputs));
            let residual = noise(5, dims.rows() * outputs);
            let end = Epilogue {
                scale: &scale,
                shift: &shift,
                residual: number.is_multiple_of(2).then_some(&residual),
                curve,
            };
            let factor = dims.factor(&weight, false);
            assert_eq!(factor.outputs(), dims.factor_columns(false));
            let mut y = vec![f32::NAN; dims.rows() * outputs];
            dims.infer(&Pool::default(), &x, &factor, end, &mut y);
            let expected: Vec<f64> = (0..y.len())
                .map(|at| exact(&dims, &x, &weight, end, at))
                .collect();
            let largest = expected.iter().fold(0.0f64, |most, y| most.max(y.abs()));
            for (at, (y, expected)) in y.iter().zip(&expected).enumerate() {
                let off = (f64::from(*y) - expected).abs() / largest;
                assert!(off < 1e-6, "{dims:?} {at}: {y} and {expected}");
            }
        }
    }

    #[test]
    fn results_do_not_depend_on_the_batch() {
        let shapes = [
            ([32, 64], 3, 1, [1, 1]),
            ([32, 64], 3, 2, [1, 1]),
            ([32, 64], 3, 4, [1, 1]),
        ];
        for shape in shapes {
            let dims = dims(5, [14, 14], shape);
            let x = noise(1, 5 * 14 * 14 * 32);
            let factor = dims.factor(&noise(2, 64 * 32 * 9), false);
            let ones = [1.0; 64];
            let end = Epilogue {
                scale: &ones,
                shift: &ones,
                residual: None,
                curve: Curve::Identity,
            };
            let run = |dims: ConvDims, x: &[f32]| {
                let mut y = vec![0.0; dims.rows() * 64];
                dims.infer(&Pool::default(), x, &factor, end, &mut y);
                y
            };
            let all = run(dims, &x);
            let one = dims.out_height * dims.out_width * 64;
            for (x, y) in x.chunks_exact(14 * 14 * 32).zip(all.chunks_exact(one)) {
                assert_eq!(run(ConvDims { batch: 1, ..dims }, x), y);
            }
        }
    }
}
