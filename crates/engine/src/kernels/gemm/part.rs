//! An output matrix that several tasks write to, each to its own part.

use std::marker::PhantomData;

/// Exclusive access to some rows and columns of a matrix.
pub(crate) struct Part<'a> {
    start: *mut f32,
    rows: usize,
    columns: usize,
    /// Elements from one row to the next.
    stride: usize,
    matrix: PhantomData<&'a mut [f32]>,
}

// SAFETY: a part is a mutable borrow of its elements, like `&mut [f32]`.
unsafe impl Send for Part<'_> {}

impl<'a> Part<'a> {
    /// Creates the part of a whole contiguous matrix with `columns` columns.
    pub(crate) fn new(matrix: &'a mut [f32], columns: usize) -> Self {
        Self {
            start: matrix.as_mut_ptr(),
            rows: matrix.len() / columns,
            columns,
            stride: columns,
            matrix: PhantomData,
        }
    }

    /// Splits off the first `rows` rows, or all if there are fewer.
    pub(crate) fn take_rows(&mut self, rows: usize) -> Self {
        let rows = rows.min(self.rows);
        let taken = Self { rows, ..*self };
        self.start = self.start.wrapping_add(rows * self.stride);
        self.rows -= rows;
        taken
    }

    /// Splits off the first `columns` columns, or all if there are fewer.
    pub(crate) fn take_columns(&mut self, columns: usize) -> Self {
        let columns = columns.min(self.columns);
        let taken = Self { columns, ..*self };
        self.start = self.start.wrapping_add(columns);
        self.columns -= columns;
        taken
    }

    /// Writes consecutive elements of a row.
    ///
    /// # Panics
    /// If they are outside of this part.
    #[inline]
    pub(crate) fn write(&mut self, row: usize, column: usize, values: &[f32]) {
        assert!(
            row < self.rows
                && values.len() <= self.columns
                && column <= self.columns - values.len(),
            "outside the result"
        );
        // SAFETY: `row` and the columns are inside this part and so inside the matrix,
        // which is borrowed mutably while its parts live. Parts are disjoint, since a
        // part is split off from another one that keeps the rest.
        unsafe {
            let to = self.start.add(row * self.stride + column);
            std::ptr::copy_nonoverlapping(values.as_ptr(), to, values.len());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_write_their_own_elements() {
        let mut matrix = [0.0; 5 * 4];
        let mut rest = Part::new(&mut matrix, 4);
        let mut top = rest.take_rows(2);
        let mut left = top.take_columns(3);
        left.write(1, 1, &[1.0, 2.0]);
        top.write(0, 0, &[3.0]);
        let mut below = rest.take_rows(9);
        below.write(2, 0, &[4.0, 5.0, 6.0, 7.0]);
        let mut expected = [0.0; 20];
        expected[5..7].copy_from_slice(&[1.0, 2.0]);
        expected[3] = 3.0;
        expected[16..].copy_from_slice(&[4.0, 5.0, 6.0, 7.0]);
        assert_eq!(matrix, expected);
    }

    #[test]
    #[should_panic(expected = "outside the result")]
    fn a_part_rejects_elements_of_its_neighbour() {
        let mut matrix = [0.0; 8];
        Part::new(&mut matrix, 4)
            .take_columns(2)
            .write(0, 1, &[1.0, 2.0]);
    }
}
