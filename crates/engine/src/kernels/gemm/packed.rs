//! A 32-bit factor packed into panels, and the kernels of its tiles.
//!
//! There are kernels for AVX-512 and for AVX2 with FMA, and a portable one.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

use rayon::prelude::*;

use super::{
    matrix::{Mat, MatMut},
    tile::{COLS, MAX_ROWS, ROWS},
};

/// A cache line.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([f32; 16]);

const LINES: usize = COLS / 16;

/// Distance of the prefetch in elements.
///
/// The hardware does not prefetch across pages, and with few rows the product is
/// limited by loading the weights.
#[cfg(target_arch = "x86_64")]
const PREFETCH_DISTANCE: usize = 512;

/// Memory layout of the rows of a left factor.
#[derive(Clone, Copy)]
pub(crate) struct Rows {
    /// Elements from one row to the next.
    pub(crate) stride: usize,
    /// Number of contiguous pieces of a row.
    pub(crate) pieces: usize,
    /// Elements of a piece.
    pub(crate) length: usize,
    /// Elements from one piece to the next.
    pub(crate) apart: usize,
}

impl Rows {
    /// Returns the layout of contiguous rows.
    pub(crate) fn whole(stride: usize, length: usize) -> Self {
        Self {
            stride,
            pieces: 1,
            length,
            apart: length,
        }
    }

    /// Returns the number of elements that `rows` rows span.
    fn reach(self, rows: usize) -> usize {
        let last = (rows - 1).saturating_mul(self.stride);
        let piece = (self.pieces - 1).saturating_mul(self.apart);
        last.saturating_add(piece).saturating_add(self.length)
    }
}

/// Part of the factor to prefetch into the L2 cache while a tile is computed.
///
/// It is one of `parts` equal parts of the panel that comes next. Without the prefetch,
/// the first tile of each panel would wait for memory.
#[derive(Clone, Copy)]
pub(crate) struct Prefetch {
    /// The panel to prefetch.
    pub(crate) panel: usize,
    pub(crate) part: usize,
    pub(crate) parts: usize,
}

/// A right factor `[inputs, outputs]`. Padding columns may have any value.
#[derive(Default)]
pub(crate) struct Packed {
    panels: Vec<Line>,
    inputs: usize,
    outputs: usize,
}

impl Packed {
    /// Packs a weight `[outputs, inputs]`, the transpose of the factor.
    pub(crate) fn of_rows(weight: &[f32], inputs: usize) -> Self {
        Self::filled(inputs, weight.len() / inputs, |panel, first, width| {
            let rows = weight[first * inputs..].chunks_exact(inputs).take(width);
            for (column, row) in rows.enumerate() {
                for (lines, value) in panel.chunks_exact_mut(LINES).zip(row) {
                    lines[column / 16].0[column % 16] = *value;
                }
            }
        })
    }

    fn filled(
        inputs: usize,
        outputs: usize,
        fill: impl Fn(&mut [Line], usize, usize) + Sync,
    ) -> Self {
        let mut panels = vec![Line([0.0; 16]); outputs.div_ceil(COLS) * inputs * LINES];
        panels
            .par_chunks_exact_mut(inputs * LINES)
            .enumerate()
            .for_each(|(i, panel)| {
                let first = i * COLS;
                fill(panel, first, (outputs - first).min(COLS));
            });
        Self {
            panels,
            inputs,
            outputs,
        }
    }

    /// Packs the transpose of `rows` into the existing buffer.
    pub(crate) fn pack_rows(&mut self, rows: Mat<'_>) {
        self.reshape(rows.cols, rows.rows);
        for row in 0..rows.rows {
            let values = rows.data[row * rows.row_stride..].iter();
            let (panel, column) = (row / COLS, row % COLS);
            let panel = &mut self.panels[panel * self.inputs * LINES..];
            let lines = panel[column / 16..].iter_mut().step_by(LINES);
            for (line, value) in lines.zip(values.step_by(rows.col_stride)).take(self.inputs) {
                line.0[column % 16] = *value;
            }
        }
    }

