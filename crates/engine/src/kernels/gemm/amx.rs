//! AMX tile registers, and products of 8-bit integers with them.
//!
//! An AMX instruction multiplies 16 rows by 16 columns. Rust has no stable intrinsics
//! for AMX, so this module uses assembly.

use std::{
    arch::{
        asm,
        x86_64::{__cpuid_count, _MM_HINT_T0, _mm_prefetch, _xgetbv},
    },
    marker::PhantomData,
    sync::OnceLock,
};

use super::tile::{COLS, GROUP, Line, Sums};

/// Rows and columns of a tile register.
pub(super) const SIDE: usize = 16;

/// Groups along the inner dimension in a tile register.
pub(super) const GROUPS: usize = 16;

/// Bits of AMX-TILE, AMX-INT8 and AMX-BF16 in `edx` of CPUID leaf 7.
const REGISTERS: u32 = 1 << 24;
const INT8: u32 = 1 << 25;
const BFLOAT16: u32 = 1 << 22;

/// Returns whether this process can use AMX for 8-bit integers.
pub(super) fn has_int8() -> bool {
    features() & INT8 != 0
}

/// Returns whether this process can use AMX for bfloat16.
pub(super) fn has_bfloat16() -> bool {
    features() & BFLOAT16 != 0
}

/// Returns the AMX feature bits; 0 if the registers can't be used.
fn features() -> u32 {
    static FEATURES: OnceLock<u32> = OnceLock::new();
    *FEATURES.get_or_init(|| match found_features() {
        found if found & REGISTERS != 0 && is_permitted() => found,
        _ => 0,
    })
}

fn found_features() -> u32 {
    /// XCR0 bits: the operating system saves the tile registers.
    const STATES: u64 = 0b11 << 17;
    if !(is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("xsave")) {
        return 0;
    }
    // SAFETY: CPUs with AVX-512 have leaf 7, and `xsave` was found.
    unsafe {
        match _xgetbv(0) & STATES == STATES {
            true => __cpuid_count(7, 0).edx,
            false => 0,
        }
    }
}

/// Requests the tile registers from Linux, which grants them on request only.
#[cfg(target_os = "linux")]
fn is_permitted() -> bool {
    const ARCH_PRCTL: isize = 158;
    const ARCH_REQ_XCOMP_PERM: usize = 0x1023;
    const TILE_DATA: usize = 18;
    let result: isize;
    // SAFETY: the call reads and writes no memory of this process.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") ARCH_PRCTL => result,
            in("rdi") ARCH_REQ_XCOMP_PERM,
            in("rsi") TILE_DATA,
            out("rcx") _,
            out("r11") _,
            options(nostack),
        );
    }
    result == 0
}

#[cfg(not(target_os = "linux"))]
fn is_permitted() -> bool {
    false
}

/// Tile configuration in the layout of `ldtilecfg`.
#[repr(C, align(64))]
struct Shapes {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

/// The tile registers of this thread. Released when dropped.
pub(super) struct Tiles {
    /// The registers belong to the thread.
    _not_send: PhantomData<*const ()>,
}

impl Tiles {
    /// Configures the registers, if the CPU has them.
    pub(super) fn begin() -> Option<Self> {
        if features() == 0 {
            return None;
        }
        let (mut row_bytes, mut rows) = ([0; 16], [0; 16]);
        row_bytes[..8].fill((GROUPS * GROUP) as u16);
        rows[..8].fill(SIDE as u8);
        let shapes = Shapes {
            palette: 1,
            start_row: 0,
            reserved: [0; 14],
            row_bytes,
            rows,
        };
        // SAFETY: the CPU has the instruction, which reads 64 bytes.
        unsafe {
            asm!(
                "ldtilecfg [{}]",
                in(reg) &raw const shapes,
                options(nostack, readonly, preserves_flags),
            );
        }
        Some(Self {
            _not_send: PhantomData,
        })
    }

