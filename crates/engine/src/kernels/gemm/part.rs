//! A result that several tasks write to, each its own part.

use std::marker::PhantomData;

/// Some rows and columns of a matrix, which nothing else can reach.
pub(crate) struct Part<'a> {
    start: *mut f32,
    rows: usize,
    columns: usize,
    /// From one row to the next.
    stride: usize,
    matrix: PhantomData<&'a mut [f32]>,
}

// SAFETY: a part is a mutable borrow of its elements, as `&mut [f32]` is.
unsafe impl Send for Part<'_> {}

impl<'a> Part<'a> {
    /// A whole matrix whose rows have `columns` elements and no gaps.
    pub(crate) fn new(matrix: &'a mut [f32], columns: usize) -> Self {
        Self {
            start: matrix.as_mut_ptr(),
            rows: matrix.len() / columns,
            columns,
            stride: columns,
            matrix: PhantomData,
        }
    }

    /// Takes the first `rows` rows, or all where there are fewer.
    pub(crate) fn take_rows(&mut self, rows: usize) -> Self {
        let rows = rows.min(self.rows);
        let taken = Self { rows, ..*self };
        self.start = self.start.wrapping_add(rows * self.stride);
        self.rows -= rows;
        taken
    }

    /// Takes the first `columns` columns, or all where there are fewer.
    pub(crate) fn take_columns(&mut self, columns: usize) -> Self {
        let columns = columns.min(self.columns);
        let taken = Self { columns, ..*self };
        self.start = self.start.wrapping_add(columns);
        self.columns -= columns;
        taken
    }

    /// Writes neighbours of a row.
    ///
    /// # Panics
    /// Where they lie outside of this part.
    #[inline]
    pub(crate) fn write(&mut self, row: usize, column: usize, values: &[f32]) {
        assert!(
            row < self.rows
                && values.len() <= self.columns
                && column <= self.columns - values.len(),
            "outside the result"
        );
        // SAFETY: `row` and the columns lie inside this part, and so inside the
        // matrix, which is borrowed mutably for as long as its parts live. Parts
        // have no element in common: one is only taken out of another, which
        // keeps the rest.
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
    fn a_part_refuses_its_neighbours_elements() {
        let mut matrix = [0.0; 8];
        Part::new(&mut matrix, 4)
            .take_columns(2)
            .write(0, 1, &[1.0, 2.0]);
    }
}
