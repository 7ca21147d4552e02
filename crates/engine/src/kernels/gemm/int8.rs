//! Products of 8-bit integers with exact 32-bit sums.
//!
//! Weights are quantised symmetrically per output: `w ≈ scale * q`, with `q` in
//! -127..=127. Rows of the left factor are quantised with their own range, which
//! contains zero: `x ≈ scale * (q - zero)`, with `q` in 0..=255. It follows that
//! `x · w ≈ scale_x * scale_w * (Σ q_x q_w - zero * Σ q_w)`. The bracket is computed
//! exactly, so all kernels give the same result: AMX, AVX-512 VNNI, AVX2 and portable
//! loops.

use std::cell::Cell;

use pulp::Arch;
use rayon::prelude::*;

#[cfg(target_arch = "x86_64")]
use super::amx;
use super::{
    int8_kernels::sums_of,
    tile::{COLS, GROUP, Line, MAX_ROWS, ROWS, Sums, Tile},
};

/// A right factor `[inputs, outputs]`. Padding is zero.
pub(crate) struct Int8 {
    panels: Vec<Line>,
    /// Scale of each column, padding included.
    scales: Vec<f32>,
    /// Sum of each column.
    totals: Vec<i32>,
    inputs: usize,
    outputs: usize,
}

/// Instructions that multiply tiles.
pub(super) enum Kernel {
    #[cfg(target_arch = "x86_64")]
    Amx(amx::Tiles),
    /// Vector instructions.
    Vectors,
}

impl Kernel {
    /// Prepares this thread to multiply factors with `groups` groups.
    pub(super) fn begin(groups: usize) -> Self {
        #[cfg(target_arch = "x86_64")]
        if groups.is_multiple_of(amx::GROUPS)
            && amx::has_int8()
            && let Some(tiles) = amx::Tiles::begin()
        {
            return Self::Amx(tiles);
        }
        Self::Vectors
    }

    /// Returns the maximum number of rows of a tile.
    pub(super) fn rows(&self) -> usize {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Amx(_) => MAX_ROWS,
            Self::Vectors => ROWS,
        }
    }
}

/// Returns the groups of a row of `inputs` elements.
///
/// Except for short rows, they are padded to the tile size of AMX.
fn groups_of(inputs: usize) -> usize {
    let groups = inputs.div_ceil(GROUP);
    #[cfg(target_arch = "x86_64")]
    if groups > amx::GROUPS / 2 && amx::has_int8() {
        return groups.next_multiple_of(amx::GROUPS);
    }
    groups
}

/// Returns the rows to allocate for `rows`: AMX reads 16 at a time.
fn rows_kept(rows: usize) -> usize {
    #[cfg(target_arch = "x86_64")]
    if amx::has_int8() {
        return rows.next_multiple_of(amx::SIDE);
    }
    rows
}

impl Int8 {
    /// Quantises and packs a weight `[outputs, inputs]`.
    pub(crate) fn new(weight: &[f32], inputs: usize) -> Self {
        let outputs = weight.len() / inputs;
        let (groups, count) = (groups_of(inputs), outputs.div_ceil(COLS));
        let mut panels = vec![Line([[0; GROUP]; COLS]); count * groups];
        let (mut scales, mut totals) = (vec![0.0; count * COLS], vec![0; count * COLS]);
        panels
            .par_chunks_exact_mut(groups)
            .zip(scales.par_chunks_exact_mut(COLS))
            .zip(totals.par_chunks_exact_mut(COLS))
            .zip(weight.par_chunks(COLS * inputs))
            .for_each(|(((panel, scales), totals), rows)| {
                for (column, row) in rows.chunks_exact(inputs).enumerate() {
                    let largest = row.iter().fold(0.0f32, |m, w| m.max(w.abs()));
                    let scale = largest / 127.0;
                    let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
                    for (i, w) in row.iter().enumerate() {
                        let q = (w * inverse).round_ties_even().clamp(-127.0, 127.0) as i8;
                        panel[i / GROUP].0[column][i % GROUP] = q;
                        totals[column] += i32::from(q);
                    }
                    scales[column] = scale;
                }
            });
        Self {
            panels,
            scales,
            totals,
            inputs,
            outputs,
        }
    }

