//! Matrix products in bfloat16 with AVX-512 BF16.
//!
//! Factors are rounded to bfloat16, the upper half of an `f32`. Sums have 32 bits.
//!
//! Both factors are rounded and packed into panels. Two neighbours along the inner
//! dimension form one word, the operand of an instruction. A tile of the output stays
//! in registers while it passes along one panel of each factor ([Goto and van de Geijn
//! 2008](https://doi.org/10.1145/1356052.1356053)).

use std::{arch::x86_64::*, mem::transmute, ops::Range};

use pulp::Arch;
use rayon::prelude::*;

use super::matrix::{Mat, MatMut, Threads, check_shapes};

/// Rows and columns of a tile: 24 registers of 16 sums.
const ROWS: usize = 12;
const COLS: usize = 32;

/// Pairs along the inner dimension to pack at a time.
///
/// A panel of columns then takes 24 KB and stays in the L1 cache.
const PAIRS: usize = 192;

/// Output rows per task.
const BLOCK: usize = 4 * ROWS;

/// Returns whether the CPU has the instructions.
pub(super) fn is_available() -> bool {
    is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bf16")
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
    let (left, right) = (Lines::rows(a), Lines::cols(b));
    // With a single thread, one task does all the work.
    let tasks = match threads {
        Threads::All => 1,
        Threads::One => usize::MAX,
    };
    let mut panels = vec![0; cols.div_ceil(COLS) * COLS * PAIRS];
    for start in (0..a.cols).step_by(2 * PAIRS) {
        let inner = start..(start + 2 * PAIRS).min(a.cols);
        let pairs = inner.len().div_ceil(2);
        let panels = &mut panels[..cols.div_ceil(COLS) * COLS * pairs];
        panels
            .par_chunks_exact_mut(COLS * pairs)
            .with_min_len(tasks)
            .enumerate()
            .for_each(|(i, panel)| right.pack::<COLS>(i * COLS, inner.clone(), panel));
        let panels = &*panels;
        let update = Update {
            scale,
            accumulate: accumulate || start > 0,
        };
        data.par_chunks_mut(BLOCK * row_stride)
            .with_min_len(tasks)
            .take(rows.div_ceil(BLOCK))
            .enumerate()
            .for_each_init(
                || vec![0; BLOCK * PAIRS],
                |block, (i, data)| {
                    let first = i * BLOCK;
                    let height = (rows - first).min(BLOCK);
                    let block = &mut block[..height.div_ceil(ROWS) * ROWS * pairs];
                    for (i, panel) in block.chunks_exact_mut(ROWS * pairs).enumerate() {
                        left.pack::<ROWS>(first + i * ROWS, inner.clone(), panel);
                    }
                    for (i, right) in panels.chunks_exact(COLS * pairs).enumerate() {
                        let (col, width) = (i * COLS, (cols - i * COLS).min(COLS));
                        let heights = (0..height).step_by(ROWS);
                        for (row, left) in heights.zip(block.chunks_exact(ROWS * pairs)) {
                            let out = &mut data[row * row_stride + col..];
                            let lines = out.chunks_mut(row_stride).take(height - row);
                            // SAFETY: `is_available` was asserted.
                            unsafe { tile(left, right, lines, width, update) };
                        }
                    }
                },
            );
    }
}

/// A factor as lines along the inner dimension.
///
/// The lines are rows of the left factor and columns of the right one.
#[derive(Clone, Copy)]
pub(super) struct Lines<'a> {
    pub(super) data: &'a [f32],
    pub(super) count: usize,
    pub(super) line_stride: usize,
    pub(super) inner_stride: usize,
}

impl<'a> Lines<'a> {
    pub(super) fn rows(a: Mat<'a>) -> Self {
        Self {
            data: a.data,
            count: a.rows,
            line_stride: a.row_stride,
            inner_stride: a.col_stride,
        }
    }

    pub(super) fn cols(b: Mat<'a>) -> Self {
        Self::rows(b.t())
    }

