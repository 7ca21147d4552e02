//! What the columns of a file hold, decided from its first rows.

use std::path::{Path, PathBuf};

use finetuner_protocol::{Task, text::start_of};

use super::{CsvOptions, read::Reading, records::Record};
use crate::{Error, Result, data::local_path};

/// What columns mean.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Layout {
    /// Items of the two kinds that a model compares.
    Items { first: Kind, second: Kind },
    /// Every cell is a text.
    Texts,
}

/// What an item is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Text,
    Image,
    Mesh,
}

impl Kind {
    pub(super) fn modality(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Image => "image",
            Self::Mesh => "mesh",
        }
    }
}

impl Layout {
    /// Returns the layout of the columns for a model with this task.
    pub(crate) fn of_task(task: &Task) -> Result<Self> {
        let (first, second) = match task {
            Task::TextToText => (Kind::Text, Kind::Text),
            Task::ImageToImage => (Kind::Image, Kind::Image),
            Task::TextToImage => (Kind::Text, Kind::Image),
            Task::MeshToMesh => (Kind::Mesh, Kind::Mesh),
            other => {
                return Err(Error::setup(format!(
                    "a model for {other} can't be trained on a CSV file: give documents"
                )));
            }
        };
        Ok(Self::Items { first, second })
    }
}

/// What each column of a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Columns {
    /// An item and its label.
    Labelled(Kind),
    /// Two items and how similar they are.
    Scored(Kind, Kind),
    /// Two items of the same meaning.
    Related(Kind, Kind),
    /// Every cell is a text.
    Texts,
}

impl Columns {
    /// How many there are.
    pub(super) fn count(self) -> usize {
        match self {
            Self::Scored(..) => 3,
            _ => 2,
        }
    }

    pub(super) fn of_file(layout: &Layout, reading: &Reading) -> Result<Self> {
        let Layout::Items { first, second } = *layout else {
            return Ok(Self::Texts);
        };
        let (options, sample) = (&reading.csv.options, &reading.sample);
        // Text and picture may come in either order, the same in all rows.
        let places = |column: usize| {
            let cells = sample.iter().filter_map(|row| row.cells.get(column));
            cells.filter(|cell| options.names_something(cell)).count()
        };
        let (first, second) = match (first, second) {
            (Kind::Text, Kind::Image) if places(0) > places(1) => (Kind::Image, Kind::Text),
            kinds => kinds,
        };
        if options.is_labeled {
            return Ok(Self::Labelled(first));
        }
        match usual_width(sample) {
            // No rows is an error of the reading.
            None | Some(2) => Ok(Self::Related(first, second)),
            Some(3) => Ok(Self::Scored(first, second)),
            Some(width) => {
                let number = sample.first().map_or(0, |row| row.line);
                let reason = format!(
                    "Can not determine the context of the csv: it has {}, separated by `{}`; two \
                     items, two items and a score, or an item and a label are possible",
                    columns(width),
                    char::from(reading.rules.delimiter)
                );
                Err(Error::rows(&reading.csv.name(), number, reason))
            }
        }
    }
}

/// `1 column`, `2 columns`.
pub(super) fn columns(count: usize) -> String {
    format!("{count} column{}", if count == 1 { "" } else { "s" })
}

/// The number of columns that most rows have, empty ones at the end left out;
/// of the first row, where that is in doubt.
fn usual_width(sample: &[Record]) -> Option<usize> {
    let widths: Vec<usize> = sample
        .iter()
        .map(filled)
        .filter(|width| *width > 0)
        .collect();
    let count = |width: usize| widths.iter().filter(|other| **other == width).count();
    let first = *widths.first()?;
    let most = widths.iter().copied().max_by_key(|width| count(*width))?;
    Some(if count(most) > count(first) {
        most
    } else {
        first
    })
}

/// How many columns a row has up to the last that is not empty.
pub(super) fn filled(row: &Record) -> usize {
    let last = row.cells.iter().rposition(|cell| !cell.is_empty());
    last.map_or(0, |last| last + 1)
}

/// Warns of a first row that looks like the names of columns.
pub(super) fn warn_of_header(reading: &Reading) {
    const NAMES: [&str; 24] = [
        "answer",
        "anchor",
        "caption",
        "category",
        "class",
        "description",
        "doc",
        "document",
        "file",
        "filename",
        "image",
        "img",
        "item",
        "label",
        "mesh",
        "path",
        "picture",
        "positive",
        "query",
        "question",
        "score",
        "text",
        "title",
        "url",
    ];
    let Some(row) = reading.sample.first().filter(|row| row.cells.len() > 1) else {
        return;
    };
    let is_name = |cell: &String| {
        let cell = cell.trim().to_ascii_lowercase();
        NAMES.contains(&cell.trim_end_matches(|c: char| c.is_ascii_digit() || c == '_'))
    };
    if reading.csv.options.header.is_none() && row.cells.iter().all(is_name) {
        tracing::warn!(
            file = %start_of(&reading.csv.name()),
            "the first row looks like a header (`{}`) and is read as data: name its columns with \
             `CsvOptions::header` to leave it out",
            start_of(&row.cells.join(", "))
        );
    }
}

impl CsvOptions {
    pub(super) fn path(&self, path: &Path) -> PathBuf {
        match &self.base_folder {
            Some(folder) => folder.join(path),
            None => path.to_owned(),
        }
    }

    /// Whether a cell is an address, a file, or could be one.
    fn names_something(&self, cell: &str) -> bool {
        match local_path(cell) {
            None => !cell.is_empty() && !cell.contains(char::is_whitespace),
            Some(path) => {
                let path = self.path(&path);
                let folder = path.parent().filter(|p| !p.as_os_str().is_empty());
                path.exists() || (cell.contains(['/', '\\']) && folder.is_some_and(Path::is_dir))
            }
        }
    }
}
