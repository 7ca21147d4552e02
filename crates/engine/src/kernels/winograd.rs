//! Winograd convolutions for inference: 3x3 kernels with stride 1.
//!
//! Minimal filtering F(2x2, 3x3) ([Lavin and Gray
//! 2016](https://arxiv.org/abs/1509.09308)) takes 16 multiplications per 2x2 output
//! tile and pair of channels, instead of 36.
//!
//! Each tile is transformed to 16 points with all channels. The points are multiplied
//! with those of the weight, which is transformed once. The products are transformed
//! back while they are in the L1 cache.

use std::ops::Range;

use rayon::prelude::*;

use super::{
    conv::{ConvDims, Epilogue},
    gemm::{COLS, Factor, Packed, Part, Prefetch, ROWS, Rows},
    pool::Pool,
    simd::{PIXELS, POINTS, TILE, TileLine, winograd_input, winograd_output},
    split_evenly,
};

/// Approximate number of tiles per task.
///
/// Their points stay in the L2 cache.
const TILES_PER_TASK: usize = 48;

/// Minimum number of output pixels.
///
/// Below, loading the weight dominates: it has 16 / 9 times as many points as elements.
const FEWEST_PIXELS: usize = 100;

/// Minimum number of input and of output channels.
const FEWEST_CHANNELS: usize = 32;

/// Unused elements between the points of two tiles.
///
/// They keep tiles from competing for the same cache sets.
const GAP: usize = 16;

/// Elements of one point's sums, with a gap for the same reason.
const SUMS: usize = ROWS * COLS + GAP;

/// Returns whether this method is used for a convolution in 32 bits.
pub(super) fn suits(dims: &ConvDims) -> bool {
    (dims.kernel, dims.stride) == (3, 1)
        && dims.inputs.is_multiple_of(16)
        && dims.inputs.min(dims.outputs) >= FEWEST_CHANNELS
        && dims.out_height * dims.out_width >= FEWEST_PIXELS
}

/// Returns the columns of a weight's factor.
///
/// Each panel of outputs has one panel per point.
pub(super) fn columns(outputs: usize) -> usize {
    outputs.div_ceil(COLS) * COLS * POINTS
}

/// Transforms a checkpoint's weight `[outputs, inputs, 3, 3]` to `G g G'`, packed.
pub(super) fn factor(weight: &[f32], inputs: usize) -> Factor {
    let outputs = weight.len() / inputs / 9;
    let mut points = vec![0.0; columns(outputs) * inputs];
    points
        .par_chunks_exact_mut(COLS * POINTS * inputs)
        .zip(weight.par_chunks(COLS * inputs * 9))
        .for_each(|(points, weight)| {
            for (i, kernel) in weight.as_chunks::<9>().0.iter().enumerate() {
                let (column, input) = (i / inputs, i % inputs);
                for (point, value) in transformed(kernel).into_iter().enumerate() {
                    points[(point * COLS + column) * inputs + input] = value;
                }
            }
        });
    Factor::new(&points, inputs, false)
}

fn transformed(kernel: &[f32; 9]) -> [f32; POINTS] {
    let spread = |[a, b, c]: [f64; 3]| [a, (a + b + c) / 2.0, (a - b + c) / 2.0, c];
    let kernel = kernel.map(f64::from);
    let lines = [0, 3, 6].map(|at| spread([kernel[at], kernel[at + 1], kernel[at + 2]]));
    let mut points = [0.0; POINTS];
    for x in 0..4 {
        let column = spread([lines[0][x], lines[1][x], lines[2][x]]);
        for (y, value) in column.into_iter().enumerate() {
            points[y * 4 + x] = value as f32;
        }
    }
    points
}

/// Computes the layer for `x`. The factor is from [`factor`].
pub(super) fn infer(
    dims: &ConvDims,
    pool: &Pool,
    x: &[f32],
    factor: &Packed,
    end: Epilogue<'_>,
    y: &mut [f32],
) {
    let layer = Layer {
        dims,
        pool,
        x,
        factor,
        end,
        zeros: vec![0.0; dims.inputs],
    };
    let (across, lines) = (layer.across(), dims.batch * layer.lines());
    let panels = dims.outputs.div_ceil(COLS);
    let blocks = (lines * across).div_ceil(TILES_PER_TASK).min(lines).max(1);
    // With few tiles, tasks also split the panels. Each task then transforms its tiles
    // itself.
    let groups = match rayon::current_num_threads() {
        1 => 1,
        threads => (2 * threads).div_ceil(blocks).min(panels),
    };
    let mut tasks = Vec::with_capacity(blocks * groups);
    let mut rest = Part::new(y, dims.outputs);
    for lines in split_evenly(lines, blocks) {
        let pixels = lines.clone().map(|line| layer.pixels(line).len()).sum();
        let mut row = rest.take_rows(pixels);
        for panels in split_evenly(panels, groups) {
            tasks.push(Task {
                lines: lines.clone(),
                out: row.take_columns(panels.len() * COLS),
                panels,
            });
        }
    }
    tasks.into_par_iter().for_each(|task| layer.run(task));
}

struct Layer<'a> {
    dims: &'a ConvDims,
    pool: &'a Pool,
    x: &'a [f32],
    factor: &'a Packed,
    end: Epilogue<'a>,
    zeros: Vec<f32>,
}

