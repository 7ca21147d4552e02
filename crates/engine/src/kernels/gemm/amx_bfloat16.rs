//! Matrix products in bfloat16 with AMX.
//!
//! Factors are rounded to bfloat16, and sums have 32 bits. Numbers below 2^-126 count
//! as zero. An instruction multiplies 16 rows by 16 columns.
//!
//! Both factors are packed into panels of 32 lines, in the order of the registers. A
//! tile of the output stays in registers while it passes along one panel of each
//! factor, as in [`super::bfloat16`].

use std::{
    arch::x86_64::*,
    cell::Cell,
    mem::{take, transmute},
    ops::Range,
};

use rayon::prelude::*;

use super::{
    amx::{SIDE, Tiles, load, store, zero},
    bfloat16::{Lines, Update},
    matrix::{Mat, MatMut, Threads, check_shapes},
};

/// Rows and columns of an output tile: four registers.
const TILE: usize = 2 * SIDE;

/// Elements along the inner dimension in a register.
const STEP: usize = 2 * SIDE;

/// Maximum number of elements along the inner dimension to pack at a time.
///
/// A tile stays in its registers for this length, and the packed rows of a task stay in
/// the L2 cache.
const DEPTH: usize = 24 * STEP;

/// Maximum height of a task in tiles.
const MAX_TILES: usize = 4;

/// Contents of a register: 16 lines of 16 words, each with a pair of numbers.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Register([[u32; SIDE]; SIDE]);

const EMPTY: Register = Register([[0; SIDE]; SIDE]);

/// Returns whether the CPU has the instructions.
pub(super) fn is_available() -> bool {
    super::amx::has_bfloat16() && is_x86_feature_detected!("avx512bw")
}

/// Like [`super::matmul`]. The order of the additions depends only on the shapes.
///
/// # Panics
/// If the shapes do not match, or if the CPU lacks the instructions.
pub(super) fn matmul(
    out: MatMut<'_>,
    a: Mat<'_>,
    b: Mat<'_>,
    scale: f32,
    accumulate: bool,
    threads: Threads,
) {
    check_shapes(&out, a, b);
    assert!(is_available(), "no instructions for bfloat16");
    let MatMut {
        data,
        rows,
        cols,
        row_stride,
    } = out;
    // With a single thread, one task does all the work.
    let (tasks, threads) = match threads {
        Threads::All => (1, rayon::current_num_threads()),
        Threads::One => (usize::MAX, 1),
    };
    // Give each task of each thread the same number of rows.
    let tiles = rows.div_ceil(TILE);
    let rounds = tiles.div_ceil(threads * MAX_TILES);
    let height = tiles.div_ceil(threads * rounds) * TILE;
    let (left, right) = (Lines::rows(a), Lines::cols(b));
    let columns = cols.div_ceil(TILE);
    let steps = a.cols.div_ceil(STEP);
    let depth = steps.div_ceil(a.cols.div_ceil(DEPTH)) * STEP;
    with_registers(&PANELS, columns * panel_length(depth), |panels| {
        for start in (0..a.cols).step_by(depth) {
            let inner = start..(start + depth).min(a.cols);
            let length = panel_length(inner.len());
            let panels = &mut panels[..columns * length];
            panels
                .par_chunks_exact_mut(length)
                .with_min_len(tasks)
                .enumerate()
                .for_each(|(i, panel)| right.pack_registers(Side::Right, i * TILE, &inner, panel));
            let panels = &*panels;
            let update = Update {
                scale,
                accumulate: accumulate || start > 0,
            };
            data.par_chunks_mut(height * row_stride)
                .with_min_len(tasks)
                .take(rows.div_ceil(height))
                .enumerate()
                .for_each(|(i, data)| {
                    let first = i * height;
                    let out = MatMut {
                        data,
                        rows: (rows - first).min(height),
                        cols,
                        row_stride,
                    };
                    block(out, (left, first), &inner, panels, update);
                });
        }
    });
}