    pub(crate) fn inputs(&self) -> usize {
        self.inputs
    }

    pub(crate) fn outputs(&self) -> usize {
        self.outputs
    }

    /// Prepares this thread to multiply by this factor.
    pub(super) fn begin(&self) -> Kernel {
        Kernel::begin(groups_of(self.inputs))
    }

    /// Multiplies rows by a panel. `sums` is scratch space.
    pub(super) fn tile(
        &self,
        kernel: &Kernel,
        (left, rows): (&QuantizedRows, std::ops::Range<usize>),
        panel: usize,
        sums: &mut Sums,
        out: &mut Tile,
    ) {
        let groups = left.groups;
        let lines = &self.panels[panel * groups..(panel + 1) * groups];
        let words = &left.words[rows.start * groups..];
        match kernel {
            #[cfg(target_arch = "x86_64")]
            Kernel::Amx(tiles) => tiles.multiply(words, groups, rows.len(), lines, sums),
            Kernel::Vectors => sums_of(&words[..rows.len() * groups], groups, lines, sums),
        }
        let columns = panel * COLS..(panel + 1) * COLS;
        let (scales, totals) = (&self.scales[columns.clone()], &self.totals[columns]);
        let ranges = &left.ranges[rows];
        Arch::new().dispatch(
            #[inline(always)]
            || {
                let lines = out.as_chunks_mut::<COLS>().0.iter_mut();
                let sums = sums.as_chunks::<COLS>().0;
                for ((out, sums), range) in lines.zip(sums).zip(ranges) {
                    let (scale, zero) = (range.scale, range.zero);
                    for i in 0..COLS {
                        out[i] = (sums[i] - zero * totals[i]) as f32 * (scale * scales[i]);
                    }
                }
            },
        );
    }
}

/// Quantisation of a row.
#[derive(Clone, Copy)]
struct Range {
    scale: f32,
    zero: i32,
}

thread_local! {
    /// Buffer for the next rows, since new memory would have to be zeroed.
    static WORDS: Cell<Vec<[u8; GROUP]>> = const { Cell::new(Vec::new()) };
}

/// Rows quantised to 8 bits, each with its own range.
pub(super) struct QuantizedRows {
    /// Groups of all rows.
    words: Vec<[u8; GROUP]>,
    ranges: Vec<Range>,
    groups: usize,
}

impl QuantizedRows {
    /// Quantises rows of `inputs` elements, on all threads if `parallel`.
    pub(super) fn new(x: &[f32], inputs: usize, parallel: bool) -> Self {
        const PER_TASK: usize = 32;
        let (rows, groups) = (x.len() / inputs, groups_of(inputs));
        // Padding of a row is multiplied by zero weights, so it may have any value.
        let mut words = WORDS.take();
        words.resize(rows_kept(rows) * groups, [0; GROUP]);
        let mut ranges = vec![
            Range {
                scale: 0.0,
                zero: 0
            };
            rows
        ];
        let some = |words: &mut [[u8; GROUP]], ranges: &mut [Range], x: &[f32]| {
            let rows = words.chunks_exact_mut(groups).zip(ranges);
            for ((words, range), x) in rows.zip(x.chunks_exact(inputs)) {
                *range = round_row(x, words.as_flattened_mut());
            }
        };
        if parallel && rows > PER_TASK {
            words[..rows * groups]
                .par_chunks_mut(PER_TASK * groups)
                .zip(
                    ranges
                        .par_chunks_mut(PER_TASK)
                        .zip(x.par_chunks(PER_TASK * inputs)),
                )
                .for_each(|(words, (ranges, x))| some(words, ranges, x));
        } else {
            some(&mut words[..rows * groups], &mut ranges, x);
        }
        Self {
            words,
            ranges,
            groups,
        }
    }
}

impl Drop for QuantizedRows {
    fn drop(&mut self) {
        WORDS.set(std::mem::take(&mut self.words));
    }
}

