//! From a file to rows: the sample that decides how it is read, the header, the
//! draw.

use std::io::{BufReader, Read};

use finetuner_protocol::text::{cut, start_of};
use rand::{RngExt, SeedableRng, rngs::StdRng};

use super::{
    chars::{Broken as BrokenChars, Chars, Charset, looks_like_utf16},
    dialect::{self, Dialect, Guess},
    encoding,
    options::CsvOptions,
    records::{Broken, MAX_CELL, Record, Records},
    rules::Rules,
};
use crate::{
    data::{
        documents::Fault,
        tables::{
            input::Input,
            options::Options,
            table::{Cell, Row, Rows as TableRows, Table, row},
        },
    },
    error::{Error, Result},
};

/// Bytes that are looked at before the file is read.
const SAMPLE: usize = 64 << 10;
/// Characters from which the dialect is guessed.
const GUESSED: usize = 16 << 10;

/// How a file is read, decided from its start.
#[derive(Debug)]
pub(super) struct Reading {
    input: Input,
    options: CsvOptions,
    name: String,
    charset: Charset,
    rules: Rules,
    /// The first line says what the delimiter is, and is no row.
    has_hint: bool,
    /// Decides which rows are drawn: the same ones each time.
    seed: u64,
    /// The names of the columns, where the first row holds names.
    names: Option<Vec<String>>,
    /// The first rows, without a header.
    sample: Vec<Row>,
}

impl From<Record> for Row {
    fn from(record: Record) -> Self {
        Self {
            number: record.line,
            cells: record.cells.into_iter().map(Cell::Text).collect(),
        }
    }
}

impl Table for Reading {
    fn name(&self) -> &str {
        &self.name
    }

    fn options(&self) -> &Options {
        &self.options.common
    }

    fn names(&self) -> Option<&[String]> {
        self.names.as_deref()
    }

    fn sample(&self) -> &[Row] {
        &self.sample
    }

    fn rows(&self) -> Result<TableRows> {
        Ok(Box::new(self.records()?.map(|row| row.map(Row::from))))
    }

    fn delimiter(&self) -> Option<char> {
        Some(char::from(self.rules.delimiter))
    }
}

impl Reading {
    /// Looks at the start of the input, which errors call `name`.
    pub(super) fn new(input: Input, options: CsvOptions, name: String) -> Result<Self> {
        options.common.check()?;
        let (bytes, is_whole) = start(&input, &name)?;
        let encoding = match &options.encoding {
            Some(encoding) => encoding.clone(),
            None => guessed_encoding(&input, &name, &bytes)?,
        };
        let charset = Charset::find(&encoding)?;
        if let Some(encoding) = looks_like_utf16(&bytes)
            && matches!(charset, Charset::Web(known) if known == encoding_rs::UTF_8)
        {
            let reason = format!(
                "every second byte is 0, as in {encoding}: say so with `CsvOptions::encoding(\
                 \"{encoding}\")`"
            );
            return Err(Error::rows(&name, 1, reason));
        }
        let text: String = Chars::new(bytes.as_slice(), charset)
            .map_while(std::result::Result::ok)
            .collect();
        // The last row may be cut.
        let text = match is_whole {
            true => text.as_str(),
            false => whole_rows(&text, text.len()),
        };
        let hint = dialect::hint(
            text.split_inclusive(['\n', '\r'])
                .next()
                .unwrap_or_default(),
        );
        let rows = match hint {
            Some(_) => text.split_once(['\n', '\r']).map_or("", |(_, rest)| rest),
            None => text,
        };
        let Guess { mut rules, rival } = options.dialect.rules(whole_rows(rows, GUESSED));
        if let (Some(delimiter), Dialect::Auto) = (hint, options.dialect) {
            rules.delimiter = delimiter;
        } else if let Some(rival) = rival {
            tracing::warn!(
                file = %start_of(&name),
                "columns may be separated by `{}` or by `{}`; `{0}` is taken. Set \
                 `CsvOptions::dialect` to decide",
                char::from(rules.delimiter),
                char::from(rival)
            );
        }
        if matches!(options.dialect, Dialect::Auto) {
            tracing::info!(
                file = %start_of(&name),
                "read as {encoding}, columns separated by {:?}, quotes {:?}",
                char::from(rules.delimiter),
                char::from(rules.quote)
            );
        }
        let sample = Records::new(whole_rows(rows, SAMPLE).chars().map(Ok), rules)
            .suspecting_rows(matches!(options.dialect, Dialect::Auto));
        let mut sample = sample.map_while(std::result::Result::ok);
        let has_names = options.has_names || !options.common.columns.is_empty();
        let names = match &options.header {
            None if !has_names => None,
            header => {
                let first = sample.next().map(|record| record.cells).unwrap_or_default();
                Some(header.clone().unwrap_or(first))
            }
        };
        Ok(Self {
            charset,
            rules,
            has_hint: hint.is_some(),
            seed: rand::random(),
            names,
            sample: sample.map(Row::from).collect(),
            name,
            input,
            options,
        })
    }