/// Multiplies some rows of the left factor by all panels.
fn block(
    out: MatMut<'_>,
    (left, first): (Lines<'_>, usize),
    inner: &Range<usize>,
    panels: &[Register],
    update: Update,
) {
    let Some(tiles) = Tiles::begin() else {
        unreachable!("checked by the caller");
    };
    let length = panel_length(inner.len());
    let height = out.rows.div_ceil(TILE);
    let mut sums = Sums([0.0; TILE * TILE]);
    with_registers(&ROWS, height * length, |packed| {
        for (i, panel) in packed.chunks_exact_mut(length).enumerate() {
            left.pack_registers(Side::Left, first + i * TILE, inner, panel);
        }
        for (i, right) in panels.chunks_exact(length).enumerate() {
            let (col, width) = (i * TILE, (out.cols - i * TILE).min(TILE));
            for (j, left) in packed.chunks_exact(length).enumerate() {
                multiply(&tiles, left, right, &mut sums);
                let (row, height) = (j * TILE, (out.rows - j * TILE).min(TILE));
                let lines = out.data[row * out.row_stride + col..].chunks_mut(out.row_stride);
                let lines = lines.take(height).map(|line| &mut line[..width]);
                // SAFETY: `is_available` was asserted.
                unsafe { write(&sums, lines, update) };
            }
        }
    });
}

thread_local! {
    static PANELS: Cell<Vec<Register>> = const { Cell::new(Vec::new()) };
    static ROWS: Cell<Vec<Register>> = const { Cell::new(Vec::new()) };
}

/// Lends out buffers that the thread keeps between products.
///
/// Allocating new memory is slow.
fn with_registers(
    kept: &'static std::thread::LocalKey<Cell<Vec<Register>>>,
    length: usize,
    then: impl FnOnce(&mut [Register]),
) {
    let mut registers = kept.with(Cell::take);
    if registers.len() < length {
        registers.resize(length, EMPTY);
    }
    then(&mut registers[..length]);
    kept.set(take(&mut registers));
}

/// Returns the number of registers of a panel.
///
/// Each step along the inner dimension has two: one for each 16 of its 32 lines.
fn panel_length(depth: usize) -> usize {
    depth.div_ceil(STEP) * 2
}

/// Factor whose lines are packed into registers.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    /// Left factor: a line of the register is a row.
    Left,
    /// Right factor: a line of the register is a pair of elements of 16 columns.
    ///
    /// The pair is along the inner dimension.
    Right,
}

impl Lines<'_> {
    /// Packs 32 lines from `first` on. Missing lines are zero.
    fn pack_registers(
        self,
        side: Side,
        first: usize,
        inner: &Range<usize>,
        panel: &mut [Register],
    ) {
        for (half, first) in [first, first + SIDE].into_iter().enumerate() {
            let starts = inner.clone().step_by(STEP);
            for (start, registers) in starts.zip(panel.as_chunks_mut::<2>().0) {
                let inner = start..(start + STEP).min(inner.end);
                // SAFETY: `is_available` was asserted.
                registers[half] = unsafe { self.pack_step(side, first, inner) };
            }
        }
    }

    /// Returns the register of 16 lines of one step.
    #[target_feature(enable = "avx512f,avx512bw")]
    fn pack_step(self, side: Side, first: usize, inner: Range<usize>) -> Register {
        let lines = self.count.saturating_sub(first).min(SIDE);
        let mut words = [_mm512_setzero_si512(); SIDE];
        let by_line = self.inner_stride == 1;
        if by_line {
            for (i, word) in words.iter_mut().enumerate().take(lines) {
                let start = (first + i) * self.line_stride;
                let line = &self.data[start + inner.start..start + inner.end];
                let (low, high) = line.split_at(line.len().min(SIDE));
                *word = interleave(nearest(numbers(low)), nearest(numbers(high)));
            }
        } else if lines > 0 {
            for (word, place) in words.iter_mut().zip(PLACES) {
                let of = |i: usize| match i < inner.end {
                    true => {
                        let start = i * self.inner_stride + first * self.line_stride;
                        numbers(&self.data[start..start + lines])
                    }
                    false => _mm512_setzero_ps(),
                };
                let i = inner.start + place;
                *word = pairs(nearest(of(i)), nearest(of(i + 1)));
            }
        }
        if by_line != (side == Side::Left) {
            words = transpose(words);
        }
        // SAFETY: both types have 16 times 16 words.
        Register(unsafe { transmute::<[__m512i; SIDE], [[u32; SIDE]; SIDE]>(words) })
    }
}

