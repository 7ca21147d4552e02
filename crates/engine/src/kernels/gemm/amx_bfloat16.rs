//! Matrix products of factors that are rounded to bfloat16, by the instructions
//! of AMX: 16 rows by 16 columns at a time, with sums of 32 bits. Numbers below
//! 2^-126 count as zero.
//!
//! Both factors are packed into panels of 32 lines, in the order in which the
//! registers take them. A tile of the result stays in its registers while it
//! runs along one panel of each, as in [`super::bfloat16`].

use std::{
    arch::x86_64::*,
    cell::Cell,
    mem::{take, transmute},
    ops::Range,
};

use rayon::prelude::*;

use super::{
    Mat, MatMut, Threads,
    amx::{SIDE, Tiles, load, store, zero},
    bfloat16::{Lines, Update},
    check_shapes,
};

/// Rows and columns of a tile of the result: four registers.
const TILE: usize = 2 * SIDE;

/// Elements along the inner dimension that a register holds.
const STEP: usize = 2 * SIDE;

/// Elements along the inner dimension that are packed at a time, at most. A
/// tile stays in its registers for as many, and what a task multiplies with all
/// panels stays in the second cache.
const DEPTH: usize = 24 * STEP;

/// Tiles that one task takes below each other, at most.
const TALLEST: usize = 4;

/// The bytes of a register: 16 lines of 16 words, each word a pair of numbers.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Register([[u32; SIDE]; SIDE]);

const EMPTY: Register = Register([[0; SIDE]; SIDE]);

/// Whether this CPU has the instructions.
pub(super) fn is_available() -> bool {
    super::amx::has_bfloat16() && is_x86_feature_detected!("avx512bw")
}

/// As [`super::matmul`]. The order of the additions depends on the shapes
/// alone.
///
/// # Panics
/// Where the shapes do not fit each other, or the CPU has no instructions for
/// it.
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
    // One thread takes all tasks where none may be handed on.
    let (tasks, threads) = match threads {
        Threads::All => (1, rayon::current_num_threads()),
        Threads::One => (usize::MAX, 1),
    };
    // As many rows for each task of each thread.
    let tiles = rows.div_ceil(TILE);
    let rounds = tiles.div_ceil(threads * TALLEST);
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

/// Multiplies some rows of the left factor with all panels.
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

/// Lends a thread's registers, which are kept between products: new memory is
/// slow.
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

/// Registers of a panel: for each step along the inner dimension two, for the
/// first 16 lines and the others.
fn panel_length(depth: usize) -> usize {
    depth.div_ceil(STEP) * 2
}

/// What lies along the lines of a register.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    /// A row of the left factor.
    Left,
    /// A pair of elements along the inner dimension, of 16 columns of the right
    /// factor.
    Right,
}

impl Lines<'_> {
    /// Packs 32 lines from `first` on, zeros for those that there are not.
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

    /// The register of 16 lines of one step.
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
                *word = neighbours(nearest(numbers(low)), nearest(numbers(high)));
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
            words = turned(words);
        }
        // SAFETY: 16 registers of 16 words are as many words.
        Register(unsafe { transmute::<[__m512i; SIDE], [[u32; SIDE]; SIDE]>(words) })
    }
}

/// The first element of each word of a register, within its step: the order in
/// which [`neighbours`] leaves a line's elements.
const PLACES: [usize; SIDE] = [0, 2, 16, 18, 4, 6, 20, 22, 8, 10, 24, 26, 12, 14, 28, 30];

/// Up to 16 numbers, and zeros behind them.
#[inline]
#[target_feature(enable = "avx512f")]
fn numbers(x: &[f32]) -> __m512 {
    let mask = ((1u32 << x.len().min(SIDE)) - 1) as u16;
    // SAFETY: only elements of the slice are read.
    unsafe { _mm512_maskz_loadu_ps(mask, x.as_ptr()) }
}

/// The bits of the upper half of each number, which is a number in bfloat16.
#[inline]
#[target_feature(enable = "avx512f")]
fn upper(x: __m512i) -> __m512i {
    _mm512_and_si512(x, _mm512_set1_epi32(0xffff_0000_u32.cast_signed()))
}

/// The nearest number in bfloat16, the even one where two are as near. NaN
/// stays NaN.
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

/// Words of neighbours in one line, in the order of [`PLACES`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn neighbours(low: __m512i, high: __m512i) -> __m512i {
    _mm512_packus_epi32(_mm512_srli_epi32::<16>(low), _mm512_srli_epi32::<16>(high))
}

/// Words of two numbers of the same line, the first in the lower half.
#[inline]
#[target_feature(enable = "avx512f")]
fn pairs(first: __m512i, second: __m512i) -> __m512i {
    _mm512_or_si512(_mm512_srli_epi32::<16>(first), upper(second))
}

/// The transpose of 16 lines of 16 words.
#[inline]
#[target_feature(enable = "avx512f")]
fn turned(x: [__m512i; SIDE]) -> [__m512i; SIDE] {
    let zero = _mm512_setzero_si512();
    // Words of two lines in turn, then of four, then quarters of 16.
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

/// Writes sums to the lines of the result.
#[target_feature(enable = "avx512f")]
fn write<'a>(sums: &Sums, lines: impl Iterator<Item = &'a mut [f32]>, update: Update) {
    for (line, sums) in lines.zip(sums.0.as_chunks::<TILE>().0) {
        match <&mut [f32; TILE]>::try_from(&mut *line) {
            Ok(line) => write_line(line, sums, update),
            Err(_) => write_line(line, sums, update),
        }
    }
}

/// Compiled for whole lines and for any others.
#[inline]
#[target_feature(enable = "avx512f")]
fn write_line(line: &mut [f32], sums: &[f32; TILE], update: Update) {
    for (out, sum) in line.iter_mut().zip(sums) {
        let before = if update.accumulate { *out } else { 0.0 };
        *out = before + update.scale * sum;
    }
}

/// The sums of a tile, row by row.
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

/// Multiplies a panel of rows with one of columns.
fn multiply(_: &Tiles, left: &[Register], right: &[Register], sums: &mut Sums) {
    const LINE: usize = size_of::<[u32; SIDE]>();
    assert_eq!(left.len(), right.len(), "shapes of a tile");
    // SAFETY: the registers of AMX are set up, every step has two registers of
    // both panels, and the sums hold 32 lines of two registers.
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
        super::bfloat16::tests::{check_every_layout, check_that_nothing_is_hidden},
        *,
    };

    #[test]
    fn equals_the_definition_in_every_layout() {
        if is_available() {
            check_every_layout(matmul, 8.0);
        }
    }

    #[test]
    fn what_is_no_number_is_not_hidden() {
        if is_available() {
            check_that_nothing_is_hidden(matmul);
        }
    }
}
