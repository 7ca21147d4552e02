//! Products of 8-bit integers with exact 32-bit sums.
//!
//! Weights are quantised symmetrically per output: `w ≈ scale * q`, with `q` in
//! -127..=127. Rows of the left factor are quantised with their own range, which
//! contains zero: `x ≈ scale * (q - zero)`, with `q` in 0..=255. It follows that `x · w
//! ≈ scale_x * scale_w * (Σ q_x q_w - zero * Σ q_w)`. The bracket is computed exactly,
//! so all kernels give the same result: AMX, AVX-512 VNNI, AVX2 and portable loops.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

use std::cell::Cell;

use pulp::Arch;
use rayon::prelude::*;

use super::tile::{COLS, GROUP, Line, MAX_ROWS, ROWS, Sums, Tile};
#[cfg(target_arch = "x86_64")]
use super::{amx, packed::for_height};

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

/// Multiplies rows of `groups` words by a panel.
fn sums_of(words: &[[u8; GROUP]], groups: usize, panel: &[Line], sums: &mut Sums) {
    let rows = words.len() / groups;
    assert!(
        (1..=ROWS).contains(&rows) && rows * groups == words.len() && panel.len() == groups,
        "shapes of a tile"
    );
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vnni") {
        // SAFETY: the CPU has the instructions, and the sizes were checked.
        unsafe { avx512::tile(words, groups, rows, panel, sums) };
        return;
    } else if is_x86_feature_detected!("avx2") {
        // SAFETY: as above.
        unsafe { avx2::tile(words, groups, rows, panel, sums) };
        return;
    }
    portable(words, groups, panel, sums);
}

