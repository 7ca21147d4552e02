//! Converts rows to documents, one row at a time.

mod cells;
mod pairs;
mod shared;

use std::{collections::VecDeque, sync::Arc};

use finetuner_protocol::{Document, LABEL_TAG, SCORE_TAG, text::is_blank};
use serde_json::Value;

use crate::{
    error::Result,
    layout::Layout,
    roles::{Meaning, Roles, column_count_text, count_filled_columns, warn_of_header},
    source::{DocumentSource, Fault, Item, Numbered},
    table::{Cell, Row, Rows, Table, row_fault},
};
use cells::{NO_TEXT, both_or_problems};
use pairs::Clusters;
use shared::{Shared, Warning};

/// Returns the documents of a file for a layout.
///
/// Each iteration reads the file from its start.
pub(crate) fn documents(table: Box<dyn Table>, layout: &Layout) -> Result<DocumentSource> {
    let (name, reads_files) = (table.name().to_owned(), table.options().convert_to_blob);
    let roles = Roles::of_table(layout, &*table)?;
    warn_of_header(&*table);
    let shared = Arc::new(Shared::new(table, roles));
    let source = DocumentSource::of_items(move || Documents::new(Arc::clone(&shared)));
    Ok(source.reads_own_files(reads_files).named(name))
}

/// Iterator over the documents of a file.
struct Documents {
    shared: Arc<Shared>,
    rows: Option<Rows>,
    failed: Option<Fault>,
    /// Documents of the current row that were not returned yet.
    ready: VecDeque<Document>,
    line: u64,
    clusters: Clusters,
}

impl Documents {
    fn new(shared: Arc<Shared>) -> Self {
        let (rows, failed) = match shared.table.rows() {
            Ok(rows) => (Some(rows), None),
            Err(error) => (None, Some(Fault::End(error))),
        };
        Self {
            shared,
            rows,
            failed,
            ready: VecDeque::new(),
            line: 0,
            clusters: Clusters::default(),
        }
    }

    /// Creates the documents of a row. Empty rows and repeated pairs have none.
    fn convert(&mut self, mut record: Row) -> Result<(), Fault> {
        self.line = record.number;
        let shared = Arc::clone(&self.shared);
        let roles = &shared.roles;
        if roles.meaning == Meaning::Texts {
            return self.texts(&record);
        }
        if let Some(delimiter) = shared.table.delimiter() {
            let filled = count_filled_columns(&record);
            // Exports of spreadsheets may end with rows of delimiters only.
            if filled == 0 && record.cells.len() > 1 {
                return Ok(());
            }
            let is_blank = |cell: &Cell| cell.text().is_some_and(is_blank);
            if record.cells.iter().all(is_blank) {
                return Err(row_fault(
                    record.number,
                    "it has only spaces or empty cells: delete it",
                ));
            }
            record.cells.truncate(filled.max(roles.width));
            if record.cells.len() != roles.width {
                return Err(row_fault(
                    record.number,
                    format!(
                        "it has {}, expected {}; columns are separated by `{delimiter}`, which \
                         `CsvOptions::dialect` can change",
                        column_count_text(record.cells.len()),
                        roles.width
                    ),
                ));
            }
        }
        match roles.meaning {
            Meaning::Labelled => self.labelled(&record, roles),
            Meaning::Scored => self.scored(&record, roles),
            Meaning::Related => {
                let documents = self.clusters.related(&shared, &record)?;
                self.ready.extend(documents);
                Ok(())
            }
            Meaning::Chunks => self.chunks(&record, roles),
            Meaning::Texts => Ok(()),
        }
    }

    /// Creates a document of every cell that is not empty.
    fn texts(&mut self, record: &Row) -> Result<(), Fault> {
        for (column, cell) in record.cells.iter().enumerate() {
            let texts = match cell {
                Cell::List(texts) => texts.as_slice(),
                Cell::Text(text) => std::slice::from_ref(text),
                Cell::Missing => &[],
                Cell::Bytes(_) | Cell::Other(_) => {
                    let place = self.shared.table.column(column);
                    return Err(row_fault(record.number, format!("{place} has no text")));
                }
            };
            for text in texts.iter().filter(|text| !text.trim().is_empty()) {
                if is_blank(text) {
                    return Err(row_fault(record.number, NO_TEXT));
                }
                self.ready.push_back(Document::text(text));
            }
        }
        Ok(())
    }

