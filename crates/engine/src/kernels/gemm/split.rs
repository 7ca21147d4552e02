//! Matrix products by the bfloat16 instructions of AMX: 16 rows by 16 columns
//! at a time, with sums of 32 bits.
//!
//! A number of 32 bits is the exact sum of three numbers in bfloat16: its upper
//! eight bits, the next eight and the rest. Six of the nine products of two
//! such sums are computed; the other three are below the last bit of the
//! largest. So a product in 32 bits takes six instructions in place of the 16
//! that vector units need for the same multiplications (the idea is that of
//! [Henry, Tang and Heinecke 2019](https://arxiv.org/abs/1904.06376)). With
//! one part for each number it is a product of factors rounded to bfloat16.
//!
//! An infinite factor gives NaN where vector units would give infinity, and
//! numbers below 2^-126 count as zero.

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

/// How many parts a number is split into.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Parts {
    /// It is rounded to bfloat16.
    One,
    /// Together they are the number itself.
    Three,
}

impl Parts {
    fn count(self) -> usize {
        match self {
            Self::One => 1,
            Self::Three => 3,
        }
    }
}

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
    parts: Parts,
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
    with_registers(&PANELS, columns * panel_length(parts, depth), |panels| {
        for start in (0..a.cols).step_by(depth) {
            let inner = start..(start + depth).min(a.cols);
            let length = panel_length(parts, inner.len());
            let panels = &mut panels[..columns * length];
            panels
                .par_chunks_exact_mut(length)
                .with_min_len(tasks)
                .enumerate()
                .for_each(|(i, panel)| right.pack(parts, i * TILE, &inner, panel));
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
                    block(parts, out, (left, first), &inner, panels, update);
                });
        }
    });
}

