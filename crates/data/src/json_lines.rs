//! JSON Lines: one object in each line. The keys of the objects are the columns.

use std::{
    collections::HashSet,
    io::{BufRead, BufReader, Read},
};

use finetuner_protocol::text::start_of;
use serde_json::{Map, Value};

use crate::{
    error::{Error, Result},
    input::Input,
    named_table::NamedTable,
    options::Options,
    roles::changes_examples,
    source::Fault,
    table::{Cell, Row, Rows, row_fault},
};

/// Name of input without a file in errors.
const UNNAMED: &str = "the JSON lines";
/// Maximum columns of a file from another user. Every row takes memory for each of them.
const MAX_COLUMNS: usize = 1000;
/// Maximum rows and bytes of the sample, from which the columns and their roles follow.
const SAMPLE: (usize, usize) = (200, 256 << 10);

/// Opens a file and reads its first rows.
///
/// A key that no row of the sample has is not a column. It is an error in a later row
/// if its name means negatives, a score or a label, unless the options name the columns:
/// leaving it out would change what is trained.
pub(crate) fn open(input: Input, options: Options) -> Result<NamedTable> {
    options.check()?;
    let name = input.name(UNNAMED);
    let (mut names, mut objects): (Vec<String>, Vec<(u64, Object)>) = Default::default();
    let mut known = HashSet::new();
    let mut lines = Lines::new(input.open()?, options.max_row());
    let mut end = None;
    while objects.len() < SAMPLE.0 && lines.bytes < SAMPLE.1 {
        match lines.next() {
            None => break,
            Some(Err(fault)) => {
                end = Some(fault);
                break;
            }
            Some(Ok((number, object))) => {
                let new = object.keys().filter(|key| known.insert((*key).clone()));
                names.extend(new.cloned());
                objects.push((number, object));
            }
        }
    }
    if options.is_untrusted && names.len() > MAX_COLUMNS {
        let reason = format!(
            "the rows have {} columns, at most {MAX_COLUMNS} are allowed: remove those that \
             are not used for training",
            names.len()
        );
        return Err(Error::rows(&name, 0, reason));
    }
    // Without a row, there are no columns.
    if objects.is_empty() {
        return Err(match end {
            Some(Fault::Row(problem)) => Error::rows(&name, problem.number, problem.reason),
            Some(Fault::End(error)) => named(error, &name),
            None => Error::rows(&name, 0, "the file is empty: it has no rows"),
        });
    }
    let sample = objects
        .into_iter()
        .map(|(number, object)| cells(number, object, &names))
        .collect();
    let (columns, max_row) = (names.clone(), options.max_row());
    let are_named = !options.columns.is_empty();
    let read = move || {
        let (names, known) = (columns.clone(), known.clone());
        let rows = Lines::new(input.open()?, max_row).map(move |line| {
            let (number, object) = line?;
            if !are_named {
                check_late(number, &object, &known)?;
            }
            Ok(cells(number, object, &names))
        });
        Ok(Box::new(rows) as Rows)
    };
    Ok(NamedTable::new(name, options, names, sample, read))
}

/// Refuses a row with a column that no first row has and that would have changed how
/// they are read.
fn check_late(number: u64, object: &Object, known: &HashSet<String>) -> Result<(), Fault> {
    let late = object.iter().find(|(key, value)| {
        !value.is_null() && !known.contains(key.as_str()) && changes_examples(key)
    });
    match late {
        None => Ok(()),
        Some((key, _)) => {
            let reason = format!(
                "it has `{}`, which none of the first rows has: add it to the first row, as null \
                 if it has no value, remove it, or name the columns with `Columns`",
                start_of(key)
            );
            Err(row_fault(number, reason))
        }
    }
}

/// Adds the name of the file to an error of [`Lines`].
fn named(error: Error, name: &str) -> Error {
    match error.into_problems() {
        Ok(problems) => {
            let first = problems.problems.into_iter().next();
            let (number, reason) = first.map_or((0, String::new()), |p| (p.number, p.reason));
            Error::rows(name, number, reason)
        }
        Err(error) => error,
    }
}

type Object = Map<String, Value>;

/// Returns an object as a row with a cell for each column.
fn cells(number: u64, mut object: Object, names: &[String]) -> Row {
    let cell = |name: &String| object.remove(name).map_or(Cell::Missing, cell);
    Row {
        number,
        cells: names.iter().map(cell).collect(),
    }
}

/// Returns a JSON value as a cell.
fn cell(value: Value) -> Cell {
    match value {
        Value::Null => Cell::Missing,
        Value::String(text) => Cell::Text(text),
        Value::Number(number) => Cell::Text(number.to_string()),
        Value::Bool(value) => Cell::Text(value.to_string()),
        Value::Array(values) => Cell::of_list(values.into_iter().map(cell)),
        // An image in the form of the library `datasets`: an object of path and bytes.
        Value::Object(mut image) => match (image.remove("path"), image.get("bytes")) {
            (Some(Value::String(path)), None | Some(Value::Null)) => Cell::Text(path),
            _ => Cell::Other("an object"),
        },
    }
}

/// Iterator over the objects of a file with their line numbers. Skips empty lines.
struct Lines {
    from: BufReader<Box<dyn Read + Send>>,
    /// Maximum bytes of a line.
    max_line: usize,
    line: u64,
    /// Bytes that were read.
    bytes: usize,
    ended: bool,
}

impl Lines {
    fn new(from: Box<dyn Read + Send>, max_line: usize) -> Self {
        Self {
            from: BufReader::with_capacity(64 << 10, from),
            max_line,
            line: 0,
            bytes: 0,
            ended: false,
        }
    }

    fn end(&mut self, error: Error) -> Fault {
        self.ended = true;
        Fault::End(error)
    }
}