    /// Packs `W` lines from `first` on.
    ///
    /// Each pair of elements of `inner` becomes one word per line. Missing lines and
    /// elements are zero.
    fn pack<const W: usize>(self, first: usize, inner: Range<usize>, out: &mut [u32]) {
        Arch::new().dispatch(
            #[inline(always)]
            || {
                let lines = (self.count - first).min(W);
                if lines < W || inner.len() % 2 == 1 {
                    out.fill(0);
                }
                let out = out.as_chunks_mut::<W>().0;
                let from = &self.data[first * self.line_stride..];
                if self.inner_stride == 1 {
                    for line in 0..lines {
                        let x = &from[line * self.line_stride..][inner.clone()];
                        pack_line(x, line, out);
                    }
                } else {
                    for (i, out) in inner.clone().step_by(2).zip(out) {
                        let of = |i: usize| &from[i * self.inner_stride..][..lines];
                        if i + 1 < inner.end {
                            for ((out, a), b) in out.iter_mut().zip(of(i)).zip(of(i + 1)) {
                                *out = pair(*a, *b);
                            }
                        } else {
                            for (out, a) in out.iter_mut().zip(of(i)) {
                                *out = pair(*a, 0.0);
                            }
                        }
                    }
                }
            },
        );
    }
}

/// Packs the elements of one line.
#[inline(always)]
fn pack_line<const W: usize>(x: &[f32], line: usize, out: &mut [[u32; W]]) {
    // Round everything first, since the stores are scattered.
    let mut words = [0; PAIRS];
    let (pairs, last) = x.as_chunks::<2>();
    for (word, [a, b]) in words.iter_mut().zip(pairs) {
        *word = pair(*a, *b);
    }
    if let [a] = last {
        words[pairs.len()] = pair(*a, 0.0);
    }
    for (out, word) in out.iter_mut().zip(words) {
        out[line] = word;
    }
}

/// Packs two numbers into a word, the first in the lower half.
#[inline(always)]
fn pair(first: f32, second: f32) -> u32 {
    round(first) >> 16 | round(second)
}

/// Rounds to bfloat16 with ties to even, and returns the bits as `f32`.
///
/// NaN stays NaN.
#[inline(always)]
fn round(x: f32) -> u32 {
    let bits = x.to_bits();
    let nearest = bits.wrapping_add(0x7fff + (bits >> 16 & 1));
    let quiet = bits | 0x0040_0000;
    (if x.is_nan() { quiet } else { nearest }) & 0xffff_0000
}

/// Update of the output by a tile: `out = scale * tile`, added to `out` if `accumulate`.
#[derive(Clone, Copy)]
pub(super) struct Update {
    pub(super) scale: f32,
    pub(super) accumulate: bool,
}