    /// Reads the rows from the start.
    fn records(&self) -> Result<Rows> {
        let chars = Chars::new(BufReader::new(self.input.open()?), self.charset);
        let options = &self.options;
        let is_guessed = matches!(options.dialect, Dialect::Auto);
        let mut records = Records::new(chars, self.rules).suspecting_rows(is_guessed);
        if self.has_hint {
            records.skip_line();
        }
        Ok(Rows {
            records,
            name: self.name.clone(),
            header: self.names.clone(),
            draw: options
                .common
                .sampling_rate
                .map(|rate| (rate, StdRng::seed_from_u64(self.seed))),
            left: options.common.size.unwrap_or(u64::MAX),
            given: 0,
            ended: false,
        })
    }
}

/// The encoding of a file where none was given. Says so where it is not UTF-8.
fn guessed_encoding(input: &Input, name: &str, start: &[u8]) -> Result<String> {
    let mut failed = None;
    let open = || {
        input.open().map_err(|error| {
            let told = std::io::Error::other(error.to_string());
            failed = Some(error);
            told
        })
    };
    let guessed = encoding::guess(start, open);
    let encoding = match (guessed, failed) {
        (_, Some(error)) => return Err(error),
        (Err(error), None) => return Err(Error::file(std::path::Path::new(name), error)),
        (Ok(encoding), None) => encoding,
    };
    if encoding != "utf-8" {
        tracing::warn!(
            file = %start_of(name),
            "the file is not UTF-8 and is read as {encoding}: set `CsvOptions::encoding` to decide"
        );
    }
    Ok(encoding.to_owned())
}

/// The first bytes of a file, with one whole row where it is not too long, and
/// whether they are all.
fn start(input: &Input, name: &str) -> Result<(Vec<u8>, bool)> {
    let failed = |e| Error::file(std::path::Path::new(name), e);
    let mut from = input.open()?;
    let mut bytes = Vec::new();
    loop {
        let wanted = SAMPLE.max(bytes.len());
        let read = from.by_ref().take(wanted as u64).read_to_end(&mut bytes);
        if read.map_err(failed)? < wanted {
            return Ok((bytes, true));
        }
        if bytes.contains(&b'\n') || bytes.contains(&b'\r') || bytes.len() > MAX_CELL {
            return Ok((bytes, false));
        }
    }
}

/// Whole rows from the start of a text that is longer: at least one.
fn whole_rows(text: &str, limit: usize) -> &str {
    if text.len() < limit {
        return text;
    }
    let start = cut(text, limit);
    let end = start
        .rfind(['\n', '\r'])
        .or_else(|| text.find(['\n', '\r']));
    end.map_or(text, |end| &text[..=end])
}

/// The rows of a file that are wanted, one after the other.
pub(super) struct Rows {
    records: Records<Chars<BufReader<Box<dyn Read + Send>>>>,
    name: String,
    header: Option<Vec<String>>,
    draw: Option<(f64, StdRng)>,
    left: u64,
    given: u64,
    ended: bool,
}

