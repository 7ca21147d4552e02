//! How columns are told apart, and how to guess it.

/// How columns are told apart. The names are those of Python's `csv`.
///
/// ```no_run
/// use finetuner::{CsvOptions, Dialect};
///
/// let options = CsvOptions::new().dialect(Dialect::ExcelTab);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Dialect {
    /// Guessed from the first rows, among commas, tabs, semicolons and bars,
    /// with commas where nothing fits.
    #[default]
    Auto,
    /// Commas, and quotes where needed.
    Excel,
    /// Tabs, and quotes where needed.
    ExcelTab,
    /// Commas, and quotes everywhere.
    Unix,
    /// Anything else.
    Custom {
        /// What stands between two columns.
        delimiter: u8,
        /// What stands around a column that holds delimiters or line ends.
        quote: u8,
        /// What stands before a quote inside of quotes; two quotes stand for one
        /// where there is none.
        escape: Option<u8>,
        /// Whether a space behind a delimiter is no part of the column.
        skip_initial_space: bool,
    },
}

/// A dialect that is decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rules {
    pub(super) delimiter: u8,
    pub(super) quote: u8,
    pub(super) escape: Option<u8>,
    pub(super) skip_initial_space: bool,
}

const COMMAS: Rules = Rules {
    delimiter: b',',
    quote: b'"',
    escape: None,
    skip_initial_space: false,
};

/// Characters that are looked at for a guess.
const SAMPLE: usize = 4096;

impl Dialect {
    pub(super) fn rules(self, text: &str) -> Rules {
        match self {
            Self::Auto => guess(text),
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
        }
    }
}

/// The rules under which the first rows have the same number of columns, and
/// more than one.
fn guess(text: &str) -> Rules {
    let sample = sample(text);
    for delimiter in [b',', b'\t', b';', b'|'] {
        for quote in [b'"', b'\''] {
            let rules = Rules {
                delimiter,
                quote: b'"',
                ..COMMAS
            };
            if quote == b'\'' && !quoted_by(sample, delimiter, quote) {
                continue;
            }
            let rules = Rules {
                quote,
                skip_initial_space: quoted_behind_space(sample, delimiter, quote),
                ..rules
            };
            if quote == b'"' && quoted_by(sample, delimiter, b'\'') {
                continue;
            }
            if columns(sample, rules).is_some_and(|count| count > 1) {
                return rules;
            }
        }
    }
    COMMAS
}

/// Whole rows from the start.
fn sample(text: &str) -> &str {
    if text.len() <= SAMPLE {
        return text;
    }
    let end = (0..=SAMPLE)
        .rev()
        .find(|i| text.is_char_boundary(*i))
        .unwrap_or(0);
    match text[..end].rfind('\n') {
        Some(end) => &text[..=end],
        None => &text[..end],
    }
}

/// The number of columns that all rows have.
fn columns(text: &str, rules: Rules) -> Option<usize> {
    let mut count = None;
    for row in super::read::records(text, rules) {
        // A quote that was cut off makes one long row at the end.
        let row = row.ok()?;
        match count {
            None => count = Some(row.len()),
            Some(count) if count == row.len() => {}
            Some(_) => return None,
        }
    }
    count
}

/// Whether a row begins with this quote and has it before a delimiter.
fn quoted_by(text: &str, delimiter: u8, quote: u8) -> bool {
    let (delimiter, quote) = (delimiter as char, quote as char);
    let before = format!("{quote}{delimiter}");
    let behind = format!("{delimiter}{quote}");
    text.lines()
        .filter(|line| !line.is_empty())
        .all(|line| (line.starts_with(quote) && line.contains(&before)) || line.contains(&behind))
        && text.contains(quote)
}

fn quoted_behind_space(text: &str, delimiter: u8, quote: u8) -> bool {
    text.contains(&format!("{} {}", delimiter as char, quote as char))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guessed(text: &str) -> (char, char) {
        let rules = Dialect::Auto.rules(text);
        (rules.delimiter as char, rules.quote as char)
    }

    #[test]
    fn columns_are_told_apart_as_they_are() {
        assert_eq!(guessed("a b,c\nd,e f\n"), (',', '"'));
        assert_eq!(guessed("a, b\tc\nd\te\n"), ('\t', '"'));
        assert_eq!(guessed("a;b\nc;d\n"), (';', '"'));
        assert_eq!(guessed("a|b\nc|d\n"), ('|', '"'));
        assert_eq!(guessed("\"a;b\",c\n\"d\",e\n"), (',', '"'));
        assert_eq!(guessed("'a,b','c'\n'd','e'\n"), (',', '\''));
        assert_eq!(guessed("it's,good\nthat's,bad\n"), (',', '"'));
        assert_eq!(
            guessed("one column\nand a text, with a comma\n"),
            (',', '"')
        );
        assert_eq!(guessed(""), (',', '"'));
        assert!(
            Dialect::Auto
                .rules("\"a\", \"b, c\"\n\"d\", \"e\"\n")
                .skip_initial_space
        );
    }

    #[test]
    fn a_long_file_is_judged_by_its_first_whole_rows() {
        let text = "ä;b\n".repeat(5000);
        assert_eq!(guessed(&text), (';', '"'));
        assert!(sample(&text).len() <= SAMPLE && sample(&text).ends_with('\n'));
    }
}
