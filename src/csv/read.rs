//! From bytes to rows: the encoding, the byte order mark, the dialect, the
//! header, the draw.

use csv::{ReaderBuilder, StringRecord};
use encoding_rs::Encoding;

use super::{CsvOptions, dialect::Rules};
use crate::{Error, Result, data::Problems};

/// A row, and where it stands in the file, counted from 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) number: u64,
    pub(super) cells: Vec<String>,
}

/// All rows that are wanted.
pub(super) fn rows(name: &str, bytes: &[u8], options: &CsvOptions) -> Result<Vec<Row>> {
    if let Some(rate) = options.sampling_rate
        && !(0.0..=1.0).contains(&rate)
    {
        return Err(Error::setup(format!(
            "`sampling_rate` is {rate}: from 0 to 1 is allowed"
        )));
    }
    let text = decode(name, bytes, &options.encoding)?;
    let rules = options.dialect.rules(&text);
    let mut problems = Problems::new(name);
    let mut rows = Vec::new();
    let mut header = options.header.as_ref();
    for record in records(&text, rules) {
        let record = record.map_err(|e| Error::setup(format!("{name}: {e}")))?;
        let number = record.position().map_or(0, csv::Position::line);
        let cells: Vec<String> = record.iter().map(str::to_owned).collect();
        if let Some(names) = header.take() {
            if *names != cells {
                let (found, wanted) = (cells.join(", "), names.join(", "));
                problems.add(number, format!("the header is `{found}`, not `{wanted}`"));
            }
            continue;
        }
        if options
            .sampling_rate
            .is_some_and(|rate| rand::random::<f64>() >= rate)
        {
            continue;
        }
        if options.size.is_some_and(|size| rows.len() >= size) {
            break;
        }
        rows.push(Row { number, cells });
    }
    problems.into_result()?;
    if rows.is_empty() {
        let mut problems = Problems::new(name);
        problems.add(0, "CSV file not exist or is empty: there are no rows in it");
        problems.into_result()?;
    }
    Ok(rows)
}

/// The rows of a text. Empty lines are none.
pub(super) fn records(
    text: &str,
    rules: Rules,
) -> impl Iterator<Item = Result<StringRecord, csv::Error>> {
    let text = if rules.skip_initial_space {
        without_initial_spaces(text, rules)
    } else {
        text.to_owned()
    };
    ReaderBuilder::new()
        .has_headers(false)
        .flexible(true)
        .delimiter(rules.delimiter)
        .quote(rules.quote)
        .double_quote(rules.escape.is_none())
        .escape(rules.escape)
        .from_reader(std::io::Cursor::new(text))
        .into_records()
}

/// Takes away the spaces behind delimiters, outside of quotes.
fn without_initial_spaces(text: &str, rules: Rules) -> String {
    let (delimiter, quote) = (rules.delimiter as char, rules.quote as char);
    let mut out = String::with_capacity(text.len());
    let (mut quoted, mut at_start) = (false, true);
    for c in text.chars() {
        if at_start && c == ' ' {
            continue;
        }
        if c == quote {
            quoted = !quoted;
        }
        at_start = !quoted && (c == delimiter || c == '\n');
        out.push(c);
    }
    out
}

