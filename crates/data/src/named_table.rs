//! A file whose columns have names.

use crate::{
    error::Result,
    options::Options,
    selection::Selected,
    table::{Row, Rows, Table},
};

/// Reads all rows of a file from its start.
type Read = Box<dyn Fn() -> Result<Rows> + Send + Sync>;

/// A file, its columns, and its first rows.
pub(crate) struct NamedTable {
    name: String,
    options: Options,
    names: Vec<String>,
    sample: Vec<Row>,
    read: Read,
    /// Seed of the random sample, so that each pass over the file selects the same rows.
    seed: u64,
}

impl NamedTable {
    /// Creates a table of the columns `names`. `sample` holds the first rows, and `read`
    /// reads all rows from the start of the file.
    pub(crate) fn new(
        name: String,
        options: Options,
        names: Vec<String>,
        sample: Vec<Row>,
        read: impl Fn() -> Result<Rows> + Send + Sync + 'static,
    ) -> Self {
        Self {
            name,
            options,
            names,
            sample,
            read: Box::new(read),
            seed: rand::random(),
        }
    }
}

impl Table for NamedTable {
    fn name(&self) -> &str {
        &self.name
    }

    fn options(&self) -> &Options {
        &self.options
    }

    fn names(&self) -> Option<&[String]> {
        Some(&self.names)
    }

    fn sample(&self) -> &[Row] {
        &self.sample
    }

    fn rows(&self) -> Result<Rows> {
        let rows = (self.read)()?;
        Ok(Box::new(Selected::new(rows, &self.options, self.seed)))
    }
}