/// Position in the step of each word's first element.
///
/// This is the order that [`interleave`] produces.
const PLACES: [usize; SIDE] = [0, 2, 16, 18, 4, 6, 20, 22, 8, 10, 24, 26, 12, 14, 28, 30];

/// Loads up to 16 numbers, followed by zeros.
#[inline]
#[target_feature(enable = "avx512f")]
fn numbers(x: &[f32]) -> __m512 {
    let mask = ((1u32 << x.len().min(SIDE)) - 1) as u16;
    // SAFETY: only elements of the slice are read.
    unsafe { _mm512_maskz_loadu_ps(mask, x.as_ptr()) }
}

/// Returns the upper half of each number's bits: a number in bfloat16.
#[inline]
#[target_feature(enable = "avx512f")]
fn upper(x: __m512i) -> __m512i {
    _mm512_and_si512(x, _mm512_set1_epi32(0xffff_0000_u32.cast_signed()))
}

/// Rounds to bfloat16, with ties to even. NaN stays NaN.
#[inline]
#[target_feature(enable = "avx512f")]
fn nearest(x: __m512) -> __m512i {
    let bits = _mm512_castps_si512(x);
    let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
    let up = _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff));
    let quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x0040_0000));
    let is_nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(x, x);
    upper(_mm512_mask_mov_epi32(
        _mm512_add_epi32(bits, up),
        is_nan,
        quiet,
    ))
}

/// Packs neighbours of one line into words, in the order of [`PLACES`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn interleave(low: __m512i, high: __m512i) -> __m512i {
    _mm512_packus_epi32(_mm512_srli_epi32::<16>(low), _mm512_srli_epi32::<16>(high))
}

/// Packs two numbers into a word, the first in the lower half.
#[inline]
#[target_feature(enable = "avx512f")]
fn pairs(first: __m512i, second: __m512i) -> __m512i {
    _mm512_or_si512(_mm512_srli_epi32::<16>(first), upper(second))
}

/// Transposes 16 lines of 16 words.
#[inline]
#[target_feature(enable = "avx512f")]
fn transpose(x: [__m512i; SIDE]) -> [__m512i; SIDE] {
    let zero = _mm512_setzero_si512();
    // Interleave words of two lines, then of four, then quarters of all 16.
    let mut two = [zero; SIDE];
    for i in (0..SIDE).step_by(2) {
        two[i] = _mm512_unpacklo_epi32(x[i], x[i + 1]);
        two[i + 1] = _mm512_unpackhi_epi32(x[i], x[i + 1]);
    }
    let mut four = [zero; SIDE];
    for i in (0..SIDE).step_by(4) {
        four[i] = _mm512_unpacklo_epi64(two[i], two[i + 2]);
        four[i + 1] = _mm512_unpackhi_epi64(two[i], two[i + 2]);
        four[i + 2] = _mm512_unpacklo_epi64(two[i + 1], two[i + 3]);
        four[i + 3] = _mm512_unpackhi_epi64(two[i + 1], two[i + 3]);
    }
    let mut out = [zero; SIDE];
    for i in 0..4 {
        let (a, b, c, d) = (four[i], four[4 + i], four[8 + i], four[12 + i]);
        let (ab, cd) = (
            _mm512_shuffle_i32x4::<0x88>(a, b),
            _mm512_shuffle_i32x4::<0x88>(c, d),
        );
        out[i] = _mm512_shuffle_i32x4::<0x88>(ab, cd);
        out[8 + i] = _mm512_shuffle_i32x4::<0xdd>(ab, cd);
        let (ab, cd) = (
            _mm512_shuffle_i32x4::<0xdd>(a, b),
            _mm512_shuffle_i32x4::<0xdd>(c, d),
        );
        out[4 + i] = _mm512_shuffle_i32x4::<0x88>(ab, cd);
        out[12 + i] = _mm512_shuffle_i32x4::<0xdd>(ab, cd);
    }
    out
}

