//! Reads training data as documents: CSV files in the layouts of the Python client,
//! JSON Lines, Parquet, folders of images, and documents that a program creates.
//!
//! The crate validates data and has no network code. The client uploads what it
//! reads.
//!
//! | columns | meaning |
//! | --- | --- |
//! | item, label | items with the same label are positives of each other |
//! | query, document | a positive pair |
//! | text, image (either order) | a text-image pair, for CLIP |
//! | item, item, score | a pair and its similarity |
//! | anchor, positive, negatives | one or more negatives, with or without scores |
//! | any (for `synthesize`) | every cell is a text |
//!
//! Every pass over the documents reads the file from its start: one pass validates
//! them, and each upload attempt is another. Only a few rows are in memory at a time.
//! `table::Table` reads rows, `roles` assigns a role to each column, and `documents`
//! converts rows to documents. Pairs also keep 24 bytes for each distinct item.

#![cfg_attr(docsrs, feature(doc_cfg))]

mod check;
mod columns;
mod csv;
mod dataset;
mod documents;
mod error;
mod files;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
mod input;
mod json_lines;
mod labels;
mod layout;
mod mesh;
mod named_table;
mod options;
#[cfg(feature = "parquet")]
mod parquet;
mod problems;
mod roles;
mod selection;
mod source;
mod table;
mod uri;

pub use columns::Columns;
pub use csv::{Csv, CsvOptions, Dialect, FirstRow};
pub use dataset::Dataset;
pub use error::Error;
pub use labels::Labels;
pub use layout::Layout;
pub use mesh::points_of;
pub use problems::{MAX_PROBLEMS, Problem, Problems};
pub use source::{Checked, DocumentSource};