impl Rows {
    fn read(&mut self) -> Result<Option<Record>, Fault> {
        loop {
            let record = match self.records.next() {
                None if self.given == 0 => {
                    let reason = "CSV file not exist or is empty: there are no rows in it";
                    return Err(row(0, reason));
                }
                None => return Ok(None),
                Some(record) => record.map_err(|broken| self.fault(broken))?,
            };
            if let Some(names) = self.header.take() {
                let found: Vec<&str> = record.cells.iter().map(|cell| cell.trim()).collect();
                let wanted: Vec<&str> = names.iter().map(|name| name.trim()).collect();
                if found != wanted {
                    let (found, wanted) = (found.join(", "), wanted.join(", "));
                    let (found, wanted) = (start_of(&found), start_of(&wanted));
                    let reason = format!("the header is `{found}`, not `{wanted}`");
                    self.given += 1;
                    return Err(row(record.line, reason));
                }
                continue;
            }
            if let Some((rate, random)) = &mut self.draw
                && random.random::<f64>() >= *rate
            {
                continue;
            }
            if self.left == 0 {
                self.ended = true;
                return Ok(None);
            }
            self.left -= 1;
            self.given += 1;
            return Ok(Some(record));
        }
    }

    /// What ends the reading.
    fn fault(&self, broken: Broken) -> Fault {
        match broken {
            Broken::Line(line, reason) => Fault::End(Error::rows(&self.name, line, reason)),
            Broken::Chars(line, BrokenChars::Encoding(name)) => {
                let reason = format!(
                    "it is not {name}: say what it is with `CsvOptions::encoding`, such as \
                     `latin-1`"
                );
                Fault::End(Error::rows(&self.name, line, reason))
            }
            Broken::Chars(_, BrokenChars::Io(error)) => {
                Fault::End(Error::file(std::path::Path::new(&self.name), error))
            }
        }
    }
}

impl Iterator for Rows {
    type Item = Result<Record, Fault>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let read = self.read();
        // A wrong header is told with what is wrong with the rows.
        self.ended |= match &read {
            Ok(record) => record.is_none(),
            Err(Fault::Row(problem)) => problem.number == 0,
            Err(Fault::End(_)) => true,
        };
        read.transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(bytes: &[u8], options: &CsvOptions) -> Result<Vec<Record>, Error> {
        let input = Input::read(bytes, "the CSV reader")?;
        let reading = Reading::new(input, options.clone(), "the CSV text".to_owned());
        let rows = reading?.records()?;
        let error = |fault| match fault {
            Fault::Row(problem) => Error::row(problem.number, problem.reason),
            Fault::End(error) => error,
        };
        rows.map(|row| row.map_err(error)).collect()
    }

    fn read(bytes: &[u8], options: &CsvOptions) -> Vec<Vec<String>> {
        let rows = rows(bytes, options).unwrap();
        rows.into_iter().map(|row| row.cells).collect()
    }

    fn lines(text: &str) -> Vec<u64> {
        let rows = rows(text.as_bytes(), &CsvOptions::new()).unwrap();
        rows.into_iter().map(|row| row.line).collect()
    }

    /// The line and the reason of what ends the reading.
    fn broken(bytes: &[u8]) -> (u64, String) {
        let error = rows(bytes, &CsvOptions::new().encoding("utf-8")).unwrap_err();
        let problem = error
            .problems()
            .unwrap_or_else(|| panic!("{error}"))
            .problems[0]
            .clone();
        (problem.number, problem.reason)
    }

    #[test]
    fn every_common_encoding_and_line_end_gives_the_same_rows() {
        let text = "größe,€ 5\r\nb,\"c, d\"\r\n";
        let rows = [["größe", "€ 5"], ["b", "c, d"]];
        let utf16 = |to: fn(u16) -> [u8; 2], mark: &[u8]| {
            let units = text.encode_utf16().flat_map(to);
            mark.iter().copied().chain(units).collect::<Vec<u8>>()
        };
        let options = CsvOptions::new();
        let with_mark = [b"\xef\xbb\xbf", text.as_bytes()].concat();
        assert_eq!(read(text.as_bytes(), &options), rows);
        assert_eq!(read(text.replace('\r', "").as_bytes(), &options), rows);
        assert_eq!(read(text.replace('\n', "").as_bytes(), &options), rows);
        assert_eq!(read(&with_mark, &options), rows);
        assert_eq!(read(&utf16(u16::to_le_bytes, b"\xff\xfe"), &options), rows);
        assert_eq!(read(&utf16(u16::to_be_bytes, b"\xfe\xff"), &options), rows);
        let unmarked = CsvOptions::new().encoding("utf_16_le");
        assert_eq!(read(&utf16(u16::to_le_bytes, b""), &unmarked), rows);
        let latin = b"gr\xf6\xdfe,b\n";
        let options = CsvOptions::new().encoding("latin-1");
        assert_eq!(read(latin, &options), [["größe", "b"]]);
    }

