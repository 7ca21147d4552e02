//! Rows and cells, and what a file of them can tell.

use rand::{RngExt, SeedableRng, rngs::StdRng};

use crate::{error::Result, options::Options, problems::Problem, source::Fault};

/// The value of one column of a row.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Cell {
    Text(String),
    /// Several texts or numbers, such as negatives or margins.
    List(Vec<String>),
    /// A picture.
    #[cfg_attr(
        not(feature = "parquet"),
        expect(dead_code, reason = "only Parquet files hold bytes")
    )]
    Bytes(Vec<u8>),
    /// No value: `null`, or an absent key.
    Missing,
    /// A value that no column can use, in words.
    Other(&'static str),
}

impl Cell {
    /// Returns a list of texts and numbers as a cell.
    pub(crate) fn of_list(cells: impl Iterator<Item = Self>) -> Self {
        let texts = cells.map(|cell| match cell {
            Self::Text(text) => Some(text),
            _ => None,
        });
        texts.collect::<Option<_>>().map_or(
            Self::Other("a list with other things than texts and numbers"),
            Self::List,
        )
    }

    /// Returns the text of a text, and an empty one for a missing value.
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

    /// Returns whether the text is a number.
    pub(crate) fn is_number(&self) -> bool {
        let text = self.text().unwrap_or_default().trim().replace(',', ".");
        text.parse().is_ok_and(f64::is_finite)
    }
}

/// A row with the number that errors name: the line of a text file.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Row {
    pub(crate) number: u64,
    pub(crate) cells: Vec<Cell>,
}

pub(crate) type Rows = Box<dyn Iterator<Item = Result<Row, Fault>> + Send>;

/// A file of rows that can be read from its start any number of times.
pub(crate) trait Table: Send + Sync {
    /// Returns the file's name, or its substitute in errors.
    fn name(&self) -> &str;

    fn options(&self) -> &Options;

    /// Returns the names of the columns, if the file has names.
    fn names(&self) -> Option<&[String]>;

    /// The first rows.
    fn sample(&self) -> &[Row];

    /// Reads the rows from the start.
    fn rows(&self) -> Result<Rows>;

    /// Returns the delimiter of columns, if there is one.
    fn delimiter(&self) -> Option<char> {
        None
    }

    /// Returns a column's name for messages.
    fn column(&self, column: usize) -> String {
        match self.names().and_then(|names| names.get(column)) {
            Some(name) => format!("column `{}`", finetuner_protocol::text::start_of(name)),
            None => format!("column {}", column + 1),
        }
    }
}

/// The rows of a file that the options select.
pub(crate) struct Wanted<I> {
    rows: I,
    draw: Option<(f64, StdRng)>,
    left: u64,
}

impl<I> Wanted<I> {
    /// `seed` decides which rows are drawn: the same ones each time.
    pub(crate) fn new(rows: I, options: &Options, seed: u64) -> Self {
        let rate = options.sampling_rate;
        Self {
            rows,
            draw: rate.map(|rate| (rate, StdRng::seed_from_u64(seed))),
            left: options.size.unwrap_or(u64::MAX),
        }
    }
}

impl<I: Iterator<Item = Result<Row, Fault>>> Iterator for Wanted<I> {
    type Item = Result<Row, Fault>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.left > 0 {
            let row = self.rows.next()?;
            if let Some((rate, random)) = &mut self.draw
                && random.random::<f64>() >= *rate
            {
                continue;
            }
            self.left -= 1;
            return Some(row);
        }
        None
    }
}

/// Returns the error for a row that can't be used.
pub(crate) fn row(number: u64, reason: impl Into<String>) -> Fault {
    let reason = reason.into();
    Fault::Row(Problem { number, reason })
}
