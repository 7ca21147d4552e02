//! Checked views of matrices in slices, and their product by the `gemm` crate.

/// Whether a product may use all threads. Inside a parallel loop, it must use one.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Threads {
    All,
    One,
}

/// A read-only matrix in a slice.
#[derive(Clone, Copy)]
pub(crate) struct Mat<'a> {
    pub(super) data: &'a [f32],
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) row_stride: usize,
    pub(super) col_stride: usize,
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
    pub(super) data: &'a mut [f32],
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) row_stride: usize,
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

/// # Panics
/// If the shapes do not match.
pub(super) fn check_shapes(out: &MatMut<'_>, a: Mat<'_>, b: Mat<'_>) {
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
