//! Products with packed factors, such as a model's weights in inference.
//!
//! The right factor is packed into panels of [`COLS`] columns. The output is computed
//! in tiles of a few rows by one panel. Bias, residual and activation are applied to a
//! tile while it is in the L1 cache.
//!
//! An output is a sum along the inner dimension in a fixed order. It depends neither on
//! other rows nor on the number of threads.

use std::ops::Range;

use rayon::prelude::*;

use super::{
    int8::{Int8, Kernel, QuantizedRows},
    matrix::Threads,
    packed::{Packed, Prefetch, Rows},
    part::Part,
    tile::{COLS, MAX_ROWS, ROWS, Tile},
};
use crate::kernels::{
    simd::{self, Activate},
    split_evenly,
};

/// Output rows per task: a multiple of [`ROWS`] and [`MAX_ROWS`].
const BLOCK: usize = 96;

/// Threshold for using several threads.
///
/// Below this number of weights and 16 times as many multiplications, waking another
/// thread takes longer than the product.
const MIN_PARALLEL: usize = 1 << 16;

/// A packed right factor `[inputs, outputs]`.
pub(crate) enum Factor {
    /// In 32 bits.
    Float(Packed),
    /// In 8 bits. The left factor is quantised to 8 bits too.
    Int8(Int8),
}

impl Factor {
    /// Packs a weight `[outputs, inputs]`.
    pub(crate) fn new(weight: &[f32], inputs: usize, int8: bool) -> Self {
        if int8 {
            Self::Int8(Int8::new(weight, inputs))
        } else {
            Self::Float(Packed::of_rows(weight, inputs))
        }
    }

    /// Returns the length of the inner dimension.
    pub(crate) fn inputs(&self) -> usize {
        match self {
            Self::Float(factor) => factor.inputs(),
            Self::Int8(factor) => factor.inputs(),
        }
    }

    /// Returns the number of output columns.
    pub(crate) fn outputs(&self) -> usize {
        match self {
            Self::Float(factor) => factor.outputs(),
            Self::Int8(factor) => factor.outputs(),
        }
    }
}

/// The product `activate(scale * (x @ factor) + bias + residual)`.
///
/// All but the factors are optional.
pub(crate) struct Product<'a> {
    pub(crate) factor: &'a Factor,
    /// One value per column.
    pub(crate) scale: Option<&'a [f32]>,
    /// One value per column.
    pub(crate) bias: Option<&'a [f32]>,
    /// Same shape as the output.
    pub(crate) residual: Option<&'a [f32]>,
    pub(crate) activate: Option<Activate>,
    pub(crate) out: &'a mut [f32],
}

impl<'a> Product<'a> {
    /// Creates the plain product `x @ factor`.
    pub(crate) fn new(factor: &'a Factor, out: &'a mut [f32]) -> Self {
        Self {
            factor,
            scale: None,
            bias: None,
            residual: None,
            activate: None,
            out,
        }
    }
}

/// Rows of a left factor that are views into images.
///
/// They are the patches under a convolution's kernel.
#[derive(Clone, Copy)]
pub(crate) struct Patches<'a> {
    pub(crate) images: &'a [f32],
    /// Elements of an image.
    pub(crate) image: usize,
    /// Lines of patches in an image.
    pub(crate) lines: usize,
    /// Elements between the first patches of neighbouring lines.
    pub(crate) down: usize,
    /// Patches in a line.
    pub(crate) across: usize,
    /// Layout of the patches of a line.
    pub(crate) layout: Rows,
}

impl<'a> Patches<'a> {
    /// Returns the elements from a row on.
    fn elements_from(&self, row: usize) -> &'a [f32] {
        let (line, column) = (row / self.across, row % self.across);
        let (image, line) = (line / self.lines, line % self.lines);
        let start = image * self.image + line * self.down + column * self.layout.stride;
        &self.images[start..]
    }
}