/// Multiplies some rows of the left factor with all panels.
fn block(
    parts: Parts,
    out: MatMut<'_>,
    (left, first): (Lines<'_>, usize),
    inner: &Range<usize>,
    panels: &[Register],
    update: Update,
) {
    let Some(tiles) = Tiles::begin() else {
        unreachable!("checked by the caller");
    };
    let length = panel_length(parts, inner.len());
    let height = out.rows.div_ceil(TILE);
    let mut sums = Sums([0.0; TILE * TILE]);
    with_registers(&ROWS, height * length, |packed| {
        for (i, panel) in packed.chunks_exact_mut(length).enumerate() {
            left.pack(parts, first + i * TILE, inner, panel);
        }
        for (i, right) in panels.chunks_exact(length).enumerate() {
            let (col, width) = (i * TILE, (out.cols - i * TILE).min(TILE));
            for (j, left) in packed.chunks_exact(length).enumerate() {
                multiply(&tiles, parts, left, right, &mut sums);
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

/// Registers of a panel: for each step along the inner dimension and each part
/// two, for the first 16 lines and the others.
fn panel_length(parts: Parts, depth: usize) -> usize {
    depth.div_ceil(STEP) * parts.count() * 2
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

/// A factor as lines, rows of the left and columns of the right one, of
/// elements along the inner dimension.
#[derive(Clone, Copy)]
struct Lines<'a> {
    data: &'a [f32],
    count: usize,
    line_stride: usize,
    inner_stride: usize,
    side: Side,
}

impl<'a> Lines<'a> {
    fn rows(a: Mat<'a>) -> Self {
        Self {
            data: a.data,
            count: a.rows,
            line_stride: a.row_stride,
            inner_stride: a.col_stride,
            side: Side::Left,
        }
    }

    fn cols(b: Mat<'a>) -> Self {
        Self {
            side: Side::Right,
            ..Self::rows(b.t())
        }
    }

    /// Packs 32 lines from `first` on, zeros for those that there are not.
    fn pack(self, parts: Parts, first: usize, inner: &Range<usize>, panel: &mut [Register]) {
        for (half, first) in [first, first + SIDE].into_iter().enumerate() {
            let starts = inner.clone().step_by(STEP);
            for (start, registers) in starts.zip(panel.chunks_exact_mut(2 * parts.count())) {
                let inner = start..(start + STEP).min(inner.end);
                let out = &mut registers[half..];
                // SAFETY: `is_available` was asserted.
                unsafe {
                    match parts {
                        Parts::One => self.pack_step::<1>(first, inner, out),
                        Parts::Three => self.pack_step::<3>(first, inner, out),
                    }
                }
            }
        }
    }

    /// Packs 16 lines of one step into every second register.
    #[target_feature(enable = "avx512f,avx512bw")]
    fn pack_step<const PARTS: usize>(
        self,
        first: usize,
        inner: Range<usize>,
        out: &mut [Register],
    ) {
        let lines = self.count.saturating_sub(first).min(SIDE);
        let mut words = [[_mm512_setzero_si512(); SIDE]; PARTS];
        let by_line = self.inner_stride == 1;
        if by_line {
            for i in 0..lines {
                let start = (first + i) * self.line_stride;
                let line = &self.data[start + inner.start..start + inner.end];
                let (low, high) = line.split_at(line.len().min(SIDE));
                let low = split::<PARTS>(numbers(low));
                let high = split::<PARTS>(numbers(high));
                for part in 0..PARTS {
                    words[part][i] = neighbours(low[part], high[part]);
                }
            }
        } else if lines > 0 {
            for (i, place) in PLACES.into_iter().enumerate() {
                let of = inner.start + place;
                let start = of * self.inner_stride + first * self.line_stride;
                if of + 1 < inner.end {
                    let next = start + self.inner_stride;
                    let one = split::<PARTS>(numbers(&self.data[start..start + lines]));
                    let other = split::<PARTS>(numbers(&self.data[next..next + lines]));
                    for part in 0..PARTS {
                        words[part][i] = pairs(one[part], other[part]);
                    }
                } else if of < inner.end {
                    let one = split::<PARTS>(numbers(&self.data[start..start + lines]));
                    for part in 0..PARTS {
                        words[part][i] = pairs(one[part], _mm512_setzero_si512());
                    }
                }
            }
        }
        let as_it_lies = by_line == (self.side == Side::Left);
        for (words, out) in words.into_iter().zip(out.iter_mut().step_by(2)) {
            let words = if as_it_lies { words } else { turned(words) };
            // SAFETY: 16 registers of 16 words are as many words.
            out.0 = unsafe { transmute::<[__m512i; SIDE], [[u32; SIDE]; SIDE]>(words) };
        }
    }
}

/// The first element of each word of a register, within its step: the order in
/// which [`neighbours`] leaves a line's elements.
const PLACES: [usize; SIDE] = [0, 2, 16, 18, 4, 6, 20, 22, 8, 10, 24, 26, 12, 14, 28, 30];

/// The parts of each number, one or three.
#[inline]
#[target_feature(enable = "avx512f")]
fn split<const PARTS: usize>(x: __m512) -> [__m512i; PARTS] {
    let mut out = [_mm512_setzero_si512(); PARTS];
    if PARTS == 1 {
        out[0] = nearest(x);
    } else {
        out.copy_from_slice(&in_three(x));
    }
    out
}

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

/// Three numbers in bfloat16 that add up to each number, the largest first.
#[inline]
#[target_feature(enable = "avx512f")]
fn in_three(x: __m512) -> [__m512i; 3] {
    // Rounded, so that the rest has either sign and errors even out.
    let half = _mm512_set1_epi32(0x8000);
    let first = upper(_mm512_add_epi32(_mm512_castps_si512(x), half));
    // What is left has 16 bits, then eight. NaN is left of NaN.
    let rest = _mm512_sub_ps(x, _mm512_castsi512_ps(first));
    let second = upper(_mm512_castps_si512(rest));
    let rest = _mm512_sub_ps(rest, _mm512_castsi512_ps(second));
    [first, second, _mm512_castps_si512(rest)]
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

/// How a tile changes the result.
#[derive(Clone, Copy)]
struct Update {
    scale: f32,
    accumulate: bool,
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

/// All four products of the loaded registers.
macro_rules! four_products {
    () => {
        products!(
            "tmm0" += "tmm4" * "tmm6",
            "tmm1" += "tmm4" * "tmm7",
            "tmm2" += "tmm5" * "tmm6",
            "tmm3" += "tmm5" * "tmm7"
        )
    };
}

/// Multiplies a panel of rows with one of columns.
fn multiply(_: &Tiles, parts: Parts, left: &[Register], right: &[Register], sums: &mut Sums) {
    const LINE: usize = size_of::<[u32; SIDE]>();
    let registers = 2 * parts.count();
    assert!(
        left.len() == right.len() && left.len().is_multiple_of(registers),
        "shapes of a tile"
    );
    let steps = left.len() / registers;
    let (a, b) = (left.as_ptr(), right.as_ptr());
    macro_rules! rows {
        ($step:ident, $part:literal) => {
            let rows = a.add($step * registers + 2 * $part);
            load!("tmm4", rows, LINE);
            load!("tmm5", rows.add(1), LINE);
        };
    }
    macro_rules! columns {
        ($step:ident, $part:literal) => {
            let columns = b.add($step * registers + 2 * $part);
            load!("tmm6", columns, LINE);
            load!("tmm7", columns.add(1), LINE);
        };
    }
    // SAFETY: the registers are set up, the panels have as many steps, and the
    // sums hold 32 lines of two registers.
    unsafe {
        zero!("tmm0", "tmm1", "tmm2", "tmm3");
        if parts == Parts::Three {
            // The small products first, which leaves fewer bits to round off.
            for step in 0..steps {
                rows!(step, 0);
                columns!(step, 2);
                four_products!();
                columns!(step, 1);
                four_products!();
                rows!(step, 1);
                four_products!();
                columns!(step, 0);
                four_products!();
                rows!(step, 2);
                four_products!();
            }
        }
        for step in 0..steps {
            rows!(step, 0);
            columns!(step, 0);
            four_products!();
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
    use half::bf16;

    use super::*;
    use crate::{kernels::transpose, ops::testing::noise};

    /// Sizes with one tile, ends of tiles, several blocks and steps.
    const SIZES: [(usize, usize, usize); 6] = [
        (32, 32, 32),
        (1, 1, 1),
        (13, 7, 33),
        (61, 401, 70),
        (130, 768, 65),
        (257, 129, 96),
    ];

    /// Calls `check` with the result and the tolerated difference of every
    /// size, layout and way of writing.
    fn every_layout(parts: Parts, seen: fn(f32) -> f32, tolerance: f64) {
        if !is_available() {
            return;
        }
        for (m, k, n) in SIZES {
            let (a, b) = (noise(1, m * k), noise(2, k * n));
            let turned = |x: &[f32], cols: usize| {
                let mut out = vec![0.0; x.len()];
                transpose(x, cols, &mut out);
                out
            };
            let (at, bt) = (turned(&a, k), turned(&b, n));
            let expected = |i: usize, j: usize| -> (f64, f64) {
                let products =
                    (0..k).map(|l| f64::from(seen(a[i * k + l])) * f64::from(seen(b[l * n + j])));
                products.fold((0.0, 0.0), |(sum, size), x| (sum + x, size + x * x))
            };
            for layout in 0..4 {
                let left = match layout & 1 {
                    0 => Mat::new(&a, m, k),
                    _ => Mat::new(&at, k, m).t(),
                };
                let right = match layout & 2 {
                    0 => Mat::new(&b, k, n),
                    _ => Mat::new(&bt, n, k).t(),
                };
                let stride = n + 3;
                for (scale, accumulate) in [(1.0, false), (1.0, true), (2.0, false), (0.5, true)] {
                    for threads in [Threads::All, Threads::One] {
                        let mut out = vec![7.0; (m - 1) * stride + n];
                        let view = MatMut::strided(&mut out, m, n, stride);
                        matmul(parts, view, left, right, scale, accumulate, threads);
                        for (place, found) in out.iter().enumerate() {
                            let (i, j) = (place / stride, place % stride);
                            if j >= n {
                                assert_eq!(*found, 7.0);
                                continue;
                            }
                            let (sum, size) = expected(i, j);
                            let start = if accumulate { 7.0 } else { 0.0 };
                            let expected = f64::from(scale) * sum + start;
                            let allowed = tolerance * (size.sqrt() + start + sum.abs());
                            assert!(
                                (f64::from(*found) - expected).abs() <= allowed,
                                "{m}x{k}x{n} at {i}, {j}: {found} for {expected}"
                            );
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn three_parts_are_as_exact_as_32_bits() {
        every_layout(Parts::Three, |x| x, 8.0 * f64::from(f32::EPSILON));
    }

    #[test]
    fn one_part_is_the_product_of_rounded_factors() {
        let rounded = |x: f32| bf16::from_f32(x).to_f32();
        every_layout(Parts::One, rounded, 8.0 * f64::from(f32::EPSILON));
    }

    #[test]
    fn three_parts_add_up_to_every_number() {
        if !is_available() {
            return;
        }
        #[target_feature(enable = "avx512f")]
        fn parts(x: f32) -> [f32; 3] {
            in_three(_mm512_set1_ps(x)).map(|part| _mm512_cvtss_f32(_mm512_castsi512_ps(part)))
        }
        for bits in (0..=u32::MAX).step_by(65_519) {
            let x = f32::from_bits(bits);
            // Rests of smaller numbers have no place; larger ones round to infinity.
            if !(1e-30..3.3e38).contains(&x.abs()) {
                continue;
            }
            // SAFETY: the instructions are there.
            let parts = unsafe { parts(x) };
            assert_eq!(
                parts.iter().map(|part| f64::from(*part)).sum::<f64>(),
                f64::from(x)
            );
            assert!(
                parts.iter().all(|part| part.to_bits() & 0xffff == 0),
                "{parts:?}"
            );
        }
    }

    #[test]
    fn what_is_no_number_is_not_hidden() {
        if !is_available() {
            return;
        }
        for parts in [Parts::One, Parts::Three] {
            for bad in [f32::NAN, f32::from_bits(0x7fff_ffff), f32::INFINITY] {
                let mut out = [0.0; 1];
                matmul(
                    parts,
                    MatMut::new(&mut out, 1, 1),
                    Mat::new(&[1.0, bad, 1.0], 1, 3),
                    Mat::new(&[1.0, 1.0, 1.0], 3, 1),
                    1.0,
                    false,
                    Threads::One,
                );
                assert!(!out[0].is_finite());
            }
        }
    }
}
