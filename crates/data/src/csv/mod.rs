//! CSV files: encodings, dialects, records.

mod chars;
mod dialect;
mod encoding;
mod file;
mod guess;
mod options;
#[cfg(test)]
mod python;
mod read;
mod records;
mod rows;
mod rules;

pub use dialect::Dialect;
pub use file::Csv;
pub use options::{CsvOptions, FirstRow};
