//! Reads training data: CSV in the layouts of the Python client, JSON Lines,
//! Parquet, folders of pictures, and a program's own documents.
//!
//! Nothing here knows HTTP. The client reads files with this crate before it sends
//! them, the server reads files that a browser has sent.
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

#![cfg_attr(docsrs, feature(doc_cfg))]

mod check;
mod columns;
mod csv;
mod dataset;
mod documents;
mod error;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
mod input;
mod json_lines;
mod labels;
mod mesh;
mod options;
#[cfg(feature = "parquet")]
mod parquet;
mod problems;
mod roles;
mod source;
mod table;

pub use columns::Columns;
pub use csv::{Csv, CsvOptions, Dialect, FirstRow};
pub use dataset::Dataset;
pub use error::Error;
pub use labels::Labels;
pub use mesh::points_of;
pub use problems::{MAX_PROBLEMS, Problem, Problems};
pub use roles::Layout;
pub use source::{Checked, DocumentSource};
