//! Products with factors that are packed once and used many times, as the
//! weights of a model in inference.
//!
//! The right factor lies in panels of [`COLS`] columns. The result is computed
//! in tiles of a few rows by one panel; each tile gets its bias, residual and
//! activation while it is in the first cache. A number of the result is one
//! sum over the inner dimension in its order, so that it depends neither on
//! the other rows nor on the number of threads.

use std::ops::Range;

use rayon::prelude::*;

use super::{
    Threads,
    int8::{Int8, Means, QuantizedRows},
    packed::Packed,
    tile::{COLS, TALLEST},
};
use crate::kernels::simd::{self, Activate};

/// Rows of the result that one task takes: a multiple of [`super::tile::ROWS`]
/// and [`TALLEST`].
const BLOCK: usize = 96;

/// A product stays on one thread where the weights have fewer elements than
/// this and there are fewer than 16 times as many multiplications: waking
/// another thread takes longer.
const WORTH_SHARING: usize = 1 << 16;

/// A right factor `[inputs, outputs]` in panels.
pub(crate) enum Factor {
    /// In 32 bits.
    Float(Packed),
    /// In 8 bits, for rows that are rounded to 8 bits themselves.
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

    /// Length of the inner dimension.
    pub(crate) fn inputs(&self) -> usize {
        match self {
            Self::Float(factor) => factor.inputs(),
            Self::Int8(factor) => factor.inputs(),
        }
    }

    /// Columns of the result.
    pub(crate) fn outputs(&self) -> usize {
        match self {
            Self::Float(factor) => factor.outputs(),
            Self::Int8(factor) => factor.outputs(),
        }
    }
}

/// `activate(scale * (x @ factor) + bias + residual)`, where all but the factors
/// may be left out.
pub(crate) struct Product<'a> {
    pub(crate) factor: &'a Factor,
    /// One for each column.
    pub(crate) scale: Option<&'a [f32]>,
    /// One for each column.
    pub(crate) bias: Option<&'a [f32]>,
    /// As large as the result.
    pub(crate) residual: Option<&'a [f32]>,
    pub(crate) activate: Option<Activate>,
    pub(crate) out: &'a mut [f32],
}

impl<'a> Product<'a> {
    /// `x @ factor` alone.
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

/// Computes several products of the same rows `x`.
///
/// # Panics
/// Where the shapes do not fit each other.
pub(crate) fn multiply(x: &[f32], products: &mut [Product<'_>], threads: Threads) {
    let Some(first) = products.first() else {
        return;
    };
    let inputs = first.factor.inputs();
    let rows = x.len() / inputs;
    assert!(rows * inputs == x.len(), "rows of another length");
    let mut weights = 0;
    for product in &*products {
        let outputs = product.factor.outputs();
        let fits = |slice: &[f32]| slice.len() == rows * outputs;
        assert!(
            product.factor.inputs() == inputs
                && fits(product.out)
                && product.residual.is_none_or(fits)
                && [product.scale, product.bias]
                    .iter()
                    .flatten()
                    .all(|columns| columns.len() == outputs),
            "shapes of a product"
        );
        weights += inputs * outputs;
    }
    let large = weights >= WORTH_SHARING || weights * rows >= 16 * WORTH_SHARING;
    let threads = match threads {
        Threads::All if large => rayon::current_num_threads(),
        _ => 1,
    };
    let int8 = products.iter().any(|p| matches!(p.factor, Factor::Int8(_)));
    let rounded = int8.then(|| QuantizedRows::new(x, inputs, threads > 1));
    let left = Left {
        x,
        inputs,
        rounded: rounded.as_ref(),
    };

    let blocks = rows.div_ceil(BLOCK);
    let panels: usize = products
        .iter()
        .map(|p| p.factor.outputs().div_ceil(COLS))
        .sum();
    // Panels are shared out where there are too few rows to.
    let parts = if threads == 1 {
        1
    } else {
        (4 * threads).div_ceil(blocks).min(panels)
    };
    let per_part = panels.div_ceil(parts.max(1));
    let mut tasks = Vec::with_capacity(blocks * (parts + products.len()));
    for block in 0..blocks {
        let rows = block * BLOCK..((block + 1) * BLOCK).min(rows);
        for product in &mut *products {
            let panels = product.factor.outputs().div_ceil(COLS);
            for first in (0..panels).step_by(per_part) {
                tasks.push(Task {
                    factor: product.factor,
                    scale: product.scale,
                    bias: product.bias,
                    residual: product.residual,
                    activate: product.activate,
                    rows: rows.clone(),
                    panels: first..(first + per_part).min(panels),
                    out: Shared {
                        start: product.out.as_mut_ptr(),
                        len: product.out.len(),
                    },
                });
            }
        }
    }
    if threads == 1 || tasks.len() == 1 {
        tasks.iter().for_each(|task| task.run(left));
    } else {
        tasks.par_iter().for_each(|task| task.run(left));
    }
}

/// The rows of the left factor.
#[derive(Clone, Copy)]
struct Left<'a> {
    x: &'a [f32],
    inputs: usize,
    rounded: Option<&'a QuantizedRows>,
}

/// A part of a result: some rows of some panels.
struct Task<'a> {
    factor: &'a Factor,
    scale: Option<&'a [f32]>,
    bias: Option<&'a [f32]>,
    residual: Option<&'a [f32]>,
    activate: Option<Activate>,
    rows: Range<usize>,
    panels: Range<usize>,
    out: Shared,
}

