//! Sizes of the tiles and panels that packed products are made of.

/// Columns of a panel.
pub(crate) const COLS: usize = 32;

/// Rows of a tile, at most, where the vector units compute it.
pub(crate) const ROWS: usize = 12;

/// Rows of a tile, at most.
pub(super) const TALLEST: usize = 32;

/// The sums of a tile, row by row.
pub(super) type Tile = [f32; TALLEST * COLS];

/// Neighbours along the inner dimension that are multiplied at once.
pub(super) const GROUP: usize = 4;

/// A group of each column of a panel.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Line(pub(super) [[i8; GROUP]; COLS]);

/// The exact sums of a tile of 8-bit numbers.
pub(super) type Sums = [i32; TALLEST * COLS];
