//! Convolutions on slices with channels last: `[batch, height, width, channels]`.
//!
//! The inputs under the kernel are copied to rows, one tile at a time (im2col,
//! [Chellapilla et al. 2006](https://inria.hal.science/inria-00112631)). A convolution
//! is then a few matrix products with inputs in the cache.
//!
//! Images are split into one group per thread. The groups' sums are added in a fixed
//! order, so that results don't depend on timing.

use std::ops::Range;

use rayon::prelude::*;

use super::{
    gemm::{Mat, MatMut, Precision, Threads},
    simd::{self, Curve},
};

/// Maximum number of elements of a tile.
///
/// At 1 MB, the tile stays in the cache.
const TILE: usize = 1 << 18;

/// Shapes of a convolution with a square kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ConvDims {
    pub(crate) batch: usize,
    pub(crate) height: usize,
    pub(crate) width: usize,
    pub(crate) inputs: usize,
    pub(crate) outputs: usize,
    pub(crate) kernel: usize,
    pub(crate) stride: usize,
    /// Zero padding above and left.
    ///
    /// Padding below and right follows from the output size.
    pub(crate) pad: usize,
    pub(crate) out_height: usize,
    pub(crate) out_width: usize,
}

/// Epilogue of a convolution: `curve(scale * z + shift + residual)`.
///
/// Scale and shift are per channel.
#[derive(Clone, Copy)]
pub(crate) struct Epilogue<'a> {
    pub(crate) scale: &'a [f32],
    pub(crate) shift: &'a [f32],
    pub(crate) residual: Option<&'a [f32]>,
    pub(crate) curve: Curve,
}

impl ConvDims {
    /// Returns the number of output pixels of an image.
    fn out_pixels(&self) -> usize {
        self.out_height * self.out_width
    }

    /// Returns the number of output rows, one per pixel.
    pub(crate) fn rows(&self) -> usize {
        self.batch * self.out_pixels()
    }

    /// Returns the output shape `[batch, height, width, channels]`.
    pub(crate) fn out_shape(&self) -> Vec<usize> {
        vec![self.batch, self.out_height, self.out_width, self.outputs]
    }

    /// Returns the number of elements under the kernel.
    pub(super) fn taps(&self) -> usize {
        self.kernel * self.kernel * self.inputs
    }

    fn in_image(&self) -> usize {
        self.height * self.width * self.inputs
    }

    /// Returns whether the rows under the kernel equal the input.
    pub(super) fn is_pointwise(&self) -> bool {
        self.kernel == 1 && self.stride == 1 && self.pad == 0
    }

    /// Returns the number of images in a group.
    fn group(&self) -> usize {
        self.batch.div_ceil(rayon::current_num_threads()).max(1)
    }

    fn threads(&self) -> Threads {
        if self.group() >= self.batch {
            Threads::All
        } else {
            Threads::One
        }
    }

    /// Calls `each` with the im2col rows of each tile of a group's images `x`.
    fn tiles(&self, x: &[f32], mut each: impl FnMut(Range<usize>, &[f32])) {
        let rows = x.len() / self.in_image() * self.out_pixels();
        if self.is_pointwise() {
            each(0..rows, x);
            return;
        }
        let tile = (TILE / self.taps()).clamp(1, rows);
        let mut cols = vec![0.0; tile * self.taps()];
        for start in (0..rows).step_by(tile) {
            let range = start..(start + tile).min(rows);
            let cols = &mut cols[..range.len() * self.taps()];
            self.im2col(x, range.clone(), cols);
            each(range, cols);
        }
    }

    /// Returns the image of an output row, and its first tap's position in it.
    fn place(&self, row: usize) -> (usize, isize, isize) {
        let (image, pixel) = (row / self.out_pixels(), row % self.out_pixels());
        let at = |i: usize| (i * self.stride) as isize - self.pad as isize;
        (
            image,
            at(pixel / self.out_width),
            at(pixel % self.out_width),
        )
    }