/// Computes several products of the same rows `x`.
///
/// # Panics
/// If the shapes do not match.
pub(crate) fn multiply(x: &[f32], products: &mut [Product<'_>], threads: Threads) {
    let Some(first) = products.first() else {
        return;
    };
    let inputs = first.factor.inputs();
    let rows = x.len() / inputs;
    assert!(rows * inputs == x.len(), "rows of another length");
    let int8 = products.iter().any(|p| matches!(p.factor, Factor::Int8(_)));
    let threads = threads_for(rows, products, threads);
    let rounded = int8.then(|| QuantizedRows::new(x, inputs, threads > 1));
    let left = Left {
        patches: Patches {
            images: x,
            image: x.len(),
            lines: 1,
            down: 0,
            across: rows,
            layout: Rows::whole(inputs, inputs),
        },
        rounded: rounded.as_ref(),
    };
    let blocks = (0..rows).step_by(BLOCK);
    let blocks = blocks.map(|row| row..(row + BLOCK).min(rows));
    distribute(left, blocks.collect(), products, threads);
}

/// Computes a product in 32 bits with patches of images as rows.
///
/// # Panics
/// If the shapes do not match.
pub(crate) fn multiply_patches(patches: Patches<'_>, product: Product<'_>) {
    let rows = product.out.len() / product.factor.outputs();
    let lines = rows / patches.across;
    let products = &mut [product];
    let threads = threads_for(rows, products, Threads::All);
    let blocks = match rows.div_ceil(BLOCK) {
        1 => 1,
        blocks => blocks.next_multiple_of(threads).min(lines),
    };
    let blocks = split_evenly(lines, blocks)
        .map(|lines| lines.start * patches.across..lines.end * patches.across);
    let left = Left {
        patches,
        rounded: None,
    };
    distribute(left, blocks.collect(), products, threads);
}

/// Returns the number of threads to use.
fn threads_for(rows: usize, products: &[Product<'_>], threads: Threads) -> usize {
    let weights: usize = products
        .iter()
        .map(|p| p.factor.inputs() * p.factor.outputs())
        .sum();
    let large = weights >= MIN_PARALLEL || weights * rows >= 16 * MIN_PARALLEL;
    match threads {
        Threads::All if large => rayon::current_num_threads(),
        _ => 1,
    }
}

/// Splits products into tasks by blocks of rows, and runs the tasks.
fn distribute(
    left: Left<'_>,
    blocks: Vec<Range<usize>>,
    products: &mut [Product<'_>],
    threads: usize,
) {
    let layout = left.patches.layout;
    let rows = blocks.last().map_or(0, |block| block.end);
    for product in &*products {
        let outputs = product.factor.outputs();
        let fits = |slice: &[f32]| slice.len() == rows * outputs;
        assert!(
            product.factor.inputs() == layout.pieces * layout.length
                && fits(product.out)
                && product.residual.is_none_or(fits)
                && [product.scale, product.bias]
                    .iter()
                    .flatten()
                    .all(|columns| columns.len() == outputs),
            "shapes of a product"
        );
    }
    let panels: usize = products
        .iter()
        .map(|p| p.factor.outputs().div_ceil(COLS))
        .sum();
    // With few blocks, tasks also split the panels.
    let parts = match threads {
        1 => 1,
        _ => (4 * threads).div_ceil(blocks.len().max(1)).min(panels),
    };
    let per_part = panels.div_ceil(parts.max(1));
    let mut tasks = Vec::with_capacity(blocks.len() * (parts + products.len()));
    let mut products: Vec<_> = products
        .iter_mut()
        .map(|p| {
            let out = Part::new(&mut *p.out, p.factor.outputs());
            let end = Epilogue {
                scale: p.scale,
                bias: p.bias,
                residual: p.residual,
                activate: p.activate,
            };
            (p.factor, end, out)
        })
        .collect();
    for rows in blocks {
        for (factor, end, out) in &mut products {
            let mut line = out.take_rows(rows.len());
            let panels = factor.outputs().div_ceil(COLS);
            for first in (0..panels).step_by(per_part) {
                tasks.push(Task {
                    factor,
                    end: *end,
                    rows: rows.clone(),
                    panels: first..(first + per_part).min(panels),
                    out: line.take_columns(per_part * COLS),
                });
            }
        }
    }
    if threads == 1 || tasks.len() == 1 {
        tasks.into_iter().for_each(|task| task.run(left));
    } else {
        tasks.into_par_iter().for_each(|task| task.run(left));
    }
}

/// The rows of the left factor.
#[derive(Clone, Copy)]
struct Left<'a> {
    patches: Patches<'a>,
    rounded: Option<&'a QuantizedRows>,
}

/// Optional operations after the sums of a product.
#[derive(Clone, Copy)]
struct Epilogue<'a> {
    scale: Option<&'a [f32]>,
    bias: Option<&'a [f32]>,
    residual: Option<&'a [f32]>,
    activate: Option<Activate>,
}

/// Part of an output: a block of rows and some panels.
struct Task<'a> {
    factor: &'a Factor,
    end: Epilogue<'a>,
    rows: Range<usize>,
    panels: Range<usize>,
    out: Part<'a>,
}

