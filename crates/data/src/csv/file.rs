//! CSV files and CSV texts.

use std::{io::Read, path::PathBuf};

use super::{options::CsvOptions, read::CsvTable};
use crate::{
    documents, error::Result, input::Input, layout::Layout, source::DocumentSource, table::Table,
};

/// Name of input without a file in errors.
const UNNAMED: &str = "the CSV text";

/// A CSV file or CSV text.
///
/// A row that can't be used is an error with its line, and so is a quote that is not
/// closed in its row. Warnings about doubtful contents go to `tracing`: a first row that
/// looks like a header, a second possible delimiter, or labels with spaces around them.
///
/// Images and meshes that rows name by a local path are uploaded with the data. Before
/// you push a file that someone else wrote, check the paths in it.
///
/// ```no_run
/// # async fn example(finetuner: finetuner::Finetuner) -> finetuner::Result<()> {
/// use finetuner::{Csv, CsvOptions, Loss};
///
/// let train_data = Csv::path("train.csv").options(CsvOptions::new().base_folder("pictures"));
/// let run = finetuner.fit("clip-base-en", train_data).loss(Loss::Clip).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Csv {
    input: Input,
    options: CsvOptions,
}

impl Csv {
    /// Reads a file.
    pub fn path(path: impl Into<PathBuf>) -> Self {
        Self {
            input: Input::Path(path.into()),
            options: CsvOptions::default(),
        }
    }

    /// Reads text from a reader, which is read into memory at once.
    ///
    /// # Errors
    /// Returns an error if reading fails.
    pub fn reader(reader: impl Read) -> Result<Self> {
        Ok(Self {
            input: Input::read(reader, "the CSV reader")?,
            options: CsvOptions::default(),
        })
    }

    /// Reads a text.
    #[must_use]
    pub fn text(text: impl AsRef<str>) -> Self {
        Self {
            input: Input::Bytes(text.as_ref().as_bytes().into()),
            options: CsvOptions::default(),
        }
    }

    /// Sets the options for reading.
    #[must_use]
    pub fn options(mut self, options: CsvOptions) -> Self {
        self.options = options;
        self
    }

    #[doc(hidden)]
    #[must_use]
    pub fn has_default_options(&self) -> bool {
        self.options == CsvOptions::default()
    }

    #[doc(hidden)]
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        // Random samples differ, so data with a sampling rate is never the same.
        let is_sampled = self.options.common.sampling_rate.is_some();
        self.input.is_same(&other.input) && self.options == other.options && !is_sampled
    }

    /// Returns the documents for a layout. Blocks.
    ///
    /// Each iteration over the documents reads the file again.
    ///
    /// # Errors
    /// Returns an error if the file can't be read or its columns can't be used.
    pub fn documents(self, layout: Layout) -> Result<DocumentSource> {
        documents::documents(self.table()?, &layout)
    }

    /// Opens the file and detects how to read it.
    pub(crate) fn table(mut self) -> Result<Box<dyn Table>> {
        self.input = self.input.repeatable()?;
        let name = self.input.name(UNNAMED);
        Ok(Box::new(CsvTable::new(self.input, self.options, name)?))
    }
}
