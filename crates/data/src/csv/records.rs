//! From characters to records, as Python's `csv` reads them, one at a time.
//!
//! What Python reads without a word although it is broken is an error here: a
//! quote that is never closed, or closed many lines later by the quote of
//! another cell, and makes one text of all rows in between. The latter is a
//! guess, which is left out where a dialect is given.

use finetuner_protocol::text::start_of;

use super::{chars::Broken as BrokenChars, rules::Rules};

/// The most bytes of a cell.
pub(super) const MAX_CELL: usize = 64 << 20;
/// From how many lines on a cell is suspected to hold rows.
const MANY_LINES: usize = 50;

/// The cells of a row, and the line in which it begins, counted from 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) line: u64,
    pub(super) cells: Vec<String>,
}

/// Why there is no next record.
#[derive(Debug)]
pub(super) enum Broken {
    /// The text is no CSV from this line on.
    Line(u64, String),
    /// It can't be read.
    Chars(u64, BrokenChars),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// Before the first character of a cell.
    Start,
    Plain,
    Quoted,
    /// Behind a quote within quotes.
    Quote,
    /// Behind the escape character.
    Escape {
        quoted: bool,
    },
}

/// Reads records. Empty lines are none.
pub(super) struct Records<I> {
    chars: I,
    rules: Rules,
    line: u64,
    /// A line feed here belongs to the line end before.
    after_return: bool,
    ended: bool,
    failed: Option<Broken>,
    /// The cells of the first record.
    width: Option<usize>,
    /// Whether a cell that looks like many rows is refused.
    suspects_rows: bool,
    /// The most characters of a row.
    max_row: usize,
}

impl<I: Iterator<Item = Result<char, BrokenChars>>> Records<I> {
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

    /// Refuses rows with more characters than this.
    pub(super) fn limited(mut self, max_row: usize) -> Self {
        self.max_row = max_row;
        self
    }

    /// Refuses cells that look like many rows. That is a guess, like the dialect.
    pub(super) fn suspecting_rows(mut self, suspects: bool) -> Self {
        self.suspects_rows = suspects;
        self
    }

    /// Passes over the rest of a line.
    pub(super) fn skip_line(&mut self) {
        let line = self.line;
        while self.line == line && !self.ended {
            match self.take() {
                Ok(Some(_)) => {}
                Ok(None) => self.ended = true,
                Err(broken) => {
                    self.failed = Some(broken);
                    break;
                }
            }
        }
    }

    /// The next character. Counts line ends of all three kinds.
    fn take(&mut self) -> Result<Option<char>, Broken> {
        let c = match self.chars.next() {
            None => return Ok(None),
            Some(Ok(c)) => c,
            Some(Err(broken)) => return Err(Broken::Chars(self.line, broken)),
        };
        if c == '\r' || (c == '\n' && !self.after_return) {
            self.line += 1;
        }
        self.after_return = c == '\r';
        Ok(Some(c))
    }

    fn read(&mut self) -> Result<Option<Record>, Broken> {
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
        // Where the quote of this cell is.
        let mut opened = self.line;
        loop {
            let line = self.line;
            let Some(c) = self.take()? else {
                if matches!(state, State::Quoted | State::Escape { quoted: true }) {
                    return Err(Broken::Line(
                        opened,
                        format!(
                            "the quote {quote} before `{}` is never closed: close it, or write it \
                             twice within quotes",
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
                        // An empty line, or the second half of a line end.
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
                        return Err(Broken::Line(
                            opened,
                            format!(
                                "the quote {quote} before `{}` is not closed in its row: the next \
                                 one is in line {line}, within a cell",
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
                return Err(Broken::Line(
                    record.line,
                    format!(
                        "the row has more than {} MiB: is a quote in it closed?",
                        self.max_row >> 20
                    ),
                ));
            }
            if cell.len() > MAX_CELL {
                return Err(Broken::Line(
                    opened,
                    format!(
                        "a cell has more than {} MiB: `{}`. Is its quote closed?",
                        MAX_CELL >> 20,
                        start_of(&cell)
                    ),
                ));
            }
        }
    }

    /// Refuses a cell of many lines that are rows by their look.
    fn check_lines(&self, opened: u64, cell: &str) -> Result<(), Broken> {
        let width = self.width.filter(|width| *width > 1 && self.suspects_rows);
        let Some(width) = width else {
            return Ok(());
        };
        // The first and the last line are parts of rows.
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
        if count < MANY_LINES {
            return Ok(());
        }
        Err(Broken::Line(
            opened,
            format!(
                "the cell that begins with `{}` has {count} lines of {width} columns in it: its \
                 quote is not closed in its row. If these lines are one text, say so with a \
                 dialect, such as `CsvOptions::dialect(Dialect::Excel)`",
                start_of(cell.split('\n').next().unwrap_or_default())
            ),
        ))
    }
}

impl<I: Iterator<Item = Result<char, BrokenChars>>> Iterator for Records<I> {
    type Item = Result<Record, Broken>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let read = match self.failed.take() {
            Some(broken) => Err(broken),
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
