//! Counts columns, and the numbers in a column.

use crate::table::Row;

/// Returns whether at least `share` of a column's cells are numbers, from 0 to 1.
pub(super) fn is_numeric(sample: &[Row], column: usize, share: f64) -> bool {
    let cells = || sample.iter().filter_map(|row| row.cells.get(column));
    let numbers = cells().filter(|cell| cell.is_number()).count();
    numbers > 0 && numbers as f64 >= cells().count() as f64 * share
}

/// Returns a number of columns in words: `1 column`, `2 columns`.
pub(crate) fn column_count_text(count: usize) -> String {
    format!("{count} column{}", if count == 1 { "" } else { "s" })
}

/// Returns the number of columns without the empty ones at the end.
pub(crate) fn count_filled_columns(row: &Row) -> usize {
    let last = row.cells.iter().rposition(|cell| !cell.is_empty());
    last.map_or(0, |last| last + 1)
}
