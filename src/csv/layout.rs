//! From rows to documents, one row after the other.

use std::{
    collections::{HashMap, VecDeque},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use finetuner_protocol::{
    Document, LABEL_TAG, SCORE_TAG,
    text::{is_blank, is_missing, may_be_missing, start_of},
};
use sha2::{Digest, Sha256};

use super::{
    Csv,
    columns::{Columns, Kind, Layout, columns, filled, warn_of_header},
    mesh,
    read::{Reading, Rows, row},
    records::Record,
};
use crate::{
    DocumentSource, Result,
    data::{Fault, Item, Numbered, local_path},
};

/// The documents of a file for a layout. The file is read anew each time that
/// they are asked for, and only a few rows are in memory.
pub(super) fn documents(csv: Csv, layout: &Layout) -> Result<DocumentSource> {
    let (name, reads_files) = (csv.name(), csv.options.convert_to_blob);
    let reading = Reading::new(csv)?;
    let columns = Columns::of_file(layout, &reading)?;
    warn_of_header(&reading);
    let shared = Arc::new(Shared {
        reading,
        columns,
        told: [const { AtomicBool::new(false) }; 3],
    });
    let source = DocumentSource::of_items(move || Documents::new(Arc::clone(&shared)));
    Ok(source.reads_own_files(reads_files).named(name))
}

struct Shared {
    reading: Reading,
    columns: Columns,
    /// Which warnings were given.
    told: [AtomicBool; 3],
}

impl Shared {
    /// Returns whether a warning is given for the first time.
    fn is_new(&self, warning: usize) -> bool {
        !self.told[warning].swap(true, Ordering::Relaxed)
    }
}

/// The documents of a file, as it is read.
struct Documents {
    shared: Arc<Shared>,
    rows: Option<Rows>,
    failed: Option<Fault>,
    /// Documents of the last row.
    ready: VecDeque<Document>,
    line: u64,
    related: Related,
}

/// What is known of earlier rows: the label of each cell, by its hash, so that
/// memory does not grow with the length of texts.
#[derive(Default)]
struct Related {
    labels: HashMap<[u8; 16], u64>,
    next: u64,
    left_out: u64,
}

impl Documents {
    fn new(shared: Arc<Shared>) -> Self {
        let (rows, failed) = match shared.reading.rows() {
            Ok(rows) => (Some(rows), None),
            Err(error) => (None, Some(Fault::End(error))),
        };
        Self {
            shared,
            rows,
            failed,
            ready: VecDeque::new(),
            line: 0,
            related: Related::default(),
        }
    }

    /// Makes the documents of a row. Some rows have none.
    fn take(&mut self, mut record: Record) -> Result<(), Fault> {
        self.line = record.line;
        let line = record.line;
        let columns = self.shared.columns;
        if columns == Columns::Texts {
            // Spreadsheets fill rows up with empty cells.
            for cell in record.cells.iter().filter(|cell| !cell.trim().is_empty()) {
                if is_blank(cell) {
                    return Err(row(line, NO_TEXT));
                }
                self.ready.push_back(Document::text(cell));
            }
            return Ok(());
        }
        let filled = filled(&record);
        // Delimiters alone.
        if filled == 0 && record.cells.len() > 1 {
            return Ok(());
        }
        if record.cells.iter().all(|cell| is_blank(cell)) {
            return Err(row(line, "it holds only spaces or empty cells: delete it"));
        }
        let wanted = columns.count();
        record.cells.truncate(filled.max(wanted));
        if record.cells.len() != wanted {
            return Err(row(line, self.wrong_width(record.cells.len(), wanted)));
        }
        match columns {
            Columns::Labelled(kind) => self.labelled(&record, kind),
            Columns::Scored(first, second) => self.scored(&record, first, second),
            Columns::Related(first, second) => self.related(&record, first, second),
            Columns::Texts => Ok(()),
        }
    }

    fn wrong_width(&self, found: usize, wanted: usize) -> String {
        let delimiter = char::from(self.shared.reading.rules.delimiter);
        format!(
            "it has {}, {wanted} are wanted; columns are separated by `{delimiter}`, which \
             `CsvOptions::dialect` can change",
            columns(found)
        )
    }

    fn labelled(&mut self, record: &Record, kind: Kind) -> Result<(), Fault> {
        let cell = record.cells[1].as_str();
        let label = cell.trim();
        if is_blank(label) {
            return Err(row(
                record.line,
                "its label is empty: give it one, or delete the row",
            ));
        }
        if is_missing(label) {
            return Err(row(
                record.line,
                format!("its label is `{label}`, a missing value: give it one, or delete the row"),
            ));
        }
        if label.len() != cell.len() && self.shared.is_new(0) {
            tracing::warn!(
                file = %start_of(&self.shared.reading.csv.name()),
                "the label `{}` in row {} has spaces around it. They are left out, here and in \
                 other rows",
                start_of(cell),
                record.line
            );
        }
        if may_be_missing(label) && self.shared.is_new(2) {
            tracing::warn!(
                file = %start_of(&self.shared.reading.csv.name()),
                "the label in row {} is `{label}`, which may stand for a missing value. It is \
                 taken for a class like others: leave such rows out where they have no label",
                record.line
            );
        }
        let document = self.item(record, 0, kind)?;
        self.ready.push_back(document.with_tag(LABEL_TAG, label));
        Ok(())
    }

    fn scored(&mut self, record: &Record, first: Kind, second: Kind) -> Result<(), Fault> {
        let cell = record.cells[2].as_str();
        let mut score = cell.to_owned();
        // A comma can be decimal where it does not separate columns.
        if self.shared.reading.rules.delimiter != b',' && cell.matches(',').count() == 1 {
            score = cell.replace(',', ".");
        }
        if !score.trim().parse::<f64>().is_ok_and(f64::is_finite) {
            let reason = match cell.trim() {
                "" => "its score is empty".to_owned(),
                cell => format!("its score is `{}`, which is not a number", start_of(cell)),
            };
            return Err(row(record.line, reason));
        }
        let (one, two) = both(self.item(record, 0, first), self.item(record, 1, second))?;
        let pair = Document::new().with_chunk(one).with_chunk(two);
        // A text, as the Python client has it.
        self.ready.push_back(pair.with_tag(SCORE_TAG, score));
        Ok(())
    }

    /// Pairs of the same meaning: each query with all its documents has a label
    /// of its own.
    fn related(&mut self, record: &Record, first: Kind, second: Kind) -> Result<(), Fault> {
        let key = |cell: &String| {
            let mut key = [0; 16];
            key.copy_from_slice(&Sha256::digest(cell)[..16]);
            key
        };
        let (a, b) = (key(&record.cells[0]), key(&record.cells[1]));
        if self.related.labels.contains_key(&a) && self.related.labels.contains_key(&b) {
            self.related.left_out += 1;
            return Ok(());
        }
        let (one, two) = both(self.item(record, 0, first), self.item(record, 1, second))?;
        let (mut one, mut two) = (
            one.with_modality(first.modality()),
            two.with_modality(second.modality()),
        );
        let known = self.related.labels.get(&a).copied();
        let label = known.unwrap_or(self.related.next);
        if known.is_none() {
            self.related.next += 1;
            self.related.labels.insert(a, label);
            one = one.with_label(label);
        }
        self.related.labels.insert(b, label);
        two = two.with_label(label);
        if first != second {
            let pair = Document::new().with_label(label);
            self.ready.push_back(pair.with_chunk(one).with_chunk(two));
            return Ok(());
        }
        if known.is_none() {
            self.ready.push_back(one);
        }
        self.ready.push_back(two);
        Ok(())
    }

    /// The item in a cell.
    fn item(&self, record: &Record, column: usize, kind: Kind) -> Result<Document, Fault> {
        let cell = record.cells[column].as_str();
        let place = column + 1;
        let bad = |reason: String| row(record.line, format!("column {place}: {reason}"));
        if kind == Kind::Text {
            return match is_blank(cell) {
                true => Err(bad(NO_TEXT.to_owned())),
                false => Ok(Document::text(cell)),
            };
        }
        if cell.is_empty() {
            let reason = format!("column {place} is empty, a file or an address is wanted");
            return Err(row(record.line, reason));
        }
        let options = &self.shared.reading.csv.options;
        let Some(path) = local_path(cell).map(|path| options.path(&path)) else {
            return Ok(with_type(Document::uri(cell), Path::new(cell)));
        };
        if !path.is_file() {
            return Err(bad(format!(
                "there is no file {}, and it is no address",
                start_of(&path.to_string_lossy())
            )));
        }
        if kind == Kind::Mesh && options.create_point_clouds {
            let cloud = mesh::point_cloud(&path, options.point_cloud_size);
            return cloud.map_err(|reason| row(record.line, reason));
        }
        let uri = path.to_string_lossy().into_owned();
        Ok(with_type(Document::uri(uri), &path))
    }

    /// Says how many rows told nothing new.
    fn end(&self) {
        let left_out = self.related.left_out;
        if left_out > 0 && self.shared.is_new(1) {
            tracing::warn!(
                file = %start_of(&self.shared.reading.csv.name()),
                "{left_out} rows are left out, since earlier rows hold both of their items"
            );
        }
    }
}

/// Both items, or all that is wrong with them.
fn both(
    one: Result<Document, Fault>,
    two: Result<Document, Fault>,
) -> Result<(Document, Document), Fault> {
    match (one, two) {
        (Ok(one), Ok(two)) => Ok((one, two)),
        (Err(Fault::Row(one)), Err(Fault::Row(two))) => {
            Err(row(one.number, format!("{}; {}", one.reason, two.reason)))
        }
        (Err(fault), _) | (_, Err(fault)) => Err(fault),
    }
}

const NO_TEXT: &str = "it holds no text that can be seen";

impl Iterator for Documents {
    type Item = Item;

    fn next(&mut self) -> Option<Item> {
        loop {
            if let Some(document) = self.ready.pop_front() {
                return Some(Ok(Numbered {
                    number: self.line,
                    document,
                }));
            }
            if let Some(fault) = self.failed.take() {
                return Some(Err(fault));
            }
            let taken = match self.rows.as_mut()?.next() {
                None => {
                    self.end();
                    self.rows = None;
                    return None;
                }
                Some(record) => record.and_then(|record| self.take(record)),
            };
            if let Err(fault) = taken {
                return Some(Err(fault));
            }
        }
    }
}

/// The document with the media type that its file's name says.
fn with_type(document: Document, path: &Path) -> Document {
    let ending = path
        .extension()
        .and_then(|ending| ending.to_str())
        .unwrap_or_default()
        .to_ascii_lowercase();
    let kind = match ending.as_str() {
        "png" => "image/png",
        "jpg" | "jpeg" => "image/jpeg",
        "gif" => "image/gif",
        "webp" => "image/webp",
        "bmp" => "image/bmp",
        "tif" | "tiff" => "image/tiff",
        "svg" => "image/svg+xml",
        _ => return document,
    };
    document.with_mime_type(kind)
}

#[cfg(test)]
mod tests;
