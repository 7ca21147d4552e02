//! Reads the items, labels and scores in the cells of a row. A cell that can't be used
//! is an error with its row and column.

use std::{fs::File, io::Read, path::Path};

use finetuner_protocol::{
    Document,
    text::{is_blank, is_missing, may_be_missing, start_of},
};

use super::shared::{Shared, Warning};
use crate::{
    layout::Kind,
    mesh,
    roles::Field,
    source::Fault,
    table::{Cell, Row, row_fault},
    uri::local_path,
};

/// The reason for content in an unsupported image format.
const NO_IMAGE: &str = "it is not an image in a supported format (PNG, JPEG, GIF, WebP, BMP)";
/// The reason for a text of spaces and invisible characters only.
pub(super) const NO_TEXT: &str = "it has no visible text";

impl Shared {
    /// Returns the text of a cell. It is empty for a missing value.
    pub(super) fn text<'a>(&self, record: &'a Row, column: usize) -> Result<&'a str, Fault> {
        let what = match record.cells.get(column) {
            None => return Ok(""),
            Some(cell) => match cell {
                Cell::Text(text) => return Ok(text),
                Cell::Missing => return Ok(""),
                Cell::List(_) => "a list",
                Cell::Bytes(_) => "bytes",
                Cell::Other(what) => what,
            },
        };
        let place = self.table.column(column);
        Err(row_fault(
            record.number,
            format!("{place} holds {what}, expected a text"),
        ))
    }

    /// Returns the label of a row without spaces around it.
    pub(super) fn label(&self, record: &Row, column: usize) -> Result<String, Fault> {
        let cell = self.text(record, column)?;
        let label = cell.trim();
        if is_blank(label) {
            return Err(row_fault(
                record.number,
                "its label is empty: give it one, or delete the row",
            ));
        }
        if is_missing(label) {
            return Err(row_fault(
                record.number,
                format!("its label is `{label}`, a missing value: give it one, or delete the row"),
            ));
        }
        if label.len() != cell.len() && self.is_first(Warning::SpacesAroundLabel) {
            tracing::warn!(
                file = %self.file(),
                "the label `{}` in row {} has spaces around it. Spaces around labels are removed \
                 in all rows",
                start_of(cell),
                record.number
            );
        }
        if may_be_missing(label) && self.is_first(Warning::LikelyMissingLabel) {
            tracing::warn!(
                file = %self.file(),
                "the label in row {} is `{label}`, which may be a placeholder for a missing value. \
                 It is used as a label: delete such rows if they have no label",
                record.number
            );
        }
        Ok(label.to_owned())
    }

    /// Returns the scores in a cell, as texts like the Python client's.
    pub(super) fn scores(&self, record: &Row, column: usize) -> Result<Vec<String>, Fault> {
        let list = match record.cells.get(column) {
            Some(Cell::List(list)) => list.clone(),
            _ => match self.text(record, column)? {
                // A list of scores in one CSV cell: `[0.5, 1]`.
                text if text.trim_start().starts_with('[') => {
                    let inner = text.trim().trim_start_matches('[').trim_end_matches(']');
                    inner
                        .split(',')
                        .map(|text| text.trim().to_owned())
                        .collect()
                }
                text => vec![text.to_owned()],
            },
        };
        let comma = self.table.delimiter() == Some(',');
        let score = |cell: String| {
            let mut score = cell.clone();
            // If commas do not separate columns, a comma may be a decimal comma.
            if !comma && cell.matches(',').count() == 1 {
                score = cell.replace(',', ".");
            }
            if score.trim().parse::<f64>().is_ok_and(f64::is_finite) {
                return Ok(score);
            }
            let reason = match cell.trim() {
                "" => "its score is empty".to_owned(),
                cell => format!("its score is `{}`, which is not a number", start_of(cell)),
            };
            Err(row_fault(record.number, reason))
        };
        list.into_iter().map(score).collect()
    }

    /// Returns the items in a cell: one, or several for a list.
    pub(super) fn items(&self, record: &Row, field: Field) -> Result<Vec<Document>, Fault> {
        let Some(Cell::List(list)) = record.cells.get(field.column) else {
            return self.item(record, field).map(|item| vec![item]);
        };
        if list.is_empty() {
            let place = self.table.column(field.column);
            return Err(row_fault(
                record.number,
                format!("{place} has an empty list"),
            ));
        }
        let item = |text: &String| self.item_of(record.number, field, text);
        list.iter().map(item).collect()
    }

    /// Returns the only item in a cell.
    pub(super) fn item(&self, record: &Row, field: Field) -> Result<Document, Fault> {
        match record.cells.get(field.column) {
            Some(Cell::Bytes(bytes)) if field.kind == Kind::Image => {
                if self.table.options().is_untrusted && !is_image(bytes) {
                    let place = self.table.column(field.column);
                    return Err(row_fault(record.number, format!("{place}: {NO_IMAGE}")));
                }
                Ok(Document::blob(bytes.clone()))
            }
            _ => {
                let text = self.text(record, field.column)?;
                self.item_of(record.number, field, text)
            }
        }
    }

    /// Creates an item of a text, or of the path or URL of an image or mesh.
    fn item_of(&self, number: u64, field: Field, cell: &str) -> Result<Document, Fault> {
        let place = self.table.column(field.column);
        let bad = |reason: String| row_fault(number, format!("{place}: {reason}"));
        if field.kind == Kind::Text {
            return match is_blank(cell) {
                true => Err(bad(NO_TEXT.to_owned())),
                false => Ok(Document::text(cell)),
            };
        }
        if cell.is_empty() {
            let reason = format!("{place} is empty, expected a path or a URL");
            return Err(row_fault(number, reason));
        }
        let options = self.table.options();
        let Some(path) = local_path(cell) else {
            return Ok(with_type(Document::uri(cell), Path::new(cell)));
        };
        if options.is_outside(&path) {
            let shown = start_of(cell);
            return Err(bad(format!(
                "`{shown}` is outside the folder that files must be in: copy the file into the \
                 folder"
            )));
        }
        let path = options.path(&path);
        if !path.is_file() {
            return Err(bad(format!(
                "there is no file `{}`, and it is not a URL",
                start_of(&path.to_string_lossy())
            )));
        }
        if field.kind == Kind::Image && options.is_untrusted && !is_image(&head_of(&path)) {
            let shown = start_of(cell);
            return Err(bad(format!("`{shown}`: {NO_IMAGE}")));
        }
        if field.kind == Kind::Mesh && options.is_untrusted {
            return Err(bad(
                "meshes are not read from files of others: push the data with a program".to_owned(),
            ));
        }
        if field.kind == Kind::Mesh && options.create_point_clouds {
            let cloud = mesh::point_cloud(&path, options.point_cloud_size);
            return cloud.map_err(|reason| row_fault(number, reason));
        }
        let uri = path.to_string_lossy().into_owned();
        Ok(with_type(Document::uri(uri), &path))
    }
}

