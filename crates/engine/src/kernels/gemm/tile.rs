//! Sizes of tiles and panels of packed products.

/// Columns of a panel.
pub(crate) const COLS: usize = 32;

/// Maximum rows of a tile for vector instructions.
pub(crate) const ROWS: usize = 12;

/// Maximum rows of a tile.
pub(super) const MAX_ROWS: usize = 32;

/// Sums of a tile, row by row.
pub(super) type Tile = [f32; MAX_ROWS * COLS];

/// Neighbours along the inner dimension that one 8-bit instruction multiplies.
pub(super) const GROUP: usize = 4;

/// One group for each column of a panel.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Line(pub(super) [[i8; GROUP]; COLS]);

/// Exact sums of a tile of 8-bit products.
pub(super) type Sums = [i32; MAX_ROWS * COLS];
