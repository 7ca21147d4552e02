//! Matrix products on slices.
//!
//! [`matmul`] is a safe interface to the `gemm` crate. [`Precision::matmul`] adds
//! products in bfloat16, and [`multiply`] uses weights that are packed once, in 32 or 8
//! bits.
//!
//! This is the only module of the workspace with `unsafe` code. The `gemm` crate takes
//! raw pointers. [`Mat`] and [`MatMut`] check on construction that all their elements
//! are inside the slice, and the borrow checker keeps the output separate from the
//! inputs. The call has no other requirements. Our own products need `unsafe` for their
//! instructions.
#![allow(unsafe_code)]

#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod amx_bfloat16;
#[cfg(target_arch = "x86_64")]
mod bfloat16;
mod int8;
mod int8_kernels;
mod matrix;
mod packed;
mod panels;
mod part;
mod tile;

use std::time::{Duration, Instant};

pub(crate) use matrix::{Mat, MatMut, Threads, matmul};
pub(crate) use packed::{Packed, Prefetch, Rows};
pub(crate) use panels::{Factor, Patches, Product, multiply, multiply_patches};
pub(crate) use part::Part;
pub(crate) use tile::{COLS, ROWS};

/// Precision of the matrix products in training.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// 32 bits.
    #[default]
    Float32,
    /// Mixed precision: factors are rounded to bfloat16, everything else has 32 bits.
    ///
    /// On CPUs with bfloat16 instructions, this applies to large products. On a GPU, it
    /// applies to all products of layers.
    Bfloat16,
    /// TensorFloat-32: factors are rounded to 19 bits, everything else has 32 bits.
    ///
    /// Only for NVIDIA GPUs.
    Tf32,
}

impl Precision {
    /// Names that [`Precision::parse`] accepts.
    pub(crate) const NAMES: [&'static str; 3] = ["float32", "bfloat16", "tf32"];

    /// Parses the name in a run's options.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        [Self::Float32, Self::Bfloat16, Self::Tf32]
            .into_iter()
            .find(|precision| precision.name() == name)
    }

    /// Returns the name in a run's options.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Float32 => "float32",
            Self::Bfloat16 => "bfloat16",
            Self::Tf32 => "tf32",
        }
    }

    /// Returns whether this CPU supports the precision.
    #[must_use]
    pub fn is_available(self) -> bool {
        match self {
            Self::Float32 => true,
            Self::Tf32 => false,
            #[cfg(target_arch = "x86_64")]
            Self::Bfloat16 => amx_bfloat16::is_available() || bfloat16::is_available(),
            #[cfg(not(target_arch = "x86_64"))]
            Self::Bfloat16 => false,
        }
    }

    /// Measures the speed of large products relative to 32 bits on this machine.
    ///
    /// It takes some hundredths of a second and uses a product of a transformer's size.
    #[must_use]
    pub fn relative_speed(self) -> f64 {
        const SIDE: usize = 768;
        let (a, b) = (vec![0.5; SIDE * SIDE], vec![0.25; SIDE * SIDE]);
        let mut out = vec![0.0; SIDE * SIDE];
        let mut time = |precision: Self| -> Duration {
            let mut once = || {
                let started = Instant::now();
                let out = MatMut::new(&mut out, SIDE, SIDE);
                let (a, b) = (Mat::new(&a, SIDE, SIDE), Mat::new(&b, SIDE, SIDE));
                precision.matmul(out, a, b, 1.0, false, Threads::All);
                started.elapsed()
            };
            (0..5).map(|_| once()).min().unwrap_or_default()
        };
        time(Self::Float32).as_secs_f64() / time(self).as_secs_f64()
    }

    /// Returns whether a product of these sizes packs both factors.
    ///
    /// If so, it takes the same time for transposed factors.
    pub(crate) fn packs(self, rows: usize, inner: usize, cols: usize) -> bool {
        self == Self::Bfloat16
            && rows.min(inner).min(cols) >= MIN_PACKED_SIDE
            && self.is_available()
    }

    /// Computes [`matmul`] in this precision.
    pub(crate) fn matmul(
        self,
        out: MatMut<'_>,
        a: Mat<'_>,
        b: Mat<'_>,
        scale: f32,
        accumulate: bool,
        threads: Threads,
    ) {
        #[cfg(target_arch = "x86_64")]
        if self.packs(out.rows, a.cols, out.cols) {
            return match amx_bfloat16::is_available() {
                true => amx_bfloat16::matmul(out, a, b, scale, accumulate, threads),
                false => bfloat16::matmul(out, a, b, scale, accumulate, threads),
            };
        }
        matmul(out, a, b, scale, accumulate, threads);
    }
}

/// Minimum side of a product to pack.
///
/// Packing would take longer than a smaller product.
const MIN_PACKED_SIDE: usize = 64;