/// Writes the sums to the lines of the output.
#[target_feature(enable = "avx512f")]
fn write<'a>(sums: &Sums, lines: impl Iterator<Item = &'a mut [f32]>, update: Update) {
    for (line, sums) in lines.zip(sums.0.as_chunks::<TILE>().0) {
        match <&mut [f32; TILE]>::try_from(&mut *line) {
            Ok(line) => write_line(line, sums, update),
            Err(_) => write_line(line, sums, update),
        }
    }
}

/// Writes one line. Compiled separately for complete lines.
#[inline]
#[target_feature(enable = "avx512f")]
fn write_line(line: &mut [f32], sums: &[f32; TILE], update: Update) {
    for (out, sum) in line.iter_mut().zip(sums) {
        let before = if update.accumulate { *out } else { 0.0 };
        *out = before + update.scale * sum;
    }
}

/// Sums of a tile, row by row.
#[repr(C, align(64))]
struct Sums([f32; TILE * TILE]);

macro_rules! products {
    ($($sum:literal += $x:literal * $w:literal),*) => {
        $(std::arch::asm!(
            concat!("tdpbf16ps ", $sum, ", ", $x, ", ", $w),
            options(nostack, nomem, preserves_flags),
        );)*
    };
}

/// Multiplies a panel of rows by a panel of columns.
fn multiply(_: &Tiles, left: &[Register], right: &[Register], sums: &mut Sums) {
    const LINE: usize = size_of::<[u32; SIDE]>();
    assert_eq!(left.len(), right.len(), "shapes of a tile");
    // SAFETY: the AMX registers are configured, each step has two registers in both
    // panels, and the sums hold 32 lines of two registers.
    unsafe {
        zero!("tmm0", "tmm1", "tmm2", "tmm3");
        for (rows, columns) in left.as_chunks::<2>().0.iter().zip(right.as_chunks::<2>().0) {
            load!("tmm4", &raw const rows[0], LINE);
            load!("tmm6", &raw const columns[0], LINE);
            load!("tmm7", &raw const columns[1], LINE);
            load!("tmm5", &raw const rows[1], LINE);
            products!(
                "tmm0" += "tmm4" * "tmm6",
                "tmm1" += "tmm4" * "tmm7",
                "tmm2" += "tmm5" * "tmm6",
                "tmm3" += "tmm5" * "tmm7"
            );
        }
        let sums = sums.0.as_mut_ptr().cast::<u8>();
        let below = sums.add(SIDE * 2 * LINE);
        store!("tmm0", sums, 2 * LINE);
        store!("tmm1", sums.add(LINE), 2 * LINE);
        store!("tmm2", below, 2 * LINE);
        store!("tmm3", below.add(LINE), 2 * LINE);
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::bfloat16::tests::{check_every_layout, check_non_finite},
        *,
    };

    #[test]
    fn equals_the_definition_in_every_layout() {
        if is_available() {
            check_every_layout(matmul, 8.0);
        }
    }

    #[test]
    fn non_finite_inputs_give_non_finite_results() {
        if is_available() {
            check_non_finite(matmul);
        }
    }
}
