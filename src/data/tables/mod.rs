//! Files of rows as training data: CSV in the layouts of the Python client, JSON
//! Lines, Parquet, and folders of pictures.
//!
//! | columns | meaning |
//! | --- | --- |
//! | item, label | items of one label are a positive pair |
//! | query, document | both have the same meaning |
//! | text, image (either order) | a pair for CLIP |
//! | item, item, score | how similar the two are |
//! | anchor, match, negatives | one negative or more, with scores or without |
//! | any (for `synthesize`) | every cell is a text |
//!
//! A file is read from its start each time that its documents are needed, once
//! to check them and once for each attempt to send them, with a few rows in
//! memory: `table::Table` reads rows, `roles` decides what their columns hold,
//! `documents` makes documents of them. Pairs keep 24 bytes for each different
//! item.

mod columns;
mod csv;
mod dataset;
mod documents;
mod input;
mod json_lines;
mod mesh;
mod options;
#[cfg(feature = "parquet")]
mod parquet;
mod roles;
mod table;

pub use columns::Columns;
pub use csv::{Csv, CsvOptions, Dialect};
pub use dataset::Dataset;
#[cfg(feature = "local")]
pub(crate) use mesh::points_of;
pub(crate) use roles::Layout;
