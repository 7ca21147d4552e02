//! Parses characters as records, one at a time, like Python's `csv` module.
//!
//! Python silently reads an unclosed quote and all rows up to the next quote as one text.
//! Here it is an error if no quote follows, or if text follows the next quote. A cell of
//! many lines that look like rows is an error too. That check is a guess, and is left out
//! if the dialect is given.

use finetuner_protocol::text::start_of;

use super::{chars::DecodeError, rules::Rules};

/// Maximum bytes of a cell.
pub(super) const MAX_CELL: usize = 64 << 20;
/// Minimum lines of a cell that is suspected to contain rows.
const SUSPICIOUS_LINES: usize = 50;

/// The cells of a row, and its first line, counted from 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) line: u64,
    pub(super) cells: Vec<String>,
}

/// Reason why no more records can be read.
#[derive(Debug)]
pub(super) enum RecordError {
    /// The text is not valid CSV from this line on.
    Line(u64, String),
    /// The characters of this line can't be read.
    Chars(u64, DecodeError),
}

/// State of the parser.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// Before the first character of a cell.
    Start,
    Plain,
    Quoted,
    /// After a quote within quotes.
    Quote,
    /// After the escape character.
    Escape {
        quoted: bool,
    },
}

/// Iterator over the records of a text. Skips empty lines.
pub(super) struct Records<I> {
    chars: I,
    rules: Rules,
    line: u64,
    /// Whether the last character was a carriage return, which a line feed may follow.
    after_return: bool,
    ended: bool,
    failed: Option<RecordError>,
    /// Number of cells of the first record.
    width: Option<usize>,
    /// Whether a cell that looks like many rows is an error.
    suspects_rows: bool,
    /// Maximum characters of a row.
    max_row: usize,
}

impl<I: Iterator<Item = Result<char, DecodeError>>> Records<I> {
    pub(super) fn new(chars: I, rules: Rules) -> Self {
        Self {
            chars,
            rules,
            line: 1,
            after_return: false,
            ended: false,
            failed: None,
            width: None,
            suspects_rows: false,
            max_row: usize::MAX,
        }
    }

    /// Sets the maximum number of characters of a row.
    pub(super) fn limited(mut self, max_row: usize) -> Self {
        self.max_row = max_row;
        self
    }

    /// Sets whether a cell that looks like many rows is an error.
    pub(super) fn suspecting_rows(mut self, suspects: bool) -> Self {
        self.suspects_rows = suspects;
        self
    }

    /// Skips the rest of the line.
    pub(super) fn skip_line(&mut self) {
        let line = self.line;
        while self.line == line && !self.ended {
            match self.take() {
                Ok(Some(_)) => {}
                Ok(None) => self.ended = true,
                Err(error) => {
                    self.failed = Some(error);
                    break;
                }
            }
        }
    }

    /// Returns the next character, and counts lines that end with CR, LF or CRLF.
    fn take(&mut self) -> Result<Option<char>, RecordError> {
        let c = match self.chars.next() {
            None => return Ok(None),
            Some(Ok(c)) => c,
            Some(Err(error)) => return Err(RecordError::Chars(self.line, error)),
        };
        if c == '\r' || (c == '\n' && !self.after_return) {
            self.line += 1;
        }
        self.after_return = c == '\r';
        Ok(Some(c))
    }