/// Portable kernel and reference for the others.
fn portable(words: &[[u8; GROUP]], groups: usize, panel: &[Line], sums: &mut Sums) {
    let lines = sums.as_chunks_mut::<COLS>().0.iter_mut();
    for (words, sums) in words.chunks_exact(groups).zip(lines) {
        sums.fill(0);
        for (x, line) in words.iter().zip(panel) {
            for (sum, w) in sums.iter_mut().zip(&line.0) {
                for (x, w) in x.iter().zip(w) {
                    *sum += i32::from(*x) * i32::from(*w);
                }
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use super::*;

    /// # Safety
    /// The CPU must have AVX-512 VNNI. The sizes must be as [`sums_of`] checks them.
    #[target_feature(enable = "avx512f,avx512vnni")]
    pub(super) unsafe fn tile(
        words: &[[u8; GROUP]],
        groups: usize,
        rows: usize,
        panel: &[Line],
        sums: &mut Sums,
    ) {
        let (words, panel) = (
            words.as_ptr().cast::<i32>(),
            panel.as_ptr().cast::<__m512i>(),
        );
        // SAFETY: guaranteed by the caller.
        unsafe { for_height!(rows, rows_of, words, groups, panel, sums) }
    }

    /// # Safety
    /// `words` must hold `R` rows of `groups` words, and `panel` `groups` lines.
    #[target_feature(enable = "avx512f,avx512vnni")]
    unsafe fn rows_of<const R: usize>(
        words: *const i32,
        groups: usize,
        panel: *const __m512i,
        sums: &mut Sums,
    ) {
        let mut acc = [[_mm512_setzero_si512(); 2]; R];
        for i in 0..groups {
            // SAFETY: `i` is below `groups`; lines are aligned, and words are read
            // unaligned.
            unsafe {
                let low = _mm512_load_si512(panel.add(2 * i));
                let high = _mm512_load_si512(panel.add(2 * i + 1));
                for (row, acc) in acc.iter_mut().enumerate() {
                    let x = _mm512_set1_epi32(words.add(row * groups + i).read_unaligned());
                    acc[0] = _mm512_dpbusd_epi32(acc[0], x, low);
                    acc[1] = _mm512_dpbusd_epi32(acc[1], x, high);
                }
            }
        }
        let lines = sums.as_chunks_mut::<COLS>().0.iter_mut();
        for (line, acc) in lines.zip(acc) {
            // SAFETY: a line holds both halves.
            unsafe {
                _mm512_storeu_si512(line.as_mut_ptr().cast(), acc[0]);
                _mm512_storeu_si512(line.as_mut_ptr().add(16).cast(), acc[1]);
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use super::*;

    /// Columns of a register.
    const WIDTH: usize = 8;

    /// # Safety
    /// The CPU must have AVX2. The sizes must be as [`sums_of`] checks them.
    #[target_feature(enable = "avx2")]
    pub(super) unsafe fn tile(
        words: &[[u8; GROUP]],
        groups: usize,
        rows: usize,
        panel: &[Line],
        sums: &mut Sums,
    ) {
        for first in (0..rows).step_by(4) {
            for part in 0..COLS / WIDTH {
                let words = words[first * groups..].as_ptr().cast::<i32>();
                let panel = panel.as_ptr().cast::<__m256i>().wrapping_add(part);
                let sums = &mut sums[first * COLS + part * WIDTH..];
                let rows = (rows - first).min(4);
                // SAFETY: guaranteed by the caller.
                unsafe { for_height!(rows, rows_of, words, groups, panel, sums) }
            }
        }
    }

    /// Multiplies even and odd bytes separately, widened to 16 bits.
    ///
    /// The instruction that multiplies bytes directly saturates.
    ///
    /// # Safety
    /// `words` must hold `R` rows of `groups` words, and `panel` `groups` lines.
    #[target_feature(enable = "avx2")]
    unsafe fn rows_of<const R: usize>(
        words: *const i32,
        groups: usize,
        panel: *const __m256i,
        sums: &mut [i32],
    ) {
        let even = _mm256_set1_epi16(0xff);
        let mut acc = [_mm256_setzero_si256(); R];
        for i in 0..groups {
            // SAFETY: `i` is below `groups`; lines are aligned, and words are read
            // unaligned.
            unsafe {
                let line = _mm256_load_si256(panel.add(i * (COLS / WIDTH)));
                let w_even = _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(line));
                let w_odd = _mm256_srai_epi16::<8>(line);
                for (row, acc) in acc.iter_mut().enumerate() {
                    let x = _mm256_set1_epi32(words.add(row * groups + i).read_unaligned());
                    let x_even = _mm256_and_si256(x, even);
                    let x_odd = _mm256_srli_epi16::<8>(x);
                    let both = _mm256_add_epi32(
                        _mm256_madd_epi16(x_even, w_even),
                        _mm256_madd_epi16(x_odd, w_odd),
                    );
                    *acc = _mm256_add_epi32(*acc, both);
                }
            }
        }
        for (line, acc) in sums.chunks_mut(COLS).zip(acc) {
            let line = &mut line[..WIDTH];
            // SAFETY: the line holds the register.
            unsafe { _mm256_storeu_si256(line.as_mut_ptr().cast(), acc) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            Threads,
            panels::{Factor, Product, multiply},
        },
        *,
    };
    use crate::ops::testing::noise;

    #[test]
    fn every_kernel_gives_the_exact_sums_of_the_definition() {
        for (groups, extreme) in [(1, false), (9, false), (97, false), (512, true)] {
            let byte = |i: usize| (i * 7919 % 251) as u8;
            let words: Vec<[u8; GROUP]> = (0..ROWS * groups)
                .map(|i| match extreme {
                    true => [255; GROUP],
                    false => [byte(i), byte(i + 1), byte(3 * i), 255 - byte(i)],
                })
                .collect();
            let panel: Vec<Line> = (0..groups)
                .map(|i| {
                    Line(std::array::from_fn(|column| {
                        let w = |j: usize| (byte(i * 131 + column * 17 + j) as i8).max(-127);
                        match extreme {
                            true => [if column % 2 == 0 { 127 } else { -127 }; GROUP],
                            false => [w(0), w(1), w(2), w(3)],
                        }
                    }))
                })
                .collect();
            for rows in 1..=ROWS {
                let words = &words[..rows * groups];
                let mut expected = [0; MAX_ROWS * COLS];
                portable(words, groups, &panel, &mut expected);
                if extreme {
                    assert_eq!(expected[0], 255 * 127 * 4 * groups as i32);
                }
                let mut found = [0; MAX_ROWS * COLS];
                sums_of(words, groups, &panel, &mut found);
                assert_eq!(found, expected, "{rows} rows of {groups}");
                #[cfg(target_arch = "x86_64")]
                if is_x86_feature_detected!("avx2") {
                    let mut found = [0; MAX_ROWS * COLS];
                    // SAFETY: the CPU has the instructions, and the sizes are valid.
                    unsafe { avx2::tile(words, groups, rows, &panel, &mut found) };
                    assert_eq!(found, expected, "AVX2: {rows} rows of {groups}");
                }
            }
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn amx_gives_the_exact_sums_of_the_definition() {
        let Some(tiles) = amx::Tiles::begin() else {
            return;
        };
        for (groups, extreme) in [(16, false), (32, false), (96, false), (512, true)] {
            let byte = |i: usize| match extreme {
                true => 255,
                false => (i * 7919 % 251) as u8,
            };
            let words: Vec<[u8; GROUP]> = (0..MAX_ROWS * groups)
                .map(|i| [byte(i), byte(i + 1), byte(3 * i), byte(5 * i)])
                .collect();
            let weight = |i: usize, column: usize| match extreme {
                true => [127, -127][column % 2],
                false => (byte(i * 131 + column * 17) as i8).max(-127),
            };
            let line = |i: usize| {
                let group = |column| std::array::from_fn(|j| weight(GROUP * i + j, column));
                Line(std::array::from_fn(group))
            };
            let panel: Vec<Line> = (0..groups).map(line).collect();
            let mut expected = [0; MAX_ROWS * COLS];
            portable(&words, groups, &panel, &mut expected);
            for rows in [1, 15, 16, 17, 32] {
                let mut found = [0; MAX_ROWS * COLS];
                tiles.multiply(&words, groups, rows, &panel, &mut found);
                assert_eq!(found[..rows * COLS], expected[..rows * COLS]);
            }
        }
    }

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