fn decode(name: &str, bytes: &[u8], encoding: &str) -> Result<String> {
    // Python's names, as the web spells them.
    let label = encoding.trim().to_ascii_lowercase().replace('_', "-");
    let label = match label.as_str() {
        "latin-1" | "latin" | "iso8859-1" => "latin1",
        "utf-8-sig" | "utf8" => "utf-8",
        "utf-32" => "unsupported",
        other => other,
    };
    let known = Encoding::for_label(label.as_bytes()).ok_or_else(|| {
        Error::setup(format!(
            "`encoding` is `{encoding}`: utf-8, utf-16, latin-1 and the other encodings of the \
             web are known"
        ))
    })?;
    let (text, used, broken) = known.decode(bytes);
    if broken {
        let line = text[..text.find('\u{fffd}').unwrap_or(0)]
            .matches('\n')
            .count()
            + 1;
        let mut problems = Problems::new(name);
        problems.add(
            line as u64,
            format!(
                "it is not {}: say what it is with `CsvOptions::encoding`, such as `latin-1`",
                used.name()
            ),
        );
        problems.into_result()?;
    }
    Ok(text.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Dialect;

    fn read(bytes: &[u8], options: &CsvOptions) -> Vec<Vec<String>> {
        let rows = rows("x.csv", bytes, options).unwrap();
        rows.into_iter().map(|row| row.cells).collect()
    }

    #[test]
    fn every_common_encoding_and_line_end_gives_the_same_rows() {
        let text = "größe,€ 5\r\nb,\"c, d\"\r\n";
        let rows = [["größe", "€ 5"], ["b", "c, d"]];
        let utf16 = |to: fn(u16) -> [u8; 2], mark: [u8; 2]| {
            let units = text.encode_utf16().flat_map(to);
            mark.into_iter().chain(units).collect::<Vec<u8>>()
        };
        let options = CsvOptions::new();
        let with_mark = [b"\xef\xbb\xbf", text.as_bytes()].concat();
        assert_eq!(read(text.as_bytes(), &options), rows);
        assert_eq!(read(text.replace('\r', "").as_bytes(), &options), rows);
        assert_eq!(read(&with_mark, &options), rows);
        assert_eq!(read(&utf16(u16::to_le_bytes, [0xff, 0xfe]), &options), rows);
        assert_eq!(read(&utf16(u16::to_be_bytes, [0xfe, 0xff]), &options), rows);
        let latin = b"gr\xf6\xdfe,b\n";
        let options = CsvOptions::new().encoding("latin-1");
        assert_eq!(read(latin, &options), [["größe", "b"]]);
    }

    #[test]
    fn a_wrong_encoding_is_told_with_its_line() {
        let error = rows("x.csv", b"a,b\ngr\xf6\xdfe,b\n", &CsvOptions::new()).unwrap_err();
        assert!(error.is_data(), "{error}");
        assert_eq!(error.problems().unwrap().problems[0].number, 2);
        assert!(error.to_string().contains("latin-1"), "{error}");
        let options = CsvOptions::new().encoding("klingon");
        assert!(
            rows("x", b"a", &options)
                .unwrap_err()
                .to_string()
                .contains("klingon")
        );
    }

    #[test]
    fn a_header_is_skipped_where_it_is_the_one_that_was_said() {
        let options = CsvOptions::new().header(["image", "title"]);
        assert_eq!(read(b"image,title\na,b\n", &options), [["a", "b"]]);
        let error = rows("x.csv", b"picture,title\na,b\n", &options).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("`picture, title`, not `image, title`"),
            "{error}"
        );
    }

    #[test]
    fn as_many_rows_as_are_wanted() {
        let text = "a,b\n".repeat(1000);
        let count = |options: CsvOptions| rows("x", text.as_bytes(), &options).unwrap().len();
        assert_eq!(count(CsvOptions::new()), 1000);
        assert_eq!(count(CsvOptions::new().size(7)), 7);
        let half = count(CsvOptions::new().sampling_rate(0.5));
        assert!((350..650).contains(&half), "{half}");
        for bytes in [&b""[..], b"\n\n", b"\xef\xbb\xbf"] {
            assert!(rows("x", bytes, &CsvOptions::new()).unwrap_err().is_data());
        }
        let options = CsvOptions::new().sampling_rate(2.0);
        assert!(rows("x", b"a", &options).is_err());
    }

    #[test]
    fn spaces_and_quotes_are_as_the_dialect_says() {
        let dialect = |escape, skip_initial_space| Dialect::Custom {
            delimiter: b';',
            quote: b'\'',
            escape,
            skip_initial_space,
        };
        let options = CsvOptions::new().dialect(dialect(None, true));
        assert_eq!(read(b"a; 'b; ''c'''\n", &options), [["a", "b; 'c'"]]);
        let options = CsvOptions::new().dialect(dialect(Some(b'\\'), false));
        assert_eq!(read(b"a;'b\\'c'\n", &options), [["a", "b'c"]]);
    }
}
