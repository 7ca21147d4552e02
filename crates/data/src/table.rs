//! Rows and cells, and the trait that files of rows implement.

use finetuner_protocol::text::start_of;

use crate::{error::Result, options::Options, problems::Problem, source::Fault};

/// The value of one column of a row.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Cell {
    Text(String),
    /// Several texts or numbers, such as negatives or margins.
    List(Vec<String>),
    /// The content of an image.
    #[cfg_attr(
        not(feature = "parquet"),
        expect(dead_code, reason = "only Parquet files hold bytes")
    )]
    Bytes(Vec<u8>),
    /// No value: `null`, or an absent key.
    Missing,
    /// A value of an unsupported type. The text names the type, for errors.
    Other(&'static str),
}

impl Cell {
    /// Creates a list cell, or `Other` if an element is not a text or number.
    pub(crate) fn of_list(cells: impl Iterator<Item = Self>) -> Self {
        let texts = cells.map(|cell| match cell {
            Self::Text(text) => Some(text),
            _ => None,
        });
        texts.collect::<Option<_>>().map_or(
            Self::Other("a list with values that are not texts or numbers"),
            Self::List,
        )
    }

    /// Returns the text of a text cell, and an empty text for a missing value.
    pub(crate) fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Missing => Some(""),
            _ => None,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.text().is_some_and(str::is_empty)
    }

    /// Returns whether the cell is a finite number, with a decimal point or comma.
    pub(crate) fn is_number(&self) -> bool {
        let text = self.text().unwrap_or_default().trim().replace(',', ".");
        text.parse().is_ok_and(f64::is_finite)
    }
}

/// A row and its number for errors.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Row {
    /// The line in a text file, or the row in a Parquet file. Counted from 1.
    pub(crate) number: u64,
    pub(crate) cells: Vec<Cell>,
}

pub(crate) type Rows = Box<dyn Iterator<Item = Result<Row, Fault>> + Send>;

/// A file of rows that can be read repeatedly.
pub(crate) trait Table: Send + Sync {
    /// Returns the name of the file in messages.
    fn name(&self) -> &str;

    fn options(&self) -> &Options;

    /// Returns the names of the columns, if they have any.
    fn names(&self) -> Option<&[String]>;

    /// Returns the first rows, from which the roles of columns are detected.
    fn sample(&self) -> &[Row];

    /// Reads the selected rows from the start of the file.
    fn rows(&self) -> Result<Rows>;

    /// Returns the delimiter between columns of a CSV file; `None` for other formats.
    fn delimiter(&self) -> Option<char> {
        None
    }

    /// Returns the description of a column in messages.
    fn column(&self, column: usize) -> String {
        match self.names().and_then(|names| names.get(column)) {
            Some(name) => format!("column `{}`", start_of(name)),
            None => format!("column {}", column + 1),
        }
    }
}

/// Creates the fault of a row that can't be used.
pub(crate) fn row_fault(number: u64, reason: impl Into<String>) -> Fault {
    let reason = reason.into();
    Fault::Row(Problem { number, reason })
}