    /// Returns the taps of each kernel line that are inside the image.
    ///
    /// Each comes with the offset of its first element. The kernel is at `(top, left)`.
    fn lines(&self, top: isize, left: isize) -> impl Iterator<Item = (Range<usize>, usize)> + '_ {
        let first = (-left).max(0) as usize;
        let last = (self.width as isize - left).clamp(0, self.kernel as isize) as usize;
        (0..self.kernel).map(move |line| {
            let y = top + line as isize;
            if y < 0 || y >= self.height as isize || first >= last {
                return (0..0, 0);
            }
            let x = (left + first as isize) as usize;
            (first..last, (y as usize * self.width + x) * self.inputs)
        })
    }

    pub(super) fn im2col(&self, x: &[f32], rows: Range<usize>, cols: &mut [f32]) {
        let line_len = self.kernel * self.inputs;
        for (row, cols) in rows.zip(cols.chunks_exact_mut(self.taps())) {
            let (image, top, left) = self.place(row);
            let image = &x[image * self.in_image()..][..self.in_image()];
            for ((taps, from), out) in self.lines(top, left).zip(cols.chunks_exact_mut(line_len)) {
                let (start, end) = (taps.start * self.inputs, taps.end * self.inputs);
                out[..start].fill(0.0);
                out[start..end].copy_from_slice(&image[from..from + end - start]);
                out[end..].fill(0.0);
            }
        }
    }

    /// Inverse of [`ConvDims::im2col`]: adds rows to the images `dx`.
    fn col2im(&self, cols: &[f32], rows: Range<usize>, dx: &mut [f32]) {
        let line_len = self.kernel * self.inputs;
        for (row, cols) in rows.zip(cols.chunks_exact(self.taps())) {
            let (image, top, left) = self.place(row);
            let image = &mut dx[image * self.in_image()..][..self.in_image()];
            for ((taps, to), line) in self.lines(top, left).zip(cols.chunks_exact(line_len)) {
                let (start, end) = (taps.start * self.inputs, taps.end * self.inputs);
                simd::add_assign(&mut image[to..to + end - start], &line[start..end]);
            }
        }
    }

    /// Converts a checkpoint's weight to channels last.
    ///
    /// From `[outputs, inputs, kernel, kernel]` to `[outputs, kernel, kernel, inputs]`.
    pub(crate) fn channels_last(&self, weight: &[f32]) -> Vec<f32> {
        let taps = self.kernel * self.kernel;
        if taps == 1 {
            return weight.to_vec();
        }
        let mut out = vec![0.0; weight.len()];
        out.par_chunks_exact_mut(self.taps())
            .zip(weight.par_chunks_exact(self.taps()))
            .for_each(|(out, weight)| {
                for (i, channel) in weight.chunks_exact(taps).enumerate() {
                    for (tap, w) in channel.iter().enumerate() {
                        out[tap * self.inputs + i] = *w;
                    }
                }
            });
        out
    }

    /// Computes `z = conv(x, weight)`. The weight is from [`ConvDims::channels_last`].
    pub(crate) fn forward(&self, precision: Precision, x: &[f32], weight: &[f32], z: &mut [f32]) {
        let mut transposed = vec![0.0; weight.len()];
        super::transpose(weight, self.taps(), &mut transposed);
        let (group, outputs) = (self.group(), self.outputs);
        z.par_chunks_mut(group * self.out_pixels() * outputs)
            .zip(x.par_chunks(group * self.in_image()))
            .for_each(|(z, x)| {
                self.tiles(x, |rows, cols| {
                    let n = rows.len();
                    precision.matmul(
                        MatMut::new(&mut z[rows.start * outputs..rows.end * outputs], n, outputs),
                        Mat::new(cols, n, self.taps()),
                        Mat::new(&transposed, self.taps(), outputs),
                        1.0,
                        false,
                        self.threads(),
                    );
                });
            });
    }

    /// Adds the gradient of the weight to `grad`, in the checkpoint's layout.
    pub(crate) fn backward_weight(
        &self,
        precision: Precision,
        x: &[f32],
        dz: &[f32],
        grad: &mut [f32],
    ) {
        let (group, outputs) = (self.group(), self.outputs);
        let sums: Vec<Vec<f32>> = x
            .par_chunks(group * self.in_image())
            .zip(dz.par_chunks(group * self.out_pixels() * outputs))
            .map(|(x, dz)| {
                let mut sum = vec![0.0; grad.len()];
                self.tiles(x, |rows, cols| {
                    let n = rows.len();
                    precision.matmul(
                        MatMut::new(&mut sum, outputs, self.taps()),
                        Mat::new(&dz[rows.start * outputs..rows.end * outputs], n, outputs).t(),
                        Mat::new(cols, n, self.taps()),
                        1.0,
                        rows.start > 0,
                        self.threads(),
                    );
                });
                sum
            })
            .collect();
        let taps = self.kernel * self.kernel;
        for sum in &sums {
            grad.par_chunks_exact_mut(self.taps())
                .zip(sum.par_chunks_exact(self.taps()))
                .for_each(|(grad, sum)| {
                    for (i, channel) in grad.chunks_exact_mut(taps).enumerate() {
                        for (tap, g) in channel.iter_mut().enumerate() {
                            *g += sum[tap * self.inputs + i];
                        }
                    }
                });
        }
    }

    /// Writes the gradient of the input to `dx`, or adds it if `add` is set.
    pub(crate) fn backward_input(
        &self,
        precision: Precision,
        weight: &[f32],
        dz: &[f32],
        dx: &mut [f32],
        add: bool,
    ) {
        let (group, outputs) = (self.group(), self.outputs);
        dx.par_chunks_mut(group * self.in_image())
            .zip(dz.par_chunks(group * self.out_pixels() * outputs))
            .for_each(|(dx, dz)| {
                let rows = dz.len() / outputs;
                let product = |dz: &[f32], out: &mut [f32], add: bool| {
                    let n = dz.len() / outputs;
                    precision.matmul(
                        MatMut::new(out, n, self.taps()),
                        Mat::new(dz, n, outputs),
                        Mat::new(weight, outputs, self.taps()),
                        1.0,
                        add,
                        self.threads(),
                    );
                };
                if self.is_pointwise() {
                    return product(dz, dx, add);
                }
                if !add {
                    dx.fill(0.0);
                }
                let tile = (TILE / self.taps()).clamp(1, rows);
                let mut cols = vec![0.0; tile * self.taps()];
                for start in (0..rows).step_by(tile) {
                    let range = start..(start + tile).min(rows);
                    let cols = &mut cols[..range.len() * self.taps()];
                    product(&dz[range.start * outputs..range.end * outputs], cols, false);
                    self.col2im(cols, range, dx);
                }
            });
    }

    /// Depthwise convolution: one kernel per channel.
    ///
    /// The shape of `weight` is `[kernel * kernel, channels]`.
    pub(crate) fn depthwise_forward(&self, x: &[f32], weight: &[f32], z: &mut [f32]) {
        let channels = self.inputs;
        z.par_chunks_mut(self.out_width * channels)
            .enumerate()
            .for_each(|(line, z)| {
                for (column, z) in z.chunks_exact_mut(channels).enumerate() {
                    z.fill(0.0);
                    let row = line * self.out_width + column;
                    self.taps_of(row, |tap, at| {
                        let weight = &weight[tap * channels..(tap + 1) * channels];
                        simd::multiply_add(z, &x[at..at + channels], weight);
                    });
                }
            });
    }

    /// Calls `each` with each tap inside the image, and its offset in `x`.
    pub(super) fn taps_of(&self, row: usize, mut each: impl FnMut(usize, usize)) {
        let (image, top, left) = self.place(row);
        for (line, (taps, from)) in self.lines(top, left).enumerate() {
            let start = image * self.in_image() + from;
            for (i, tap) in taps.enumerate() {
                each(line * self.kernel + tap, start + i * self.inputs);
            }
        }
    }

    /// Like [`ConvDims::backward_input`], for a depthwise convolution.
    pub(crate) fn depthwise_backward_input(
        &self,
        weight: &[f32],
        dz: &[f32],
        dx: &mut [f32],
        add: bool,
    ) {
        let channels = self.inputs;
        let one = Self { batch: 1, ..*self };
        dx.par_chunks_mut(self.in_image())
            .zip(dz.par_chunks(self.out_pixels() * channels))
            .for_each(|(dx, dz)| {
                if !add {
                    dx.fill(0.0);
                }
                for (row, dz) in dz.chunks_exact(channels).enumerate() {
                    one.taps_of(row, |tap, at| {
                        let weight = &weight[tap * channels..(tap + 1) * channels];
                        simd::multiply_add(&mut dx[at..at + channels], dz, weight);
                    });
                }
            });
    }

    /// Returns the weight gradient of a depthwise convolution.
    ///
    /// Its shape is `[kernel * kernel, channels]`.
    pub(crate) fn depthwise_backward_weight(&self, x: &[f32], dz: &[f32]) -> Vec<f32> {
        let (channels, group) = (self.inputs, self.group());
        let one = Self { batch: 1, ..*self };
        let sums: Vec<Vec<f32>> = x
            .par_chunks(group * self.in_image())
            .zip(dz.par_chunks(group * self.out_pixels() * channels))
            .map(|(x, dz)| {
                let mut sum = vec![0.0; self.kernel * self.kernel * channels];
                for (row, dz) in dz.chunks_exact(channels).enumerate() {
                    one.taps_of(row, |tap, at| {
                        let sum = &mut sum[tap * channels..(tap + 1) * channels];
                        simd::multiply_add(sum, dz, &x[at..at + channels]);
                    });
                }
                sum
            })
            .collect();
        let mut all = vec![0.0; self.kernel * self.kernel * channels];
        for sum in &sums {
            simd::add_assign(&mut all, sum);
        }
        all
    }
}