    /// Multiplies 16 rows, or 32 if `rows` is above 16, by a panel.
    ///
    /// Each row has `groups` words, a multiple of [`GROUPS`].
    pub(super) fn multiply(
        &self,
        words: &[[u8; GROUP]],
        groups: usize,
        rows: usize,
        panel: &[Line],
        sums: &mut Sums,
    ) {
        let bands = rows.div_ceil(SIDE);
        assert!(
            (1..=2).contains(&bands)
                && groups.is_multiple_of(GROUPS)
                && words.len() >= bands * SIDE * groups
                && panel.len() == groups
                && sums.len() >= bands * SIDE * COLS,
            "shapes of a tile"
        );
        // SAFETY: the registers are configured, and the sizes were checked.
        unsafe {
            if bands == 1 {
                one_band(words.as_ptr().cast(), groups, panel.as_ptr().cast(), sums);
            } else {
                two_bands(words.as_ptr().cast(), groups, panel.as_ptr().cast(), sums);
            }
        }
    }
}

impl Drop for Tiles {
    fn drop(&mut self) {
        // SAFETY: the CPU has the instruction.
        unsafe { asm!("tilerelease", options(nostack, nomem, preserves_flags)) };
    }
}

macro_rules! zero {
    ($($tile:literal),*) => {
        $(std::arch::asm!(concat!("tilezero ", $tile), options(nostack, nomem, preserves_flags));)*
    };
}

macro_rules! load {
    ($tile:literal, $from:expr, $stride:expr) => {
        std::arch::asm!(
            concat!("tileloadd ", $tile, ", [{from} + {stride}]"),
            from = in(reg) $from,
            stride = in(reg) $stride,
            options(nostack, readonly, preserves_flags),
        )
    };
}

macro_rules! multiply {
    ($($sum:literal += $x:literal * $w:literal),*) => {
        $(asm!(
            concat!("tdpbusd ", $sum, ", ", $x, ", ", $w),
            options(nostack, nomem, preserves_flags),
        );)*
    };
}

macro_rules! store {
    ($tile:literal, $to:expr, $stride:expr) => {
        std::arch::asm!(
            concat!("tilestored [{to} + {stride}], ", $tile),
            to = in(reg) $to,
            stride = in(reg) $stride,
            options(nostack, preserves_flags),
        )
    };
}

pub(super) use {load, store, zero};

/// Bytes of a line of a panel or of the sums.
const LINE: usize = COLS * GROUP;

/// Bytes of a row in a register.
const ROW: usize = SIDE * GROUP;

/// # Safety
/// The registers are configured, `words` has 16 rows of `groups` words, and `panel` has
/// `groups` lines.
unsafe fn one_band(words: *const u8, groups: usize, panel: *const u8, sums: &mut Sums) {
    let stride = groups * GROUP;
    // SAFETY: guaranteed by the caller; the sums hold 32 rows.
    unsafe {
        zero!("tmm0", "tmm1");
        for i in (0..groups).step_by(GROUPS) {
            let lines = panel.add(i * LINE);
            // With few rows, the product is limited by loading the weights.
            for next in (GROUPS * LINE..2 * GROUPS * LINE).step_by(64) {
                _mm_prefetch::<_MM_HINT_T0>(lines.wrapping_add(next).cast());
            }
            load!("tmm4", words.add(i * GROUP), stride);
            load!("tmm6", lines, LINE);
            load!("tmm7", lines.add(ROW), LINE);
            multiply!("tmm0" += "tmm4" * "tmm6", "tmm1" += "tmm4" * "tmm7");
        }
        let sums = sums.as_mut_ptr().cast::<u8>();
        store!("tmm0", sums, LINE);
        store!("tmm1", sums.add(ROW), LINE);
    }
}

/// # Safety
/// As for [`one_band`], with 32 rows.
unsafe fn two_bands(words: *const u8, groups: usize, panel: *const u8, sums: &mut Sums) {
    let stride = groups * GROUP;
    // SAFETY: guaranteed by the caller; the sums hold 32 rows.
    unsafe {
        zero!("tmm0", "tmm1", "tmm2", "tmm3");
        for i in (0..groups).step_by(GROUPS) {
            let (rows, lines) = (words.add(i * GROUP), panel.add(i * LINE));
            load!("tmm4", rows, stride);
            load!("tmm6", lines, LINE);
            load!("tmm7", lines.add(ROW), LINE);
            load!("tmm5", rows.add(SIDE * stride), stride);
            multiply!(
                "tmm0" += "tmm4" * "tmm6",
                "tmm1" += "tmm4" * "tmm7",
                "tmm2" += "tmm5" * "tmm6",
                "tmm3" += "tmm5" * "tmm7"
            );
        }
        let sums = sums.as_mut_ptr().cast::<u8>();
        store!("tmm0", sums, LINE);
        store!("tmm1", sums.add(ROW), LINE);
        store!("tmm2", sums.add(SIDE * LINE), LINE);
        store!("tmm3", sums.add(SIDE * LINE + ROW), LINE);
    }
}
