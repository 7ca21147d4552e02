//! Detects the encoding, the dialect and the header of a CSV file from its start.

use std::io::{BufReader, Read};

use finetuner_protocol::text::{cut, start_of};

use super::{
    chars::{Chars, Charset, looks_like_utf16},
    dialect::Dialect,
    encoding,
    guess::{Guess, declared_delimiter},
    options::{CsvOptions, FirstRow},
    records::{MAX_CELL, Record, Records},
    rows::Rows,
    rules::Rules,
};
use crate::{
    error::{Error, Result},
    input::Input,
    options::Options,
    roles::looks_like_header,
    selection::Sampler,
    table::{Cell, Row, Rows as TableRows, Table},
};

/// Bytes of the sample. It is longer if the first row is.
const SAMPLE: usize = 64 << 10;
/// Bytes of text from which the dialect is detected.
const DIALECT_SAMPLE: usize = 16 << 10;

/// A CSV file, the way to read it, and its first rows.
#[derive(Debug)]
pub(super) struct CsvTable {
    input: Input,
    options: CsvOptions,
    name: String,
    charset: Charset,
    rules: Rules,
    /// Whether the first line declares the delimiter (`sep=;`) and is not a row.
    has_hint: bool,
    /// Seed of the random sample, so that each pass over the file selects the same rows.
    seed: u64,
    /// The names of the columns, if the first row has names.
    names: Option<Vec<String>>,
    /// The first rows after the header.
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

impl Table for CsvTable {
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

impl CsvTable {
    /// Reads the start of the input. `name` is its name in errors.
    pub(super) fn new(input: Input, options: CsvOptions, name: String) -> Result<Self> {
        options.common.check()?;
        let (bytes, is_whole) = start(&input, &name)?;
        let encoding = match &options.encoding {
            Some(encoding) => encoding.clone(),
            None => detected_encoding(&input, &name, &bytes)?,
        };
        let charset = Charset::find(&encoding)?;
        if let Some(encoding) = looks_like_utf16(&bytes)
            && matches!(charset, Charset::Web(known) if known == encoding_rs::UTF_8)
        {
            let reason = format!(
                "every second byte is 0, as in {encoding}: if this is the encoding, set \
                 `CsvOptions::encoding(\"{encoding}\")`"
            );
            return Err(Error::rows(&name, 1, reason));
        }
        let text: String = Chars::new(bytes.as_slice(), charset)
            .map_while(std::result::Result::ok)
            .collect();
        // The last row of the sample may be incomplete.
        let text = match is_whole {
            true => text.as_str(),
            false => whole_rows(&text, text.len()),
        };
        let hint = declared_delimiter(
            text.split_inclusive(['\n', '\r'])
                .next()
                .unwrap_or_default(),
        );
        let rows = match hint {
            Some(_) => text.split_once(['\n', '\r']).map_or("", |(_, rest)| rest),
            None => text,
        };
        let Guess { mut rules, rival } = options.dialect.rules(whole_rows(rows, DIALECT_SAMPLE));
        if let (Some(delimiter), Dialect::Auto) = (hint, options.dialect) {
            rules.delimiter = delimiter;
        } else if let Some(rival) = rival {
            tracing::warn!(
                file = %start_of(&name),
                "the delimiter may be `{}` or `{}`; `{0}` is used. Set \
                 `CsvOptions::dialect` if this is wrong",
                char::from(rules.delimiter),
                char::from(rival)
            );
        }
        if matches!(options.dialect, Dialect::Auto) {
            tracing::info!(
                file = %start_of(&name),
                "encoding {encoding}, delimiter {:?}, quotes {:?}",
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

    /// Returns the selected rows from the start of the file.
    fn records(&self) -> Result<Rows> {
        let chars = Chars::new(BufReader::new(self.input.open()?), self.charset);
        let options = &self.options;
        let is_detected = matches!(options.dialect, Dialect::Auto);
        let mut records = Records::new(chars, self.rules)
            .suspecting_rows(is_detected)
            .limited(options.common.max_row());
        if self.has_hint {
            records.skip_line();
        }
        Ok(Rows {
            records,
            name: self.name.clone(),
            header: self.names.clone(),
            sampler: Sampler::new(&options.common, self.seed),
            left: options.common.size.unwrap_or(u64::MAX),
            returned: 0,
            ended: false,
        })
    }
}

/// Detects the encoding of a file. Warns if it is not UTF-8.
fn detected_encoding(input: &Input, name: &str, start: &[u8]) -> Result<String> {
    let mut failed = None;
    let open = || {
        input.open().map_err(|error| {
            let shown = std::io::Error::other(error.to_string());
            failed = Some(error);
            shown
        })
    };
    let detected = encoding::detect(start, open);
    let encoding = match (detected, failed) {
        (_, Some(error)) => return Err(error),
        (Err(error), None) => return Err(Error::file(std::path::Path::new(name), error)),
        (Ok(encoding), None) => encoding,
    };
    if encoding != "utf-8" {
        tracing::warn!(
            file = %start_of(name),
            "the file is not UTF-8 and is read as {encoding}. Set `CsvOptions::encoding` if \
             this is wrong"
        );
    }
    Ok(encoding.to_owned())
}

/// Returns the start of a file, and whether it is the whole file.
///
/// The start contains at least one line end, unless the first line is longer than a cell
/// may be.
fn start(input: &Input, name: &str) -> Result<(Vec<u8>, bool)> {
    let failed = |e| Error::file(std::path::Path::new(name), e);
    let mut from = input.open()?;
    let mut bytes = Vec::new();
    loop {
        let size = SAMPLE.max(bytes.len());
        let read = from.by_ref().take(size as u64).read_to_end(&mut bytes);
        if read.map_err(failed)? < size {
            return Ok((bytes, true));
        }
        if bytes.contains(&b'\n') || bytes.contains(&b'\r') || bytes.len() > MAX_CELL {
            return Ok((bytes, false));
        }
    }
}

/// Returns the complete lines within the first `limit` bytes, but at least one line.
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

#[cfg(test)]
mod tests;
