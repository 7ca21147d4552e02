//! From a file to rows: the sample that decides how it is read, the header, the
//! draw.

use std::io::{BufReader, Read};

use finetuner_protocol::text::{cut, start_of};
use rand::{RngExt, SeedableRng, rngs::StdRng};

use super::{
    chars::{Broken as BrokenChars, Chars, Charset, looks_like_utf16},
    dialect::{self, Dialect, Guess},
    encoding,
    options::{CsvOptions, FirstRow},
    records::{Broken, MAX_CELL, Record, Records},
    rules::Rules,
};
use crate::{
    error::{Error, Result},
    input::Input,
    options::Options,
    roles::looks_like_header,
    source::Fault,
    table::{Cell, Row, Rows as TableRows, Table, row},
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
            .suspecting_rows(matches!(options.dialect, Dialect::Auto))
            .limited(options.common.max_row());
        let mut sample = sample.map_while(std::result::Result::ok).peekable();
        let has_names = match options.first_row {
            _ if options.header.is_some() || !options.common.columns.is_empty() => true,
            FirstRow::Data => false,
            FirstRow::Names => true,
            FirstRow::Guess => sample.peek().is_some_and(|record: &Record| {
                looks_like_header(record.cells.iter().map(String::as_str))
            }),
        };
        let names = match has_names {
            false => None,
            true => {
                let first = sample.next().map(|record| record.cells).unwrap_or_default();
                Some(options.header.clone().unwrap_or(first))
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
        let mut records = Records::new(chars, self.rules)
            .suspecting_rows(is_guessed)
            .limited(options.common.max_row());
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
mod tests;