/// Multiplies a panel of rows by a panel of columns.
///
/// Writes the first `width` columns of the result.
#[target_feature(enable = "avx512f,avx512bf16")]
fn tile<'a>(
    left: &[u32],
    right: &[u32],
    lines: impl Iterator<Item = &'a mut [f32]>,
    width: usize,
    update: Update,
) {
    let mut sums = [[_mm512_setzero_ps(); 2]; ROWS];
    let pairs = left
        .as_chunks::<ROWS>()
        .0
        .iter()
        .zip(right.as_chunks::<COLS>().0);
    for (left, right) in pairs {
        // SAFETY: 32 words become two registers of 16; any bits are valid.
        let right: [__m512bh; 2] = unsafe { transmute(*right) };
        for (sums, left) in sums.iter_mut().zip(left) {
            // SAFETY: a register of words becomes one of half words; any bits are
            // valid.
            let left: __m512bh = unsafe { transmute(_mm512_set1_epi32(left.cast_signed())) };
            sums[0] = _mm512_dpbf16_ps(sums[0], left, right[0]);
            sums[1] = _mm512_dpbf16_ps(sums[1], left, right[1]);
        }
    }
    // SAFETY: registers of 16 numbers become an array of numbers.
    let sums: [[f32; COLS]; ROWS] = unsafe { transmute(sums) };
    for (line, sums) in lines.zip(&sums) {
        for (out, sum) in line[..width].iter_mut().zip(sums) {
            *out = update.scale * sum + if update.accumulate { *out } else { 0.0 };
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use half::bf16;

    use super::*;
    use crate::ops::testing::noise;

    #[test]
    fn rounds_like_the_half_crate() {
        for bits in (0..=u32::MAX).step_by(65_521).chain([0x7fff_ffff, 1]) {
            let x = f32::from_bits(bits);
            let expected = bf16::from_f32(x).to_f32().to_bits();
            assert_eq!(round(x), expected, "{bits:x}");
        }
    }

    #[test]
    fn packs_pairs_of_every_line_and_pads_with_zeros() {
        // Seven lines of five elements, without the last line and the first element,
        // packed by four.
        let (count, depth, inner) = (6, 5, 1..4);
        let element = |line: usize, i: usize| (10 * line + i) as f32;
        let rows: Vec<f32> = (0..7 * depth)
            .map(|at| element(at / depth, at % depth))
            .collect();
        let cols: Vec<f32> = (0..7 * depth).map(|at| element(at % 7, at / 7)).collect();
        for (data, line_stride, inner_stride) in [(&rows, depth, 1), (&cols, 1, 7)] {
            let lines = Lines {
                data,
                count,
                line_stride,
                inner_stride,
            };
            for first in [0, 4] {
                let mut packed = [u32::MAX; 2 * 4];
                lines.pack::<4>(first, inner.clone(), &mut packed);
                for (at, word) in packed.into_iter().enumerate() {
                    let (line, i) = (first + at % 4, inner.start + at / 4 * 2);
                    let part = |i: usize| match line < count && i < inner.end {
                        true => u32::from(bf16::from_f32(element(line, i)).to_bits()),
                        false => 0,
                    };
                    assert_eq!(word, part(i) | part(i + 1) << 16, "line {line}, {i}");
                }
            }
        }
    }

    #[test]
    fn equals_the_definition_in_every_layout() {
        if is_available() {
            check_every_layout(matmul, 16.0);
        }
    }

    #[test]
    fn non_finite_inputs_give_non_finite_results() {
        if is_available() {
            check_non_finite(matmul);
        }
    }

    type Product = fn(MatMut<'_>, Mat<'_>, Mat<'_>, f32, bool, Threads);

    /// Compares a product of rounded factors with the definition.
    ///
    /// It is computed plain, transposed, scaled and accumulated. Sums may differ by
    /// `roundings` times the rounding error of 32-bit numbers of their size.
    pub(in super::super) fn check_every_layout(matmul: Product, roundings: f64) {
        // A single tile, partial tiles, several blocks, panels and steps.
        for (m, k, n) in [
            (32, 32, 32),
            (12, 2, 32),
            (1, 1, 1),
            (13, 7, 33),
            (61, 401, 70),
            (130, 768, 65),
            (257, 129, 96),
        ] {
            let (a, b) = (noise(1, m * k), noise(2, k * n));
            let transposed = |x: &[f32], cols: usize| {
                let mut out = vec![0.0; x.len()];
                crate::kernels::transpose(x, cols, &mut out);
                out
            };
            let (at, bt) = (transposed(&a, k), transposed(&b, n));
            let rounded = |x: f32| f64::from(bf16::from_f32(x).to_f32());
            // The sum, and the root of the sum of squares, to which the rounding error
            // is proportional.
            let expected = |i: usize, j: usize| -> (f64, f64) {
                let products = (0..k).map(|l| rounded(a[i * k + l]) * rounded(b[l * n + j]));
                let (sum, squares) =
                    products.fold((0.0, 0.0), |(sum, squares), x| (sum + x, squares + x * x));
                (sum, squares.sqrt())
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
                let updates = [(1.0, false), (1.0, true), (2.0, false), (0.5, true)];
                for (scale, accumulate) in updates {
                    for threads in [Threads::All, Threads::One] {
                        let mut out = vec![7.0; (m - 1) * stride + n];
                        let view = MatMut::strided(&mut out, m, n, stride);
                        matmul(view, left, right, scale, accumulate, threads);
                        for (place, found) in out.iter().enumerate() {
                            let (i, j) = (place / stride, place % stride);
                            if j >= n {
                                assert_eq!(*found, 7.0);
                                continue;
                            }
                            let (sum, size) = expected(i, j);
                            let before = if accumulate { 7.0 } else { 0.0 };
                            let expected = f64::from(scale) * sum + before;
                            let size = size + before + sum.abs();
                            let allowed = roundings * f64::from(f32::EPSILON) * size;
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

    /// Checks that a non-finite factor gives a non-finite result.
    pub(in super::super) fn check_non_finite(matmul: Product) {
        for bad in [f32::NAN, f32::from_bits(0x7fff_ffff), f32::INFINITY] {
            let mut out = [0.0; 1];
            matmul(
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