    #[test]
    fn a_wrong_encoding_is_told_with_its_line() {
        assert_eq!(broken(b"a,b\ngr\xf6\xdfe,b\n").0, 2);
        assert!(broken(b"a,b\ngr\xf6\xdfe,b\n").1.contains("latin-1"));
        // A good U+FFFD is no fault, and line ends of two characters are one.
        let text = "an old \u{fffd} sign,a\r\nfine,b\r\n".as_bytes();
        assert_eq!(broken(&[text, b"gr\xf6\xdfe,c\r\n"].concat()).0, 3);
        let unmarked: Vec<u8> = "red,dress\n"
            .encode_utf16()
            .flat_map(u16::to_le_bytes)
            .collect();
        let (line, reason) = broken(&unmarked);
        assert!(line == 1 && reason.contains("utf-16le"), "{reason}");
        // Without an encoding, it is guessed.
        let options = CsvOptions::new();
        assert_eq!(read(b"a,b\ngr\xf6\xdfe,c\n", &options)[1], ["größe", "c"]);
        assert_eq!(read(&unmarked, &options), [["red", "dress"]]);
        let mixed = [text, b"gr\xf6\xdfe,c\r\n"].concat();
        let error = rows(&mixed, &options).unwrap_err();
        assert_eq!(error.problems().unwrap().problems[0].number, 3);
        // ASCII has no other bytes, whatever the web says.
        let ascii = CsvOptions::new().encoding("ascii");
        assert_eq!(read(b"a,b\nc,d\n", &ascii), [["a", "b"], ["c", "d"]]);
        let error = rows("a,b\ngröße,c\n".as_bytes(), &ascii).unwrap_err();
        assert!(error.to_string().contains("2: it is not ASCII"), "{error}");
        let error = rows(b"a", &CsvOptions::new().encoding("klingon")).unwrap_err();
        assert!(error.to_string().contains("klingon"), "{error}");
    }