    /// Packs a matrix with contiguous rows into the existing buffer.
    pub(crate) fn pack(&mut self, factor: Mat<'_>) {
        assert!(factor.col_stride == 1, "a row with gaps");
        self.reshape(factor.rows, factor.cols);
        let length = self.inputs * LINES;
        let count = self.outputs.div_ceil(COLS);
        for (i, panel) in self.panels.chunks_exact_mut(length).take(count).enumerate() {
            for (row, lines) in panel.chunks_exact_mut(LINES).enumerate() {
                let row = &factor.data[row * factor.row_stride..][..factor.cols];
                for (line, values) in lines.iter_mut().zip(row[i * COLS..].chunks(16)) {
                    line.0[..values.len()].copy_from_slice(values);
                }
            }
        }
    }

    fn reshape(&mut self, inputs: usize, outputs: usize) {
        let lines = outputs.div_ceil(COLS) * inputs * LINES;
        if self.panels.len() < lines {
            self.panels.resize(lines, Line([0.0; 16]));
        }
        (self.inputs, self.outputs) = (inputs, outputs);
    }

    /// Computes `out = scale * x @ self` on this thread.
    ///
    /// # Panics
    /// If the shapes do not match.
    pub(crate) fn multiply(&self, out: MatMut<'_>, x: Mat<'_>, scale: f32) {
        assert!(
            x.col_stride == 1
                && x.cols == self.inputs
                && (x.rows, self.outputs) == (out.rows, out.cols),
            "shapes of a product"
        );
        let mut sums = [0.0; MAX_ROWS * COLS];
        for panel in 0..self.outputs.div_ceil(COLS) {
            let first = panel * COLS;
            let width = (self.outputs - first).min(COLS);
            for row in (0..x.rows).step_by(ROWS) {
                let rows = (x.rows - row).min(ROWS);
                let next = Prefetch {
                    panel: panel + 1,
                    part: row / ROWS,
                    parts: x.rows.div_ceil(ROWS),
                };
                let from = &x.data[row * x.row_stride..];
                let layout = Rows::whole(x.row_stride, self.inputs);
                self.tile(from, layout, rows, panel, next, &mut sums);
                for (i, line) in sums.as_chunks::<COLS>().0.iter().take(rows).enumerate() {
                    let at = (row + i) * out.row_stride + first;
                    for (out, sum) in out.data[at..at + width].iter_mut().zip(line) {
                        *out = scale * sum;
                    }
                }
            }
        }
    }

    pub(crate) fn inputs(&self) -> usize {
        self.inputs
    }

    pub(crate) fn outputs(&self) -> usize {
        self.outputs
    }

    /// Multiplies the first `rows` rows of `x` by a panel.
    ///
    /// Writes the sums row by row.
    ///
    /// # Panics
    /// If `x` has fewer rows, or `sums` is too short.
    pub(crate) fn tile(
        &self,
        x: &[f32],
        layout: Rows,
        rows: usize,
        panel: usize,
        next: Prefetch,
        sums: &mut [f32],
    ) {
        let length = self.inputs * LINES;
        let panel = &self.panels[panel * length..(panel + 1) * length];
        // A panel with a single tile is limited by loading the panel itself, so
        // prefetching more would not help.
        let step = match next.parts {
            0 | 1 => 0,
            parts => COLS.div_ceil(parts),
        };
        let start = self.panels.as_ptr().wrapping_add(next.panel * length);
        let prefetch = PrefetchLines {
            start: start
                .cast::<f32>()
                .wrapping_add(next.part * self.inputs * step),
            step,
        };
        tile(x, layout, rows, panel, prefetch, sums);
    }
}

/// Addresses to prefetch, one for each element of the inner dimension.
///
/// They may be past the end of the factor: a prefetch does not access memory.
#[derive(Clone, Copy)]
#[cfg_attr(not(target_arch = "x86_64"), expect(dead_code))]
struct PrefetchLines {
    start: *const f32,
    /// In elements.
    step: usize,
}