/// Returns both items, or the problems of both in one error.
pub(super) fn both_or_problems(
    one: Result<Document, Fault>,
    two: Result<Document, Fault>,
) -> Result<(Document, Document), Fault> {
    match (one, two) {
        (Ok(one), Ok(two)) => Ok((one, two)),
        (Err(Fault::Row(one)), Err(Fault::Row(two))) => Err(row_fault(
            one.number,
            format!("{}; {}", one.reason, two.reason),
        )),
        (Err(fault), _) | (_, Err(fault)) => Err(fault),
    }
}

/// Returns the first 12 bytes of a file, or none if it can't be read.
fn head_of(path: &Path) -> Vec<u8> {
    let mut head = Vec::new();
    if let Ok(file) = File::open(path) {
        let _ = file.take(12).read_to_end(&mut head);
    }
    head
}

/// Returns whether bytes begin like an image in a supported format.
fn is_image(bytes: &[u8]) -> bool {
    const STARTS: [&[u8]; 4] = [b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF8", b"BM"];
    let is_webp = bytes.starts_with(b"RIFF") && bytes.get(8..12) == Some(b"WEBP");
    is_webp || STARTS.iter().any(|start| bytes.starts_with(start))
}

/// Sets the media type of an image by the extension of its file name.
fn with_type(document: Document, path: &Path) -> Document {
    let kind = mime_guess::from_path(path).first_raw();
    match kind.filter(|kind| kind.starts_with("image/")) {
        Some(kind) => document.with_mime_type(kind),
        None => document,
    }
}
