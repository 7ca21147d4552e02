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
mod packed;
mod panels;
mod part;
mod tile;

use std::time::{Duration, Instant};

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

/// Whether a product may use all threads. Inside a parallel loop, it must use one.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Threads {
    All,
    One,
}

/// A read-only matrix in a slice.
#[derive(Clone, Copy)]
pub(crate) struct Mat<'a> {
    data: &'a [f32],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

impl<'a> Mat<'a> {
    /// Creates a matrix with contiguous rows.
    pub(crate) fn new(data: &'a [f32], rows: usize, cols: usize) -> Self {
        Self::strided(data, rows, cols, cols)
    }

    /// Creates a matrix whose rows start `row_stride` elements apart.
    pub(crate) fn strided(data: &'a [f32], rows: usize, cols: usize, row_stride: usize) -> Self {
        assert!(
            last_index(rows, cols, row_stride) < data.len(),
            "matrix outside its slice"
        );
        Self {
            data,
            rows,
            cols,
            row_stride,
            col_stride: 1,
        }
    }

    /// Returns a transposed view.
    pub(crate) fn t(self) -> Self {
        Self {
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
            ..self
        }
    }
}

/// A writable matrix in a slice.
pub(crate) struct MatMut<'a> {
    data: &'a mut [f32],
    rows: usize,
    cols: usize,
    row_stride: usize,
}

impl<'a> MatMut<'a> {
    /// Creates a matrix with contiguous rows.
    pub(crate) fn new(data: &'a mut [f32], rows: usize, cols: usize) -> Self {
        Self::strided(data, rows, cols, cols)
    }

    /// Creates a matrix whose rows start `row_stride` elements apart.
    pub(crate) fn strided(
        data: &'a mut [f32],
        rows: usize,
        cols: usize,
        row_stride: usize,
    ) -> Self {
        assert!(
            last_index(rows, cols, row_stride) < data.len(),
            "matrix outside its slice"
        );
        assert!(
            row_stride >= cols,
            "rows of an output must not share elements"
        );
        Self {
            data,
            rows,
            cols,
            row_stride,
        }
    }
}

/// Returns the highest index of a matrix's elements.
fn last_index(rows: usize, cols: usize, row_stride: usize) -> usize {
    assert!(rows > 0 && cols > 0, "empty matrix");
    (rows - 1)
        .checked_mul(row_stride)
        .and_then(|start| start.checked_add(cols - 1))
        .unwrap_or(usize::MAX)
}

/// Computes `out = scale * a @ b`.
///
/// If `accumulate` is set, the product is added to `out` instead.
///
/// # Panics
/// If the shapes do not match.
pub(crate) fn matmul(
    out: MatMut<'_>,
    a: Mat<'_>,
    b: Mat<'_>,
    scale: f32,
    accumulate: bool,
    threads: Threads,
) {
    check_shapes(&out, a, b);
    let parallelism = match threads {
        Threads::One => gemm::Parallelism::None,
        Threads::All => match rayon::current_num_threads() {
            1 => gemm::Parallelism::None,
            n => gemm::Parallelism::Rayon(n),
        },
    };
    // SAFETY: each pointer is the start of a slice that holds all elements of its
    // matrix. The views checked this on construction, and a transpose has the same
    // elements. `out` is borrowed mutably, so it overlaps neither input, and its rows
    // are disjoint.
    unsafe {
        gemm::gemm(
            out.rows,
            out.cols,
            a.cols,
            out.data.as_mut_ptr(),
            1,
            out.row_stride as isize,
            accumulate,
            a.data.as_ptr(),
            a.col_stride as isize,
            a.row_stride as isize,
            b.data.as_ptr(),
            b.col_stride as isize,
            b.row_stride as isize,
            1.0,
            scale,
            false,
            false,
            false,
            parallelism,
        );
    }
}

fn check_shapes(out: &MatMut<'_>, a: Mat<'_>, b: Mat<'_>) {
    assert!(
        a.cols == b.rows && out.rows == a.rows && out.cols == b.cols,
        "matmul shapes"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ramp(n: usize) -> Vec<f32> {
        (0..n).map(|i| ((i * 37 + 11) % 23) as f32 - 11.0).collect()
    }

    fn naive(a: &[f32], b: &[f32], m: usize, k: usize, n: usize) -> Vec<f32> {
        let mut out = vec![0.0; m * n];
        for i in 0..m {
            for j in 0..n {
                out[i * n + j] = (0..k).map(|l| a[i * k + l] * b[l * n + j]).sum();
            }
        }
        out
    }

    fn transpose(x: &[f32], rows: usize, cols: usize) -> Vec<f32> {
        (0..rows * cols)
            .map(|i| x[(i % rows) * cols + i / rows])
            .collect()
    }

    #[test]
    fn equals_the_definition_plain_transposed_strided_and_accumulated() {
        let (m, k, n) = (7, 13, 5);
        let (a, b) = (ramp(m * k), ramp(k * n));
        let expected = naive(&a, &b, m, k, n);
        for threads in [Threads::All, Threads::One] {
            let mut out = vec![f32::NAN; m * n];
            matmul(
                MatMut::new(&mut out, m, n),
                Mat::new(&a, m, k),
                Mat::new(&b, k, n),
                1.0,
                false,
                threads,
            );
            assert_eq!(out, expected);

            let bt = transpose(&b, k, n);
            matmul(
                MatMut::new(&mut out, m, n),
                Mat::new(&a, m, k),
                Mat::new(&bt, n, k).t(),
                2.0,
                true,
                threads,
            );
            let thrice: Vec<f32> = expected.iter().map(|x| 3.0 * x).collect();
            assert_eq!(out, thrice);

            let mut wide = vec![-1.0; m * 9];
            matmul(
                MatMut::strided(&mut wide, m, n, 9),
                Mat::new(&a, m, k),
                Mat::new(&b, k, n),
                1.0,
                false,
                threads,
            );
            for i in 0..m {
                assert_eq!(wide[i * 9..i * 9 + n], expected[i * n..(i + 1) * n]);
                assert!(wide[i * 9 + n..(i + 1) * 9].iter().all(|&x| x == -1.0));
            }
        }
    }

    #[test]
    #[should_panic(expected = "outside its slice")]
    fn refuses_a_view_past_its_slice() {
        let _ = Mat::strided(&[0.0; 10], 3, 4, 4);
    }

    #[test]
    #[should_panic(expected = "matmul shapes")]
    fn refuses_shapes_that_do_not_fit() {
        let mut out = [0.0; 4];
        let x = [0.0; 6];
        matmul(
            MatMut::new(&mut out, 2, 2),
            Mat::new(&x, 2, 3),
            Mat::new(&x, 2, 3),
            1.0,
            false,
            Threads::One,
        );
    }
}
