//! Parquet files. One page of each column is in memory at a time.

mod header;
mod pages;

use std::{
    fs::File,
    io::{Cursor, Read, Seek},
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
};

use bytes::Bytes;
use finetuner_protocol::text::start_of;
use parquet::{
    errors::ParquetError,
    file::reader::{ChunkReader, FileReader, SerializedFileReader},
    record::{Field, Row as Record, reader::RowIter},
};

use crate::{
    error::{Error, Result},
    input::Input,
    named_table::NamedTable,
    options::Options,
    source::Fault,
    table::{Cell, Row, Rows},
};

/// Rows of the sample from which the roles of the columns are detected.
const SAMPLE: usize = 50;
/// Bytes after which the sample of a file from another user ends.
const MAX_SAMPLE: usize = 16 << 20;

/// Opens a file and reads its first rows.
pub(crate) fn open(path: PathBuf, options: Options) -> Result<NamedTable> {
    options.check()?;
    let input = Input::Path(path).repeatable()?;
    let name = input.name("the Parquet file");
    if options.is_untrusted {
        check_limits(&input, &name)?;
    }
    let reader = reader_of(&input, &name)?;
    let schema = reader.metadata().file_metadata().schema();
    let columns = schema.get_fields().iter();
    let names = columns.map(|column| column.name().to_owned()).collect();
    let limit = options.is_untrusted.then_some(options.max_row());
    let mut size = 0;
    let sample = rows(&input, &name, limit)?.take(SAMPLE);
    let sample = sample.map_while(Result::ok).take_while(|row| {
        size += size_of_row(row);
        !options.is_untrusted || size <= MAX_SAMPLE
    });
    let sample = sample.collect();
    let file = name.clone();
    let read = move || Ok(Box::new(rows(&input, &file, limit)?) as Rows);
    Ok(NamedTable::new(name, options, names, sample, read))
}

/// Returns all rows from the start of a file. The first error ends them. `limit` is the
/// maximum size of a row in bytes.
fn rows(
    input: &Input,
    name: &str,
    limit: Option<usize>,
) -> Result<impl Iterator<Item = Result<Row, Fault>> + Send + use<>> {
    let (name, reader) = (name.to_owned(), reader_of(input, name)?);
    let mut records = Some(RowIter::from_file_into(reader));
    Ok((1..).map_while(move |number| {
        let from = records.as_mut()?;
        let next = catching(|| from.next());
        let end = match next {
            Ok(None) => return None,
            Ok(Some(Ok(record))) => {
                let cells = record.get_column_iter().map(|(_, field)| cell(field));
                let row = Row {
                    number,
                    cells: cells.collect(),
                };
                let Some(limit) = limit.filter(|limit| size_of_row(&row) > *limit) else {
                    return Some(Ok(row));
                };
                let reason = format!("the row is larger than {} MiB", limit >> 20);
                Error::rows(&name, number, reason)
            }
            Ok(Some(Err(error))) => broken(&name, number, &error.to_string()),
            Err(Panicked) => broken(&name, number, CORRUPT),
        };
        records = None;
        Some(Err(Fault::End(end)))
    }))
}

/// Checks the size of a file from another user in memory, before it is read.
fn check_limits(input: &Input, name: &str) -> Result<()> {
    fn check(mut file: impl Read + Seek, input: &Input, name: &str) -> Result<()> {
        let rejected = |reason: String| Error::rows(name, 0, reason);
        pages::check_footer(&mut file).map_err(rejected)?;
        let reader = reader_of(input, name)?;
        // `ColumnChunkMetaData::byte_range` panics on negative offsets and sizes.
        let checked = catching(|| pages::check_pages(file, reader.metadata()));
        let checked = checked.map_err(|Panicked| broken(name, 0, CORRUPT))?;
        checked.map_err(rejected)
    }
    match input {
        Input::Path(path) => {
            let file = File::open(path).map_err(|e| Error::file(path, e))?;
            check(file, input, name)
        }
        Input::Bytes(bytes) => check(Cursor::new(bytes), input, name),
    }
}

/// Creates the error of a file that can't be parsed from a row on.
fn broken(name: &str, number: u64, reason: &str) -> Error {
    let reason = start_of(reason);
    Error::rows(
        name,
        number,
        format!("the Parquet file can't be read: {reason}"),
    )
}

/// The reason if the reader panics.
const CORRUPT: &str = "the file is corrupt";

/// Panic of the reader.
struct Panicked;

/// Calls the reader, which panics on some corrupt files.
fn catching<T>(read: impl FnOnce() -> T) -> Result<T, Panicked> {
    catch_unwind(AssertUnwindSafe(read)).map_err(|_| Panicked)
}

/// Opens a file and parses its footer.
fn reader_of(input: &Input, name: &str) -> Result<Box<dyn FileReader>> {
    fn reader(from: impl ChunkReader + 'static) -> Result<Box<dyn FileReader>, ParquetError> {
        Ok(Box::new(SerializedFileReader::new(from)?))
    }
    let opened = match input {
        Input::Path(path) => {
            let file = File::open(path).map_err(|e| Error::file(path, e))?;
            catching(|| reader(file))
        }
        Input::Bytes(bytes) => catching(|| reader(Bytes::from_owner(bytes.clone()))),
    };
    match opened {
        Ok(opened) => opened.map_err(|e| broken(name, 0, &e.to_string())),
        Err(Panicked) => Err(broken(name, 0, CORRUPT)),
    }
}

/// Returns the bytes of a row's texts and images.
fn size_of_row(row: &Row) -> usize {
    fn size(cell: &Cell) -> usize {
        match cell {
            Cell::Text(text) => text.len(),
            Cell::Bytes(bytes) => bytes.len(),
            _ => 0,
        }
    }
    row.cells.iter().map(size).sum()
}

/// Returns a Parquet value as a cell.
fn cell(field: &Field) -> Cell {
    match field {
        Field::Null => Cell::Missing,
        Field::Str(text) => Cell::Text(text.clone()),
        Field::Bytes(bytes) => Cell::Bytes(bytes.data().to_vec()),
        Field::Group(group) => image(group),
        Field::ListInternal(list) => Cell::of_list(list.elements().iter().map(cell)),
        Field::Bool(value) => Cell::Text(value.to_string()),
        Field::Byte(n) => Cell::Text(n.to_string()),
        Field::Short(n) => Cell::Text(n.to_string()),
        Field::Int(n) => Cell::Text(n.to_string()),
        Field::Long(n) => Cell::Text(n.to_string()),
        Field::UByte(n) => Cell::Text(n.to_string()),
        Field::UShort(n) => Cell::Text(n.to_string()),
        Field::UInt(n) => Cell::Text(n.to_string()),
        Field::ULong(n) => Cell::Text(n.to_string()),
        Field::Float16(n) => Cell::Text(n.to_string()),
        Field::Float(n) => Cell::Text(n.to_string()),
        Field::Double(n) => Cell::Text(n.to_string()),
        _ => Cell::Other("a date, a decimal or a map"),
    }
}

/// Returns an image as the library `datasets` writes it: its bytes, or else its path.
fn image(image: &Record) -> Cell {
    let member = |member: &str| {
        let mut members = image.get_column_iter();
        let found = members.find(|(name, _)| name.as_str() == member);
        found.map_or(Cell::Missing, |(_, field)| cell(field))
    };
    match (member("bytes"), member("path")) {
        (Cell::Bytes(bytes), _) => Cell::Bytes(bytes),
        (Cell::Missing, Cell::Text(path)) => Cell::Text(path),
        _ => Cell::Other("an object"),
    }
}
