//! Detection of the dialect of a CSV file.

use std::collections::BTreeMap;

use super::{
    records::Records,
    rules::{COMMAS, Rules},
};

/// The detected rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Guess {
    pub(super) rules: Rules,
    /// Another delimiter that fits equally well.
    pub(super) rival: Option<u8>,
}

/// Returns the delimiter that the first line of a file declares for Excel: `sep=;`.
pub(super) fn declared_delimiter(line: &str) -> Option<u8> {
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

/// Returns the rules that give the most consistent and plausible table.
///
/// A table is consistent if more than half of its rows have the same number of columns,
/// and more than one. It is more plausible if it has columns of numbers. It is less
/// plausible if delimiters are in places that are typical of texts and numbers: before
/// a space, or a comma between two digits. Excel writes semicolons between columns in
/// countries with decimal commas.
pub(super) fn guess(sample: &str) -> Guess {
    let scored = |delimiter| {
        let rules = rules_of(sample, delimiter);
        (rules, score(sample, rules))
    };
    // The tab is first and has no rival, because texts rarely contain tabs.
    let found: Vec<(Rules, f64)> = [b'\t', b',', b';', b'|']
        .into_iter()
        .map(scored)
        .filter(|(_, score)| *score > 0.0)
        .collect();
    let best = found.iter().map(|(_, score)| *score).fold(0.0, f64::max);
    let is_best = |score: f64| score >= best * (1.0 - 1e-9);
    let mut winners = found.iter().filter(|(_, score)| is_best(*score));
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

/// Returns how consistent and plausible the table of these rules is. 0 if it is not
/// consistent.
fn score(sample: &str, rules: Rules) -> f64 {
    // The sample ends at a quote that the cut left open.
    let rows: Vec<Vec<String>> = Records::new(sample.chars().map(Ok), rules)
        .map_while(Result::ok)
        .map(|record| record.cells)
        .collect();
    let mut counts: BTreeMap<usize, usize> = BTreeMap::new();
    for row in &rows {
        *counts.entry(row.len()).or_default() += 1;
    }
    let usual = counts.iter().max_by_key(|(_, count)| **count);
    let Some((width, count)) = usual.filter(|(width, _)| **width > 1) else {
        return 0.0;
    };
    let consistent = *count as f64 / rows.len() as f64;
    if consistent <= 0.5 {
        return 0.0;
    }
    let is_number = |cell: &String| cell.trim().replace(',', ".").parse::<f64>().is_ok();
    let complete = || rows.iter().filter(|row| row.len() == *width);
    let numeric = |column: &usize| complete().all(|row| is_number(&row[*column]));
    let numbers = (0..*width).filter(numeric).count();
    let plausible = 1.0 + numbers as f64 / *width as f64;
    consistent * (1.0 - share_in_texts(sample, rules)) * plausible
}

/// Returns the rules of a delimiter, with the quotes that the sample has.
fn rules_of(sample: &str, delimiter: u8) -> Rules {
    let single = quoted_by(sample, delimiter, b'\'');
    let quote = if single { b'\'' } else { b'"' };
    Rules {
        delimiter,
        quote,
        skip_initial_space: quoted_after_space(sample, delimiter, quote),
        ..COMMAS
    }
}

/// Returns the share of the delimiters in places that are typical of texts and numbers.
fn share_in_texts(sample: &str, rules: Rules) -> f64 {
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
            let after = chars.peek().copied().unwrap_or('\n');
            let in_number = c == ',' && before.is_ascii_digit() && after.is_ascii_digit();
            all += 1;
            textual += u32::from(after == ' ' || in_number);
        }
        before = c;
    }
    f64::from(textual) / f64::from(all.max(1))
}

/// Returns whether every line has a cell in these quotes.
fn quoted_by(text: &str, delimiter: u8, quote: u8) -> bool {
    let (delimiter, quote) = (delimiter as char, quote as char);
    let before = format!("{quote}{delimiter}");
    let after = format!("{delimiter}{quote}");
    text.lines()
        .filter(|line| !line.is_empty())
        .all(|line| (line.starts_with(quote) && line.contains(&before)) || line.contains(&after))
        && text.contains(quote)
}

/// Returns whether a quoted cell follows a delimiter and a space.
fn quoted_after_space(text: &str, delimiter: u8, quote: u8) -> bool {
    text.contains(&format!("{} {}", delimiter as char, quote as char))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guessed(text: &str) -> (char, char) {
        let Guess { rules, .. } = guess(text);
        (rules.delimiter as char, rules.quote as char)
    }

    #[test]
    fn delimiters_and_quotes_are_detected() {
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
            guess("\"a\", \"b, c\"\n\"d\", \"e\"\n")
                .rules
                .skip_initial_space
        );
    }

    #[test]
    fn semicolons_are_delimiters_if_commas_are_decimal() {
        assert_eq!(
            guessed("a dress;a long dress;0,75\r\na shoe;a boot;0,6\r\n"),
            (';', '"')
        );
        assert_eq!(guessed("Kleid, rot;dress\nSchuh, weiß;shoe\n"), (';', '"'));
        assert_eq!(guessed("Kleid; rot,dress\nSchuh; weiß,shoe\n"), (',', '"'));
        assert_eq!(guessed("a, b\tc\nd, e\tf\n"), ('\t', '"'));
        assert_eq!(guessed("a, b\nc, d\n"), (',', '"'));
        let both = guess("a;b,c\nd;e,f\n");
        assert_eq!((both.rules.delimiter, both.rival), (b',', Some(b';')));
        assert_eq!(guess("a,b\n").rival, None);
    }

    #[test]
    fn a_few_rows_of_another_width_do_not_hide_the_delimiter() {
        let rows = "a;b, c\nd, e;f\ng;h\n".repeat(5);
        assert_eq!(guessed(&format!("{rows}only one\n")), (';', '"'));
        assert_eq!(
            guessed(&format!("title\ttext\n{rows}").replace(';', "\t")),
            ('\t', '"')
        );
        // Some commas of these texts have no space after them.
        assert_eq!(guessed("red,blue|a, b\nred|c,d\ngreen|e\n"), ('|', '"'));
        // A column of numbers resolves a tie.
        let scores = "rot,blau;0,5\ngelb,rot;0,75\n";
        let Guess { rules, rival } = guess(scores);
        assert_eq!((rules.delimiter, rival), (b';', None));
        let points = "red,blue;0.5\nblack,red;0.75\n";
        let Guess { rules, rival } = guess(points);
        assert_eq!((rules.delimiter, rival), (b';', None));
    }

    #[test]
    fn the_delimiter_hint_of_excel_is_read() {
        assert_eq!(declared_delimiter("sep=;\r\n"), Some(b';'));
        assert_eq!(declared_delimiter("\"SEP=\t\""), Some(b'\t'));
        for text in ["sep=", "sep=ab", "sep=é", "separate;b", "", "é"] {
            assert_eq!(declared_delimiter(text), None, "{text}");
        }
    }
}