    fn read(&mut self) -> Result<Option<Record>, RecordError> {
        let (delimiter, quote) = (
            char::from(self.rules.delimiter),
            char::from(self.rules.quote),
        );
        let escape = self.rules.escape.map(char::from);
        let mut record = Record {
            line: self.line,
            cells: Vec::new(),
        };
        let mut cell = String::new();
        let mut state = State::Start;
        let mut characters = 0;
        // The line of the opening quote, or of the start of the cell.
        let mut opened = self.line;
        loop {
            let line = self.line;
            let Some(c) = self.take()? else {
                if matches!(state, State::Quoted | State::Escape { quoted: true }) {
                    return Err(RecordError::Line(
                        opened,
                        format!(
                            "the quote {quote} before `{}` is never closed: close it, or write a \
                             quote that is part of the text twice, within quotes",
                            start_of(&cell)
                        ),
                    ));
                }
                self.ended = true;
                if record.cells.is_empty() && cell.is_empty() && state == State::Start {
                    return Ok(None);
                }
                self.check_lines(opened, &cell)?;
                record.cells.push(cell);
                return Ok(Some(record));
            };
            let ends_line = matches!(c, '\n' | '\r');
            match state {
                State::Start | State::Plain | State::Quote if ends_line => {
                    if record.cells.is_empty() && cell.is_empty() && state == State::Start {
                        // An empty line, or the line feed of CRLF.
                        record.line = self.line;
                        continue;
                    }
                    self.check_lines(opened, &cell)?;
                    record.cells.push(cell);
                    return Ok(Some(record));
                }
                State::Start if c == quote => {
                    opened = line;
                    state = State::Quoted;
                }
                State::Start | State::Plain if Some(c) == escape => {
                    state = State::Escape { quoted: false };
                }
                State::Start if c == ' ' && self.rules.skip_initial_space => {}
                State::Start | State::Plain | State::Quote if c == delimiter => {
                    self.check_lines(opened, &cell)?;
                    record.cells.push(std::mem::take(&mut cell));
                    state = State::Start;
                    opened = self.line;
                }
                State::Start | State::Plain => {
                    cell.push(c);
                    state = State::Plain;
                }
                State::Quoted if Some(c) == escape => state = State::Escape { quoted: true },
                State::Quoted if c == quote => {
                    state = match escape {
                        None => State::Quote,
                        Some(_) => State::Plain,
                    };
                }
                State::Quote if c == quote => {
                    cell.push(c);
                    state = State::Quoted;
                }
                State::Quote => {
                    if line > opened {
                        return Err(RecordError::Line(
                            opened,
                            format!(
                                "the quote {quote} before `{}` is not closed in its row: the next \
                                 quote is in line {line}, inside a cell. Close it, or write a \
                                 quote that is part of the text twice, within quotes",
                                start_of(&cell)
                            ),
                        ));
                    }
                    cell.push(c);
                    state = State::Plain;
                }
                State::Quoted => cell.push(c),
                State::Escape { quoted } => {
                    cell.push(c);
                    state = if quoted { State::Quoted } else { State::Plain };
                }
            }
            characters += 1;
            if characters > self.max_row {
                return Err(RecordError::Line(
                    record.line,
                    format!(
                        "the row has more than the {} MiB that are allowed: check that its quotes \
                         are closed",
                        self.max_row >> 20
                    ),
                ));
            }
            if cell.len() > MAX_CELL {
                return Err(RecordError::Line(
                    opened,
                    format!(
                        "the cell that begins with `{}` has more than the {} MiB that are allowed: \
                         check that its quote is closed",
                        start_of(&cell),
                        MAX_CELL >> 20
                    ),
                ));
            }
        }
    }

    /// Checks that a cell does not look like many rows.
    fn check_lines(&self, opened: u64, cell: &str) -> Result<(), RecordError> {
        let width = self.width.filter(|width| *width > 1 && self.suspects_rows);
        let Some(width) = width else {
            return Ok(());
        };
        // The first and last lines may be parts of rows.
        let mut lines = cell.split('\n');
        lines.next();
        lines.next_back();
        let delimiter = char::from(self.rules.delimiter);
        let mut count = 0;
        for line in lines {
            if line.matches(delimiter).count() + 1 != width {
                return Ok(());
            }
            count += 1;
        }
        if count < SUSPICIOUS_LINES {
            return Ok(());
        }
        Err(RecordError::Line(
            opened,
            format!(
                "the cell that begins with `{}` contains {count} lines of {width} columns each: \
                 its quote seems not to be closed in its row. If these lines are one text, set a \
                 dialect, such as `CsvOptions::dialect(Dialect::Excel)`",
                start_of(cell.split('\n').next().unwrap_or_default())
            ),
        ))
    }
}

impl<I: Iterator<Item = Result<char, DecodeError>>> Iterator for Records<I> {
    type Item = Result<Record, RecordError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let read = match self.failed.take() {
            Some(error) => Err(error),
            None => self.read(),
        };
        match &read {
            Ok(Some(record)) => {
                self.width.get_or_insert(record.cells.len());
            }
            _ => self.ended = true,
        }
        read.transpose()
    }
}
