//! Delimiters and quotes, and how to guess them.

use std::collections::BTreeMap;

use super::{records::Records, rules::Rules};

/// Delimiter and quotes of a CSV file. The names are those of Python's `csv`.
///
/// ```no_run
/// use finetuner::{CsvOptions, Dialect};
///
/// let options = CsvOptions::new().dialect(Dialect::ExcelTab);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Dialect {
    /// Guessed from the first rows, among commas, tabs, semicolons and bars: the
    /// delimiter of the most consistent and plausible table, or a comma if none fits.
    /// The log names it. A first line such as `sep=;` decides.
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
        /// The delimiter between two columns.
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

/// The rules that give the most consistent and plausible table of the first rows.
///
/// A table is consistent if most rows have as many columns, and more than one. A
/// delimiter is implausible where it stands as in texts and numbers: a comma or
/// semicolon before a space, a comma between two digits. Half of Europe writes
/// semicolons between columns and commas in numbers. Columns of numbers make a
/// table more plausible.
fn guess(sample: &str) -> Guess {
    let scored = |delimiter| {
        let rules = rules_of(sample, delimiter);
        (rules, score(sample, rules))
    };
    // A tab stands in no text, so it comes first.
    let found: Vec<(Rules, f64)> = [b'\t', b',', b';', b'|']
        .into_iter()
        .map(scored)
        .filter(|(_, score)| *score > 0.0)
        .collect();
    let best = found.iter().map(|(_, score)| *score).fold(0.0, f64::max);
    let near = |score: f64| score >= best * (1.0 - 1e-9);
    let mut winners = found.iter().filter(|(_, score)| near(*score));
    let Some((rules, _)) = winners.next() else {
        return Guess {
            rules: COMMAS,
            rival: None,
        };
    };
    let rival = winners.next().filter(|_| rules.delimiter != b'\t');
    Guess {
        rules: *rules,
        rival: rival.map(|(rules, _)| rules.delimiter),
    }
}

/// How consistent and plausible the table is that the rules give; 0 where it is
/// none.
fn score(sample: &str, rules: Rules) -> f64 {
    // A quote that was cut off ends the sample.
    let rows: Vec<Vec<String>> = Records::new(sample.chars().map(Ok), rules)
        .map_while(Result::ok)
        .map(|record| record.cells)
        .collect();
    let mut counts: BTreeMap<usize, usize> = BTreeMap::new();
    for row in &rows {
        *counts.entry(row.len()).or_default() += 1;
    }
    let most = counts.iter().max_by_key(|(_, count)| **count);
    let Some((width, count)) = most.filter(|(width, _)| **width > 1) else {
        return 0.0;
    };
    let consistent = *count as f64 / rows.len() as f64;
    if consistent <= 0.5 {
        return 0.0;
    }
    let is_number = |cell: &String| cell.trim().replace(',', ".").parse::<f64>().is_ok();
    let usual = || rows.iter().filter(|row| row.len() == *width);
    let numeric = |column: &usize| usual().all(|row| is_number(&row[*column]));
    let numbers = (0..*width).filter(numeric).count();
    let plausible = 1.0 + numbers as f64 / *width as f64;
    consistent * (1.0 - in_texts(sample, rules)) * plausible
}

/// The rules for a delimiter.
fn rules_of(sample: &str, delimiter: u8) -> Rules {
    let single = quoted_by(sample, delimiter, b'\'');
    let quote = if single { b'\'' } else { b'"' };
    Rules {
        delimiter,
        quote,
        skip_initial_space: quoted_behind_space(sample, delimiter, quote),
        ..COMMAS
    }
}

/// The part of the delimiters that stand where they stand in texts and numbers.
fn in_texts(sample: &str, rules: Rules) -> f64 {
    if rules.skip_initial_space {
        return 0.0;
    }
    let (delimiter, quote) = (char::from(rules.delimiter), char::from(rules.quote));
    let (mut all, mut textual) = (0u32, 0u32);
    let mut quoted = false;
    let mut before = '\n';
    let mut chars = sample.chars().peekable();
    while let Some(c) = chars.next() {
        quoted ^= c == quote;
        if c == delimiter && !quoted {
            let behind = chars.peek().copied().unwrap_or('\n');
            let in_number = c == ',' && before.is_ascii_digit() && behind.is_ascii_digit();
            all += 1;
            textual += u32::from(behind == ' ' || in_number);
        }
        before = c;
    }
    f64::from(textual) / f64::from(all.max(1))
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
    fn a_few_rows_of_another_width_do_not_hide_the_delimiter() {
        let rows = "a;b, c\nd, e;f\ng;h\n".repeat(5);
        assert_eq!(guessed(&format!("{rows}only one\n")), (';', '"'));
        assert_eq!(
            guessed(&format!("title\ttext\n{rows}").replace(';', "\t")),
            ('\t', '"')
        );
        // A text with several commas, without a space behind each.
        assert_eq!(guessed("red,blue|a, b\nred|c,d\ngreen|e\n"), ('|', '"'));
        // Numbers in a column of their own.
        let scores = "rot,blau;0,5\ngelb,rot;0,75\n";
        let Guess { rules, rival } = Dialect::Auto.rules(scores);
        assert_eq!((rules.delimiter, rival), (b';', None));
        let points = "red,blue;0.5\nblack,red;0.75\n";
        let Guess { rules, rival } = Dialect::Auto.rules(points);
        assert_eq!((rules.delimiter, rival), (b';', None));
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