/// A result that several tasks write to.
struct Shared {
    start: *mut f32,
    len: usize,
}

// SAFETY: tasks write to disjoint elements: no two have a row and a panel in
// common.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Shared {
    /// # Safety
    /// No other task writes to this range.
    unsafe fn write(&self, at: usize, values: &[f32]) {
        assert!(at + values.len() <= self.len, "outside the result");
        // SAFETY: the range lies inside the result, which the caller of
        // `multiply` has borrowed mutably for as long as the tasks run.
        unsafe {
            std::ptr::copy_nonoverlapping(values.as_ptr(), self.start.add(at), values.len());
        }
    }
}

impl Task<'_> {
    fn run(&self, left: Left<'_>) {
        let outputs = self.factor.outputs();
        let means = match self.factor {
            Factor::Float(_) => Means::Vectors,
            Factor::Int8(factor) => factor.begin(),
        };
        let mut exact = [0; TALLEST * COLS];
        let mut sums = [0.0; TALLEST * COLS];
        let mut curved = [0.0; TALLEST * COLS];
        for panel in self.panels.clone() {
            let first = panel * COLS;
            let width = (outputs - first).min(COLS);
            for row in self.rows.clone().step_by(means.rows()) {
                let rows = row..(row + means.rows()).min(self.rows.end);
                match (self.factor, left.rounded) {
                    (Factor::Int8(factor), Some(rounded)) => {
                        let from = (rounded, rows.clone());
                        factor.tile(&means, from, panel, &mut exact, &mut sums);
                    }
                    (Factor::Float(factor), _) => {
                        let x = &left.x[row * left.inputs..];
                        factor.tile(x, left.inputs, rows.len(), panel, &mut sums);
                    }
                    (Factor::Int8(_), None) => continue,
                }
                let residual = self
                    .residual
                    .map(|r| (&r[row * outputs + first..], outputs));
                let [scale, bias] = [self.scale, self.bias]
                    .map(|columns| columns.map(|columns| &columns[first..first + width]));
                let tile = &mut sums[..rows.len() * COLS];
                simd::finish_tile(tile, (COLS, width), scale, bias, residual);
                let done = match self.activate {
                    None => &sums,
                    Some(activate) => {
                        let len = rows.len() * COLS;
                        activate(&sums[..len], &mut curved[..len]);
                        &curved
                    }
                };
                for (row, line) in rows.zip(done.as_chunks::<COLS>().0) {
                    // SAFETY: this task alone has this row of this panel.
                    unsafe { self.out.write(row * outputs + first, &line[..width]) };
                }
            }
        }
    }
}
