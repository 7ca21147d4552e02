//! Kernels that multiply 8-bit integers: AVX-512 VNNI, AVX2 and portable loops.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

#[cfg(target_arch = "x86_64")]
use super::packed::for_height;
use super::tile::{COLS, GROUP, Line, ROWS, Sums};

/// Multiplies rows of `groups` words by a panel.
pub(super) fn sums_of(words: &[[u8; GROUP]], groups: usize, panel: &[Line], sums: &mut Sums) {
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
    use super::*;
    #[cfg(target_arch = "x86_64")]
    use crate::kernels::gemm::amx;
    use crate::kernels::gemm::tile::MAX_ROWS;

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
}