impl Iterator for Lines {
    type Item = Result<(u64, Object), Fault>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut line = Vec::new();
        while !self.ended {
            line.clear();
            let mut limited = (&mut self.from).take(self.max_line as u64 + 1);
            match limited.read_until(b'\n', &mut line) {
                Err(error) => {
                    let error = Error::file(std::path::Path::new(UNNAMED), error);
                    return Some(Err(self.end(error)));
                }
                Ok(0) => return None,
                Ok(read) => self.bytes += read,
            }
            self.line += 1;
            if line.len() > self.max_line {
                let reason = format!(
                    "the line has more than the {} MiB that are allowed",
                    self.max_line >> 20
                );
                return Some(Err(self.end(Error::row(self.line, reason))));
            }
            let mut text = line.as_slice();
            if self.line == 1 {
                text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
            }
            let text = text.trim_ascii();
            if !text.is_empty() {
                return Some(match object(text) {
                    Ok(object) => Ok((self.line, object)),
                    Err(reason) => Err(row_fault(self.line, reason)),
                });
            }
        }
        None
    }
}

/// Parses the object in a line.
fn object(text: &[u8]) -> Result<Object, String> {
    let shown = start_of(&String::from_utf8_lossy(&text[..text.len().min(400)]));
    match serde_json::from_slice(text) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(format!(
            "it is not a JSON object such as {{\"anchor\": \"...\", \"positive\": \"...\"}}: `{shown}`"
        )),
        Err(_) if text == b"[" || text == b"{" => Err(
            "the file is one JSON value over many lines: write one object in each line, for \
             example with `jq -c '.[]'`"
                .to_owned(),
        ),
        Err(error) => {
            let words = error.to_string();
            let words = words
                .rsplit_once(" at line")
                .map_or(&*words, |(words, _)| words);
            Err(format!(
                "it is not valid JSON at byte {} ({words}): `{shown}`",
                error.column()
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::Table;

    fn lines(text: &str) -> Vec<Result<Row, String>> {
        let input = Input::read(text.as_bytes(), "test").unwrap();
        let table = open(input, Options::default()).unwrap();
        let rows = table.rows().unwrap();
        rows.map(|row| {
            row.map_err(|fault| match fault {
                Fault::Row(problem) => format!("{}: {}", problem.number, problem.reason),
                Fault::End(error) => error.to_string(),
            })
        })
        .collect()
    }

    #[test]
    fn values_become_cells_and_absent_members_are_missing() {
        let text = "\u{feff}{\"a\": \"x\", \"b\": 1.5}\n\n{\"b\": [1, \"y\"], \"c\": null}\r\n\
                    {\"a\": {\"path\": \"p.png\", \"bytes\": null}, \"b\": [[1]], \"c\": {}, \"d\": 1}";
        let found: Vec<Row> = lines(text).into_iter().map(Result::unwrap).collect();
        let text = |text: &str| Cell::Text(text.to_owned());
        let list = Cell::List(vec!["1".to_owned(), "y".to_owned()]);
        let cells = [
            (
                1,
                vec![text("x"), text("1.5"), Cell::Missing, Cell::Missing],
            ),
            (3, vec![Cell::Missing, list, Cell::Missing, Cell::Missing]),
        ];
        for (row, (number, cells)) in found.iter().zip(cells) {
            assert_eq!((row.number, &row.cells), (number, &cells));
        }
        assert_eq!(found[2].cells[0], text("p.png"));
        assert!(matches!(found[2].cells[1], Cell::Other(_)));
        assert!(matches!(found[2].cells[2], Cell::Other(_)));
    }

    #[test]
    fn bad_lines_are_reported_and_do_not_hide_the_next() {
        let found = lines("{\"a\": 1}\n{\"a\": NaN}\n[1]\n{\"a\": 2}\n{\"a\": \"x");
        assert!(found[0].is_ok() && found[3].is_ok());
        let reported = |i: usize| found[i].clone().unwrap_err();
        assert!(
            reported(1).starts_with("2: it is not valid JSON at byte 7"),
            "{}",
            reported(1)
        );
        assert!(
            reported(2).starts_with("3: it is not a JSON object"),
            "{}",
            reported(2)
        );
        assert!(
            reported(4).starts_with("5: it is not valid JSON"),
            "{}",
            reported(4)
        );
    }

    #[test]
    fn a_column_that_begins_after_the_sample_is_not_passed_over() {
        let pair = "{\"anchor\": \"a\", \"positive\": \"b\"}\n".repeat(SAMPLE.0);
        let late = |members: &str| {
            let text = format!("{pair}{{\"anchor\": \"a\", \"positive\": \"b\", {members}}}\n");
            lines(&text).pop().unwrap()
        };
        for members in ["\"negative\": \"c\"", "\"score\": 0.5", "\"label\": \"x\""] {
            let reason = late(members).unwrap_err();
            let name = members.split('"').nth(1).unwrap();
            assert!(
                reason.starts_with(&format!("201: it has `{name}`")),
                "{reason}"
            );
        }
        for members in ["\"negative\": null", "\"id\": 7", "\"title\": \"x\""] {
            assert_eq!(late(members).unwrap().cells.len(), 2, "{members}");
        }
    }

    #[test]
    fn a_file_without_a_first_row_is_an_error() {
        let refused = |text: &str| {
            let input = Input::read(text.as_bytes(), "test").unwrap();
            let error = open(input, Options::default()).err().unwrap();
            assert!(error.problems().is_some(), "{error}");
            error.to_string()
        };
        assert!(refused("\n \n").contains("it has no rows"));
        assert!(refused("[\n{\"a\": 1},\n").contains("one object in each line"));
        assert!(refused("a,b\n").contains("1: it is not valid JSON"));
    }
}