fn tile(
    x: &[f32],
    layout: Rows,
    rows: usize,
    panel: &[Line],
    prefetch: PrefetchLines,
    sums: &mut [f32],
) {
    assert!(
        (1..=ROWS).contains(&rows)
            && layout.pieces > 0
            && layout.reach(rows) <= x.len()
            && panel.len() == layout.pieces * layout.length * LINES
            && rows * COLS <= sums.len(),
        "shapes of a tile"
    );
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx512f") {
        // SAFETY: the CPU has the instructions, and the sizes were checked.
        unsafe { avx512::tile(x, layout, rows, panel, prefetch, sums) };
        return;
    } else if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
        // SAFETY: as above.
        unsafe { avx2::tile(x, layout, rows, panel, prefetch, sums) };
        return;
    }
    let _ = prefetch;
    portable(x, layout, rows, panel, sums);
}

/// Portable kernel.
fn portable(x: &[f32], layout: Rows, rows: usize, panel: &[Line], sums: &mut [f32]) {
    const HEIGHT: usize = 4;
    for half in 0..LINES {
        for first in (0..rows).step_by(HEIGHT) {
            let height = (rows - first).min(HEIGHT);
            let mut block = [[0.0f32; 16]; HEIGHT];
            for (i, lines) in panel.chunks_exact(LINES).enumerate() {
                let at = i / layout.length * layout.apart + i % layout.length;
                for (row, block) in block.iter_mut().enumerate().take(height) {
                    let x = x[(first + row) * layout.stride + at];
                    for (sum, value) in block.iter_mut().zip(&lines[half].0) {
                        *sum += x * value;
                    }
                }
            }
            for (row, block) in block.iter().enumerate().take(height) {
                sums[(first + row) * COLS + half * 16..][..16].copy_from_slice(block);
            }
        }
    }
}

