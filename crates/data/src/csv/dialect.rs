//! The dialect of a CSV file: delimiters and quotes.

use super::{
    guess::{Guess, guess},
    rules::{COMMAS, Rules},
};

/// Delimiter and quotes of a CSV file. The names are from Python's `csv` module.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Dialect {
    /// Detects the dialect from the first rows and logs it.
    ///
    /// The delimiter is the comma, tab, semicolon or bar that gives the most consistent
    /// and plausible table, or a comma if none fits. A first line such as `sep=;`
    /// overrides it.
    #[default]
    Auto,
    /// Commas, with quotes where they are needed.
    Excel,
    /// Tabs, with quotes where they are needed.
    ExcelTab,
    /// Commas, with quotes around every cell.
    Unix,
    /// Other characters.
    Custom {
        /// The delimiter between two columns.
        delimiter: u8,
        /// The character around a cell that contains delimiters or line ends.
        quote: u8,
        /// The character before a quote or delimiter that is part of a cell. If `None`,
        /// a quote within quotes is written twice.
        escape: Option<u8>,
        /// Whether spaces after a delimiter are ignored.
        skip_initial_space: bool,
    },
}

impl Dialect {
    /// Returns the rules of this dialect for a file that begins with `sample`.
    pub(super) fn rules(self, sample: &str) -> Guess {
        let rules = match self {
            Self::Auto => return guess(sample),
            Self::Excel | Self::Unix => COMMAS,
            Self::ExcelTab => Rules {
                delimiter: b'\t',
                ..COMMAS
            },
            Self::Custom {
                delimiter,
                quote,
                escape,
                skip_initial_space,
            } => Rules {
                delimiter,
                quote,
                escape,
                skip_initial_space,
            },
        };
        Guess { rules, rival: None }
    }
}
