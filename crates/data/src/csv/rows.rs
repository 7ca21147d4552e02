//! Iterates over the rows of a CSV file after its header.

use std::io::{BufReader, Read};

use finetuner_protocol::text::start_of;

use super::{
    chars::{Chars, DecodeError},
    records::{Record, RecordError, Records},
};
use crate::{
    error::{Error, Result},
    selection::Sampler,
    source::Fault,
    table::row_fault,
};

/// Iterator over the selected rows of a file.
pub(super) struct Rows {
    pub(super) records: Records<Chars<BufReader<Box<dyn Read + Send>>>>,
    /// Name of the file in errors.
    pub(super) name: String,
    /// Names that the first row must have, until it was read.
    pub(super) header: Option<Vec<String>>,
    pub(super) sampler: Sampler,
    /// Number of rows that may still be returned.
    pub(super) left: u64,
    /// Number of rows that were returned, or had a wrong header.
    pub(super) returned: u64,
    pub(super) ended: bool,
}

impl Rows {
    fn read(&mut self) -> Result<Option<Record>, Fault> {
        loop {
            let record = match self.records.next() {
                None if self.returned == 0 => {
                    let reason = "no rows to read: the CSV file is empty, has only a header, or \
                                  `sampling_rate` selects none";
                    return Err(row_fault(0, reason));
                }
                None => return Ok(None),
                Some(record) => record.map_err(|error| self.fault(error))?,
            };
            if let Some(names) = self.header.take() {
                let found: Vec<&str> = record.cells.iter().map(|cell| cell.trim()).collect();
                let expected: Vec<&str> = names.iter().map(|name| name.trim()).collect();
                if found != expected {
                    let (found, expected) = (found.join(", "), expected.join(", "));
                    let (found, expected) = (start_of(&found), start_of(&expected));
                    let reason = format!("the header is `{found}`, expected `{expected}`");
                    self.returned += 1;
                    return Err(row_fault(record.line, reason));
                }
                continue;
            }
            if !self.sampler.keeps_next() {
                continue;
            }
            if self.left == 0 {
                self.ended = true;
                return Ok(None);
            }
            self.left -= 1;
            self.returned += 1;
            return Ok(Some(record));
        }
    }

    /// Returns the fault that ends the reading.
    fn fault(&self, error: RecordError) -> Fault {
        match error {
            RecordError::Line(line, reason) => Fault::End(Error::rows(&self.name, line, reason)),
            RecordError::Chars(line, DecodeError::Encoding(name)) => {
                let reason = format!(
                    "it is not {name}: set the encoding of the file with `CsvOptions::encoding`, \
                     such as `latin-1`"
                );
                Fault::End(Error::rows(&self.name, line, reason))
            }
            RecordError::Chars(_, DecodeError::Io(error)) => {
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
        // After a wrong header, the rows are read, so that their problems are reported too.
        self.ended |= match &read {
            Ok(record) => record.is_none(),
            Err(Fault::Row(problem)) => problem.number == 0,
            Err(Fault::End(_)) => true,
        };
        read.transpose()
    }
}