    fn labelled(&mut self, record: &Row, roles: &Roles) -> Result<(), Fault> {
        let label = match roles.label {
            Some(column) => self.shared.label(record, column)?,
            None => String::new(),
        };
        for field in &roles.items {
            for document in self.shared.items(record, *field)? {
                self.ready
                    .push_back(document.with_tag(LABEL_TAG, label.as_str()));
            }
        }
        Ok(())
    }

    fn scored(&mut self, record: &Row, roles: &Roles) -> Result<(), Fault> {
        let [first, second] = roles.items[..] else {
            return Ok(());
        };
        let mut scores = Vec::new();
        for column in &roles.scores {
            scores.extend(self.shared.scores(record, *column)?);
        }
        let [score] = &scores[..] else {
            let reason = format!("it has {} scores, expected one for a pair", scores.len());
            return Err(row_fault(record.number, reason));
        };
        let (one, two) = both_or_problems(
            self.shared.item(record, first),
            self.shared.item(record, second),
        )?;
        let pair = Document::new().with_chunk(one).with_chunk(two);
        self.ready
            .push_back(pair.with_tag(SCORE_TAG, score.as_str()));
        Ok(())
    }

    /// Creates one document with an item in each chunk: an anchor, its positive and its
    /// negatives.
    fn chunks(&mut self, record: &Row, roles: &Roles) -> Result<(), Fault> {
        let mut document = Document::new();
        let (mut problems, mut count) = (Vec::new(), 0);
        let mixed = roles
            .items
            .iter()
            .any(|item| item.kind != roles.items[0].kind);
        for field in &roles.items {
            match self.shared.items(record, *field) {
                Ok(items) => {
                    for item in items {
                        count += 1;
                        let item = match mixed {
                            true => item.with_modality(field.kind.modality()),
                            false => item,
                        };
                        document = document.with_chunk(item);
                    }
                }
                Err(Fault::Row(problem)) => problems.push(problem.reason),
                Err(end) => return Err(end),
            }
        }
        if !problems.is_empty() {
            return Err(row_fault(record.number, problems.join("; ")));
        }
        let mut scores = Vec::new();
        for column in &roles.scores {
            scores.extend(self.shared.scores(record, *column)?);
        }
        let negatives = usize::saturating_sub(count, 2);
        match scores.len() {
            0 => {}
            1 => document = document.with_tag(SCORE_TAG, scores.remove(0)),
            n if n == negatives || n == negatives + 1 => {
                let numbers = scores.iter().map(|score| score.trim().parse::<f64>());
                let numbers: Vec<Value> = numbers.flatten().map(Value::from).collect();
                document = document.with_tag(SCORE_TAG, numbers);
            }
            n => {
                let reason = format!(
                    "it has {n} scores and {negatives} negatives: give one score for each \
                     negative, or one for the positive and each negative"
                );
                return Err(row_fault(record.number, reason));
            }
        }
        if let Some(column) = roles.label {
            document = document.with_tag(LABEL_TAG, self.shared.label(record, column)?);
        }
        self.ready.push_back(document);
        Ok(())
    }

    /// Warns of pairs that were skipped.
    fn warn_of_repeats(&self) {
        let repeated = self.clusters.repeated;
        if repeated > 0 && self.shared.is_first(Warning::RepeatedPairs) {
            tracing::warn!(
                file = %self.shared.file(),
                "{repeated} rows are skipped, because both of their items are in earlier rows"
            );
        }
    }
}

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
            let result = match self.rows.as_mut()?.next() {
                None => {
                    self.warn_of_repeats();
                    self.rows = None;
                    return None;
                }
                Some(record) => record.and_then(|record| self.convert(record)),
            };
            if let Err(fault) = result {
                return Some(Err(fault));
            }
        }
    }
}

#[cfg(test)]
mod tests;