/// Part of the work: lines of tiles over all images, and panels of outputs.
struct Task<'a> {
    lines: Range<usize>,
    panels: Range<usize>,
    out: Part<'a>,
}

impl Layer<'_> {
    /// Returns the number of tiles in a line.
    fn across(&self) -> usize {
        self.dims.out_width.div_ceil(TILE)
    }

    /// Returns the number of lines of tiles in an image.
    fn lines(&self) -> usize {
        self.dims.out_height.div_ceil(TILE)
    }

    /// Returns the output rows of a line's pixels.
    fn pixels(&self, line: usize) -> Range<usize> {
        let (height, width) = (self.dims.out_height, self.dims.out_width);
        let (image, line) = (line / self.lines(), line % self.lines());
        let end = (TILE * (line + 1)).min(height);
        (image * height + TILE * line) * width..(image * height + end) * width
    }

    /// Returns the output rows of each tile's pixels, relative to the first line.
    ///
    /// `None` marks a pixel outside of the image.
    fn rows(&self, lines: Range<usize>) -> Vec<[Option<usize>; PIXELS]> {
        let first = self.pixels(lines.start).start;
        let width = self.dims.out_width;
        let mut rows = Vec::with_capacity(lines.len() * self.across());
        for line in lines {
            let line = self.pixels(line);
            for left in (0..width).step_by(TILE) {
                rows.push(std::array::from_fn(|pixel| {
                    let x = left + pixel % TILE;
                    let row = line.start + pixel / TILE * width + x;
                    (x < width && row < line.end).then_some(row - first)
                }));
            }
        }
        rows
    }

    fn run(&self, mut task: Task<'_>) {
        let (across, inputs) = (self.across(), self.dims.inputs);
        let stride = POINTS * inputs + GAP;
        let layout = Rows::whole(stride, inputs);
        let rows = self.rows(task.lines.clone());
        let mut points = self.pool.take(rows.len() * stride);
        let image = self.dims.height * self.dims.width * inputs;
        let each = points.chunks_exact_mut(across * stride);
        for (line, points) in task.lines.clone().zip(each) {
            let line = TileLine {
                image: &self.x[line / self.lines() * image..][..image],
                height: self.dims.height,
                width: self.dims.width,
                pad: self.dims.pad,
                line: line % self.lines(),
                zeros: &self.zeros,
            };
            winograd_input(line, stride, points);
        }
        let mut sums = [0.0; POINTS * SUMS];
        let mut pixels = [[0.0; ROWS * PIXELS * COLS]; 2];
        for panel in task.panels.clone() {
            let groups = rows.len().div_ceil(ROWS);
            for (group, tiles) in split_evenly(rows.len(), groups).enumerate() {
                for (point, sums) in sums.chunks_exact_mut(SUMS).enumerate() {
                    let points = &points[tiles.start * stride + point * inputs..];
                    let next = Prefetch {
                        panel: (panel + 1) * POINTS + point,
                        part: group,
                        parts: groups,
                    };
                    let panel = panel * POINTS + point;
                    self.factor
                        .tile(points, layout, tiles.len(), panel, next, sums);
                }
                self.finish(&mut task, panel, &rows[tiles], &sums, &mut pixels);
            }
        }
    }

    /// Transforms tiles of a task back and writes their pixels.
    fn finish(
        &self,
        task: &mut Task<'_>,
        panel: usize,
        rows: &[[Option<usize>; PIXELS]],
        sums: &[f32],
        [pixels, curved]: &mut [[f32; ROWS * PIXELS * COLS]; 2],
    ) {
        let outputs = self.dims.outputs;
        let first = panel * COLS;
        let width = (outputs - first).min(COLS);
        let [scale, shift] = [self.end.scale, self.end.shift].map(|columns| {
            let mut padded = [0.0; COLS];
            padded[..width].copy_from_slice(&columns[first..first + width]);
            padded
        });
        winograd_output(sums, SUMS, rows.len(), [&scale, &shift], pixels);
        if let Some(residual) = self.end.residual {
            let residual = &residual[self.pixels(task.lines.start).start * outputs + first..];
            let pixels = pixels.as_chunks_mut::<COLS>().0;
            for (pixel, row) in pixels.iter_mut().zip(rows.as_flattened()) {
                if let Some(row) = row {
                    let residual = &residual[row * outputs..][..width];
                    for (pixel, residual) in pixel.iter_mut().zip(residual) {
                        *pixel += residual;
                    }
                }
            }
        }
        let pixels = match self.end.curve.fast() {
            None => pixels,
            Some(activate) => {
                let len = rows.len() * PIXELS * COLS;
                activate(&pixels[..len], &mut curved[..len]);
                curved
            }
        };
        let column = first - task.panels.start * COLS;
        let pixels = pixels.as_chunks::<COLS>().0;
        for (pixel, row) in pixels.iter().zip(rows.as_flattened()) {
            if let Some(row) = row {
                match width {
                    // With a constant length, the copy compiles to a few moves.
                    COLS => task.out.write(*row, column, pixel),
                    _ => task.out.write(*row, column, &pixel[..width]),
                }
            }
        }
    }
}