/// Quantises a row with its own range.
///
/// If the row contains NaN or infinity, the scale is NaN and so is every product.
fn round_row(x: &[f32], out: &mut [u8]) -> Range {
    Arch::new().dispatch(
        #[inline(always)]
        || {
            const LANES: usize = 16;
            let (mut low, mut high) = ([0.0f32; LANES], [0.0f32; LANES]);
            let mut check = [0.0f32; LANES];
            let (chunks, rest) = x.as_chunks::<LANES>();
            for chunk in chunks {
                for i in 0..LANES {
                    low[i] = low[i].min(chunk[i]);
                    high[i] = high[i].max(chunk[i]);
                    check[i] += chunk[i] * 0.0;
                }
            }
            for (i, &x) in rest.iter().enumerate() {
                low[i] = low[i].min(x);
                high[i] = high[i].max(x);
                check[i] += x * 0.0;
            }
            let low = low.into_iter().fold(0.0, f32::min);
            let high = high.into_iter().fold(0.0, f32::max);
            let check: f32 = check.into_iter().sum();
            let scale = (high - low) / 255.0 + check;
            if !(scale > 0.0 && scale.is_finite()) {
                out.fill(0);
                return Range { scale, zero: 0 };
            }
            let inverse = 1.0 / scale;
            // Adding 1.5 * 2^23 rounds to the nearest integer and leaves it in the low
            // bits.
            const ROUND: f32 = 12_582_912.0;
            let zero = (-low * inverse + ROUND) - ROUND;
            for (out, &x) in out.iter_mut().zip(x) {
                let q = (x * inverse + zero).clamp(0.0, 255.0) + ROUND;
                *out = q.to_bits() as u8;
            }
            Range {
                scale,
                zero: zero as i32,
            }
        },
    )
}

#[cfg(test)]
mod tests {
    use super::super::{
        Threads,
        panels::{Factor, Product, multiply},
    };
    use crate::ops::testing::noise;

    fn product(x: &[f32], weight: &[f32], inputs: usize) -> Vec<f32> {
        let outputs = weight.len() / inputs;
        let mut out = vec![f32::NAN; x.len() / inputs * outputs];
        let factor = Factor::new(weight, inputs, true);
        multiply(x, &mut [Product::new(&factor, &mut out)], Threads::All);
        out
    }

    #[test]
    fn products_are_within_the_error_of_quantisation() {
        // Include ranges on one side of zero, and rows of very different magnitudes.
        for (rows, inputs, outputs) in [(1, 6, 3), (13, 64, 70), (100, 33, 32), (40, 256, 300)] {
            let mut x = noise(1, rows * inputs);
            for (row, x) in x.chunks_exact_mut(inputs).enumerate() {
                let size = [1.0, 100.0, 1e-4][row % 3];
                x.iter_mut()
                    .for_each(|x| *x = (*x + (row % 2) as f32) * size);
            }
            let weight = noise(2, outputs * inputs);
            let found = product(&x, &weight, inputs);
            for (at, found) in found.iter().enumerate() {
                let (row, column) = (at / outputs, at % outputs);
                let x = &x[row * inputs..][..inputs];
                let w = &weight[column * inputs..][..inputs];
                let exact: f32 = x.iter().zip(w).map(|(x, w)| x * w).sum();
                let low = x.iter().fold(0.0f32, |m, x| m.min(*x));
                let high = x.iter().fold(0.0f32, |m, x| m.max(*x));
                let largest = w.iter().fold(0.0f32, |m, w| m.max(w.abs()));
                // Half a step for each number, in the worst case all with the same
                // sign.
                let (step_x, step_w) = ((high - low) / 255.0, largest / 127.0);
                let bound: f32 = x
                    .iter()
                    .zip(w)
                    .map(|(x, w)| x.abs() * step_w + w.abs() * step_x + step_x * step_w)
                    .sum();
                assert!(
                    (found - exact).abs() <= 0.51 * bound + 1e-5 * high,
                    "{rows}x{inputs}"
                );
            }
        }
    }

    #[test]
    fn zeros_give_zeros_and_non_finite_rows_non_finite_results() {
        let weight = noise(2, 3 * 8);
        assert_eq!(product(&[0.0; 8], &weight, 8), [0.0; 3]);
        assert_eq!(product(&noise(1, 8), &[0.0; 24], 8), [0.0; 3]);
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut x = noise(1, 16);
            x[3] = bad;
            let found = product(&x, &weight, 8);
            assert!(found[..3].iter().all(|y| !y.is_finite()));
            assert!(found[3..].iter().all(|y| y.is_finite()), "the other row");
        }
    }
}