impl Task<'_> {
    fn run(mut self, left: Left<'_>) {
        let kernel = match self.factor {
            Factor::Float(_) => Kernel::Vectors,
            Factor::Int8(factor) => factor.begin(),
        };
        let mut exact = [0; MAX_ROWS * COLS];
        let mut sums = [[0.0; MAX_ROWS * COLS]; 2];
        for panel in self.panels.clone() {
            match (self.factor, left.rounded) {
                (Factor::Int8(factor), Some(rounded)) => {
                    for row in self.rows.clone().step_by(kernel.rows()) {
                        let rows = row..(row + kernel.rows()).min(self.rows.end);
                        let from = (rounded, rows.clone());
                        factor.tile(&kernel, from, panel, &mut exact, &mut sums[0]);
                        self.finish(panel, rows, &mut sums);
                    }
                }
                (Factor::Float(factor), _) => {
                    let tiles = tiles(self.rows.clone(), left.patches.across);
                    let parts = tiles.len();
                    for (part, rows) in tiles.into_iter().enumerate() {
                        let next = Prefetch {
                            panel: panel + 1,
                            part,
                            parts,
                        };
                        let x = left.patches.elements_from(rows.start);
                        let layout = left.patches.layout;
                        factor.tile(x, layout, rows.len(), panel, next, &mut sums[0]);
                        self.finish(panel, rows, &mut sums);
                    }
                }
                (Factor::Int8(_), None) => {}
            }
        }
    }

    /// Applies the epilogue to the sums of some rows and writes them.
    fn finish(&mut self, panel: usize, rows: Range<usize>, tiles: &mut [Tile; 2]) {
        let outputs = self.factor.outputs();
        let first = panel * COLS;
        let width = (outputs - first).min(COLS);
        let residual = self.end.residual;
        let residual = residual.map(|r| (&r[rows.start * outputs + first..], outputs));
        let [scale, bias] = [self.end.scale, self.end.bias]
            .map(|columns| columns.map(|columns| &columns[first..first + width]));
        let [sums, curved] = tiles;
        let len = rows.len() * COLS;
        simd::finish_tile(&mut sums[..len], (COLS, width), scale, bias, residual);
        let done = match self.end.activate {
            None => sums,
            Some(activate) => {
                activate(&sums[..len], &mut curved[..len]);
                curved
            }
        };
        let column = first - self.panels.start * COLS;
        for (row, line) in rows.zip(done.as_chunks::<COLS>().0) {
            let row = row - self.rows.start;
            match width {
                // With a constant length, the copy compiles to a few moves.
                COLS => self.out.write(row, column, line),
                _ => self.out.write(row, column, &line[..width]),
            }
        }
    }
}

/// Splits rows into tiles that do not cross the ends of lines of `across` rows.
///
/// Tiles of a line have about the same height: a tile of one row takes a third of the
/// time of one with twelve.
fn tiles(rows: Range<usize>, across: usize) -> Vec<Range<usize>> {
    let mut tiles = Vec::with_capacity(rows.len().div_ceil(ROWS) + 1);
    let mut start = rows.start;
    while start < rows.end {
        let end = ((start / across + 1) * across).min(rows.end);
        let parts = split_evenly(end - start, (end - start).div_ceil(ROWS));
        tiles.extend(parts.map(|part| start + part.start..start + part.end));
        start = end;
    }
    tiles
}