/// Calls the kernel that is compiled for this number of rows.
#[cfg(target_arch = "x86_64")]
macro_rules! for_height {
    ($rows:expr, $kernel:ident, $($argument:expr),*) => {
        match $rows {
            1 => $kernel::<1>($($argument),*),
            2 => $kernel::<2>($($argument),*),
            3 => $kernel::<3>($($argument),*),
            4 => $kernel::<4>($($argument),*),
            5 => $kernel::<5>($($argument),*),
            6 => $kernel::<6>($($argument),*),
            7 => $kernel::<7>($($argument),*),
            8 => $kernel::<8>($($argument),*),
            9 => $kernel::<9>($($argument),*),
            10 => $kernel::<10>($($argument),*),
            11 => $kernel::<11>($($argument),*),
            _ => $kernel::<12>($($argument),*),
        }
    };
}
#[cfg(target_arch = "x86_64")]
pub(super) use for_height;

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use super::*;

    /// # Safety
    /// The CPU must have AVX-512. The sizes must be as [`super::tile`] checks them.
    #[target_feature(enable = "avx512f")]
    pub(super) unsafe fn tile(
        x: &[f32],
        layout: Rows,
        rows: usize,
        panel: &[Line],
        prefetch: PrefetchLines,
        sums: &mut [f32],
    ) {
        let (x, panel) = (x.as_ptr(), panel.as_ptr().cast::<f32>());
        // SAFETY: guaranteed by the caller.
        unsafe { for_height!(rows, rows_of, x, layout, panel, prefetch, sums) }
    }

    /// # Safety
    /// `x` must hold `R` rows, and `panel` a line for each element of a row.
    #[target_feature(enable = "avx512f")]
    unsafe fn rows_of<const R: usize>(
        x: *const f32,
        layout: Rows,
        mut line: *const f32,
        prefetch: PrefetchLines,
        sums: &mut [f32],
    ) {
        let mut acc = [[_mm512_setzero_ps(); 2]; R];
        let mut next = prefetch.start;
        for piece in 0..layout.pieces {
            // SAFETY: the piece is inside of the first row.
            let x = unsafe { x.add(piece * layout.apart) };
            for i in 0..layout.length {
                // SAFETY: `i` is below the length of a piece; lines are aligned.
                unsafe {
                    _mm_prefetch::<_MM_HINT_T0>(line.wrapping_add(PREFETCH_DISTANCE).cast());
                    _mm_prefetch::<_MM_HINT_T0>(line.wrapping_add(PREFETCH_DISTANCE + 16).cast());
                    _mm_prefetch::<_MM_HINT_T1>(next.cast());
                    let (low, high) = (_mm512_load_ps(line), _mm512_load_ps(line.add(16)));
                    for (row, acc) in acc.iter_mut().enumerate() {
                        let x = _mm512_set1_ps(*x.add(row * layout.stride + i));
                        acc[0] = _mm512_fmadd_ps(x, low, acc[0]);
                        acc[1] = _mm512_fmadd_ps(x, high, acc[1]);
                    }
                }
                line = line.wrapping_add(COLS);
                next = next.wrapping_add(prefetch.step);
            }
        }
        let (lines, _) = sums.as_chunks_mut::<COLS>();
        for (line, acc) in lines.iter_mut().zip(acc) {
            // SAFETY: a line holds both halves.
            unsafe {
                _mm512_storeu_ps(line.as_mut_ptr(), acc[0]);
                _mm512_storeu_ps(line.as_mut_ptr().add(16), acc[1]);
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use super::*;

    /// # Safety
    /// The CPU must have AVX2 and FMA. The sizes must be as [`super::tile`] checks
    /// them.
    #[target_feature(enable = "avx2,fma")]
    pub(super) unsafe fn tile(
        x: &[f32],
        layout: Rows,
        rows: usize,
        panel: &[Line],
        prefetch: PrefetchLines,
        sums: &mut [f32],
    ) {
        for half in 0..LINES {
            for first in (0..rows).step_by(6) {
                let from = x[first * layout.stride..].as_ptr();
                let lines = panel[half..].as_ptr().cast::<f32>();
                let sums = &mut sums[first * COLS + half * 16..];
                let rows = (rows - first).min(6);
                // SAFETY: guaranteed by the caller.
                unsafe { for_height!(rows, rows_of, from, layout, lines, prefetch, sums) }
            }
        }
    }

    /// # Safety
    /// `x` must hold `R` rows, and `panel` half a line for each element of a row.
    #[target_feature(enable = "avx2,fma")]
    unsafe fn rows_of<const R: usize>(
        x: *const f32,
        layout: Rows,
        mut line: *const f32,
        prefetch: PrefetchLines,
        sums: &mut [f32],
    ) {
        let mut acc = [[_mm256_setzero_ps(); 2]; R];
        let mut next = prefetch.start;
        for piece in 0..layout.pieces {
            // SAFETY: the piece is inside of the first row.
            let x = unsafe { x.add(piece * layout.apart) };
            for i in 0..layout.length {
                // SAFETY: `i` is below the length of a piece; lines are aligned, and
                // none after the last is read.
                unsafe {
                    _mm_prefetch::<_MM_HINT_T0>(line.wrapping_add(PREFETCH_DISTANCE).cast());
                    _mm_prefetch::<_MM_HINT_T1>(next.cast());
                    let (low, high) = (_mm256_load_ps(line), _mm256_load_ps(line.add(8)));
                    for (row, acc) in acc.iter_mut().enumerate() {
                        let x = _mm256_set1_ps(*x.add(row * layout.stride + i));
                        acc[0] = _mm256_fmadd_ps(x, low, acc[0]);
                        acc[1] = _mm256_fmadd_ps(x, high, acc[1]);
                    }
                }
                line = line.wrapping_add(COLS);
                next = next.wrapping_add(prefetch.step);
            }
        }
        for (line, acc) in sums.chunks_mut(COLS).zip(acc) {
            let line = &mut line[..16];
            // SAFETY: a half line holds both quarters.
            unsafe {
                _mm256_storeu_ps(line.as_mut_ptr(), acc[0]);
                _mm256_storeu_ps(line.as_mut_ptr().add(8), acc[1]);
            }
        }
    }
}

#[cfg(test)]
mod tests;