    #[test]
    fn a_header_is_skipped_where_it_is_the_one_that_was_said() {
        let options = CsvOptions::new().header(["image", "title"]);
        assert_eq!(read(b"image,title\na,b\n", &options), [["a", "b"]]);
        assert_eq!(
            read(b"\xef\xbb\xbf\"image\",\"title\"\r\na,b\n", &options),
            [["a", "b"]]
        );
        let error = rows(b"picture,title\na,b\n", &options).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("`picture, title`, not `image, title`"),
            "{error}"
        );
    }

    #[test]
    fn excels_hint_is_no_row() {
        let options = CsvOptions::new();
        let rows = [["a red dress", "dress"], ["a, b", "shoe"]];
        assert_eq!(
            read(b"sep=;\r\na red dress;dress\r\na, b;shoe\r\n", &options),
            rows
        );
        assert_eq!(lines("sep=;\r\na;b\r\nc;d\r\n"), [2, 3]);
        let options = CsvOptions::new().header(["a", "b"]);
        assert_eq!(
            read(b"\xef\xbb\xbfsep=\t\na\tb\nc\td\n", &options),
            [["c", "d"]]
        );
    }

    #[test]
    fn as_many_rows_as_are_wanted_and_the_same_ones_again() {
        let text: String = (0..1000).map(|n| format!("a{n},b\n")).collect();
        let count = |options: CsvOptions| rows(text.as_bytes(), &options).unwrap().len();
        assert_eq!(count(CsvOptions::new()), 1000);
        assert_eq!(count(CsvOptions::new().size(7)), 7);
        let half = CsvOptions::new().sampling_rate(0.5);
        assert!((350..650).contains(&count(half.clone())));
        let reading = Reading::new(
            Input::Bytes(text.as_bytes().into()),
            half,
            "the CSV text".to_owned(),
        )
        .unwrap();
        let drawn = || {
            reading
                .records()
                .unwrap()
                .map(|row| row.unwrap().line)
                .collect::<Vec<_>>()
        };
        assert_eq!(drawn(), drawn());
        for bytes in [&b""[..], b"\n\n", b"\xef\xbb\xbf"] {
            assert!(rows(bytes, &CsvOptions::new()).unwrap_err().is_data());
        }
        for rate in [2.0, -0.1, f64::NAN] {
            let error = rows(b"a", &CsvOptions::new().sampling_rate(rate)).unwrap_err();
            assert!(error.is_invalid() && !error.is_data(), "{error:?}");
            assert!(error.to_string().contains("sampling_rate"), "{error}");
        }
    }

    #[test]
    fn spaces_and_quotes_are_as_the_dialect_says() {
        let dialect = |escape, skip_initial_space| {
            CsvOptions::new().dialect(Dialect::Custom {
                delimiter: b';',
                quote: b'\'',
                escape,
                skip_initial_space,
            })
        };
        assert_eq!(
            read(b"a; 'b; ''c'''\n", &dialect(None, true)),
            [["a", "b; 'c'"]]
        );
        let escaped = dialect(Some(b'\\'), false);
        assert_eq!(read(b"a;'b\\'c'\n", &escaped), [["a", "b'c"]]);
        // As Python's `csv` reads them: an escaped quote opens and closes nothing.
        let both = dialect(Some(b'\\'), true);
        assert_eq!(
            read(b"a; 'b\\'; c';  d\n  e\\;f; g\\' h;i\n", &both),
            [["a", "b'; c", "d"], ["e;f", "g' h", "i"]]
        );
    }

    #[test]
    fn lines_are_those_of_the_file() {
        assert_eq!(lines("a,x\r\nb,y\r\n\r\nc,z"), [1, 2, 4]);
        assert_eq!(lines("a,x\rb,y\r\rc,z\r"), [1, 2, 4]);
        assert_eq!(lines("\n\na,x\n\n\nb,y\n"), [3, 6]);
        assert_eq!(
            lines("\"a\r\nb\",x\r\n\"c\n\nd\",y\r\n\"e\",z\r\n"),
            [1, 3, 6]
        );
        assert_eq!(lines("a\u{2028}b,x\nc\u{b}d\u{85},y\n"), [1, 2]);
        let long = format!("{},x\nb,y\n", "word ".repeat(60_000));
        assert_eq!(lines(&long), [1, 2]);
    }

    #[test]
    fn a_text_that_looks_like_rows_is_one_where_a_dialect_is_given() {
        let lines = "a line, of a poem\n".repeat(60);
        let text = format!("text,label\n\"{lines}\",poem\n");
        let (line, reason) = broken(text.as_bytes());
        assert_eq!(line, 2);
        assert!(reason.contains("Dialect::Excel"), "{reason}");
        let excel = CsvOptions::new().dialect(Dialect::Excel);
        let rows = read(text.as_bytes(), &excel);
        assert_eq!(rows, [["text", "label"], [lines.as_str(), "poem"]]);
    }

    #[test]
    fn a_quote_that_swallows_rows_is_told_with_its_line() {
        let rows: String = (0..3000).map(|n| format!("text {n},label\n")).collect();
        // To the end of the file, to the next quote, and to one that closes it.
        for end in ["", "\"a, b\",label\n", "five inches 5\",label\n"] {
            let text = format!("a,b\n\"a red dress,dress\n{rows}{end}");
            let (line, reason) = broken(text.as_bytes());
            assert_eq!(line, 2, "{reason}");
            assert!(
                reason.contains("quote") && reason.contains("a red dress"),
                "{reason}"
            );
            assert!(reason.len() < 400, "{reason}");
        }
        // A long text of a page is one cell.
        let page = format!(
            "\"{}\",page\nb,c\n",
            "a line, of two, commas\n".repeat(3000)
        );
        assert_eq!(read(page.as_bytes(), &CsvOptions::new()).len(), 2);
        assert_eq!(read(b"\"a\" b,c\n", &CsvOptions::new()), [["a b", "c"]]);
    }
}
