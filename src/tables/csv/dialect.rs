//! How columns are told apart, and how to guess it.

use super::records::Records;

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
    /// with commas where nothing fits. A first line such as `sep=;` decides.
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

impl Dialect {
    /// Returns the rules for a file that begins with `sample`.
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

/// The rules that fit, and another delimiter that fits as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Guess {
    pub(super) rules: Rules,
    pub(super) rival: Option<u8>,
}

/// The delimiter that the first line of a file names, as Excel reads it:
/// `sep=;`.
pub(super) fn hint(line: &str) -> Option<u8> {
    let line = line.trim_end_matches(['\r', '\n']);
    let line = line
        .strip_prefix('"')
        .and_then(|l| l.strip_suffix('"'))
        .unwrap_or(line);
    let (name, delimiter) = line.split_at_checked(4)?;
    match delimiter.as_bytes() {
        [delimiter] if name.eq_ignore_ascii_case("sep=") && delimiter.is_ascii() => {
            Some(*delimiter)
        }
        _ => None,
    }
}

/// The rules under which the first rows have the same number of columns, and
/// more than one.
///
/// Where several delimiters do, the one that stands in texts and numbers is
/// none: a comma or semicolon before a space, a comma between two digits. Half of
/// Europe writes semicolons between columns and commas in numbers.
fn guess(sample: &str) -> Guess {
    let fits =
        |delimiter| rules_of(sample, delimiter).map(|rules| (rules, in_texts(sample, rules)));
    let found: Vec<(Rules, bool)> = [b',', b'\t', b';', b'|']
        .into_iter()
        .filter_map(fits)
        .collect();
    // A tab stands in no text.
    let tab = found.iter().find(|(rules, _)| rules.delimiter == b'\t');
    let best = tab.or_else(|| found.iter().find(|(_, in_texts)| !in_texts));
    let Some((rules, in_texts)) = best.or(found.first()) else {
        return Guess {
            rules: COMMAS,
            rival: None,
        };
    };
    let rival = found
        .iter()
        .find(|(other, other_in_texts)| other != rules && other_in_texts == in_texts);
    Guess {
        rules: *rules,
        rival: rival
            .filter(|_| tab.is_none())
            .map(|(rules, _)| rules.delimiter),
    }
}

/// The rules for a delimiter, where they fit.
fn rules_of(sample: &str, delimiter: u8) -> Option<Rules> {
    let single = quoted_by(sample, delimiter, b'\'');
    let quote = if single { b'\'' } else { b'"' };
    let rules = Rules {
        delimiter,
        quote,
        skip_initial_space: quoted_behind_space(sample, delimiter, quote),
        ..COMMAS
    };
    columns(sample, rules)
        .is_some_and(|count| count > 1)
        .then_some(rules)
}

/// Whether a delimiter always stands where it stands in texts and numbers.
fn in_texts(sample: &str, rules: Rules) -> bool {
    if rules.skip_initial_space {
        return false;
    }
    let (delimiter, quote) = (char::from(rules.delimiter), char::from(rules.quote));
    let mut quoted = false;
    let mut before = '\n';
    let mut chars = sample.chars().peekable();
    while let Some(c) = chars.next() {
        quoted ^= c == quote;
        if c == delimiter && !quoted {
            let behind = chars.peek().copied().unwrap_or('\n');
            let in_number = c == ',' && before.is_ascii_digit() && behind.is_ascii_digit();
            if behind != ' ' && !in_number {
                return false;
            }
        }
        before = c;
    }
    true
}

/// The number of columns that all rows have.
fn columns(text: &str, rules: Rules) -> Option<usize> {
    let mut count = None;
    // A quote that was cut off ends the sample.
    for row in Records::new(text.chars().map(Ok), rules).map_while(Result::ok) {
        match count {
            None => count = Some(row.cells.len()),
            Some(count) if count == row.cells.len() => {}
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
        let Guess { rules, .. } = Dialect::Auto.rules(text);
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
                .rules
                .skip_initial_space
        );
    }

    #[test]
    fn semicolons_are_not_taken_for_text_where_commas_are_decimal() {
        assert_eq!(
            guessed("a dress;a long dress;0,75\r\na shoe;a boot;0,6\r\n"),
            (';', '"')
        );
        assert_eq!(guessed("Kleid, rot;dress\nSchuh, weiß;shoe\n"), (';', '"'));
        assert_eq!(guessed("Kleid; rot,dress\nSchuh; weiß,shoe\n"), (',', '"'));
        assert_eq!(guessed("a, b\tc\nd, e\tf\n"), ('\t', '"'));
        assert_eq!(guessed("a, b\nc, d\n"), (',', '"'));
        let both = Dialect::Auto.rules("a;b,c\nd;e,f\n");
        assert_eq!((both.rules.delimiter, both.rival), (b',', Some(b';')));
        assert_eq!(Dialect::Auto.rules("a,b\n").rival, None);
    }

    #[test]
    fn excels_hint_is_read() {
        assert_eq!(hint("sep=;\r\n"), Some(b';'));
        assert_eq!(hint("\"SEP=\t\""), Some(b'\t'));
        for text in ["sep=", "sep=ab", "sep=é", "separate;b", "", "é"] {
            assert_eq!(hint(text), None, "{text}");
        }
    }
}
