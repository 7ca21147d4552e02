//! Opens a file as a source of documents: determines its type and converts the
//! form's settings to reader options.

use std::path::{Path, PathBuf};

use finetuner_data::{
    Columns, Csv, CsvOptions, Dataset, Dialect, DocumentSource, FirstRow as First, Layout,
};
use finetuner_protocol::Task;

use super::{
    refusal::{Refusal, words},
    spool::Spooled,
    unzip,
};
use crate::{space::Space, submission::MAX_DOCUMENTS};

/// Kind of documents that rows are converted to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Rows {
    /// Training data for a model with this task.
    Of(Task),
    /// Texts from which a synthesis run generates training data.
    Texts,
}

/// Interpretation of the first row of a CSV file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum FirstRow {
    #[default]
    Guess,
    Names,
    Data,
}

/// Settings for reading a file.
#[derive(Clone, Debug)]
pub(crate) struct Reading {
    pub(crate) rows: Rows,
    pub(crate) columns: Columns,
    // The remaining settings apply to CSV files only.
    pub(crate) first_row: FirstRow,
    pub(crate) delimiter: Option<u8>,
    pub(crate) encoding: Option<String>,
    pub(crate) is_labeled: bool,
}

/// File types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Csv,
    JsonLines,
    Parquet,
    Zip,
}

impl Kind {
    /// Returns the type of a file from its first bytes, else from its extension.
    fn of(path: &Path) -> Option<Self> {
        let mut head = [0; 4];
        let file = std::fs::File::open(path);
        let _ = file.and_then(|mut file| std::io::Read::read_exact(&mut file, &mut head));
        match &head {
            b"PK\x03\x04" | b"PK\x05\x06" => Some(Self::Zip),
            b"PAR1" => Some(Self::Parquet),
            _ => Self::of_name(path).filter(|kind| !matches!(kind, Self::Zip | Self::Parquet)),
        }
    }

    fn of_name(path: &Path) -> Option<Self> {
        let ending = path.extension()?.to_str()?.to_ascii_lowercase();
        match ending.as_str() {
            "csv" | "tsv" | "txt" => Some(Self::Csv),
            "jsonl" | "ndjson" => Some(Self::JsonLines),
            "parquet" => Some(Self::Parquet),
            "zip" => Some(Self::Zip),
            _ => None,
        }
    }
}

/// Returns the documents of a file.
pub(super) fn source(
    spooled: &Spooled,
    reading: &Reading,
    space: &Space,
) -> Result<DocumentSource, Refusal> {
    let path = spooled.path();
    // An empty folder as base, so that a single file can't refer to other files.
    let files = spooled.folder().join("files");
    std::fs::create_dir(&files).map_err(super::spool::stored)?;
    let (path, base) = match Kind::of(&path) {
        Some(Kind::Zip) => {
            let table = table_of(unzip::unzip(&path, &files, space, is_table)?, &files)?;
            let base = table.parent().unwrap_or(&files).to_owned();
            (table, base)
        }
        _ => (path, files),
    };
    let kind = Kind::of(&path).ok_or_else(|| {
        Refusal::Field(
            "file",
            "it is not a CSV, JSON Lines or Parquet file, nor a zip of images with one of them: \
             the ending of its name says what it is (.csv, .tsv, .jsonl, .parquet, .zip)"
                .to_owned(),
        )
    })?;
    let layout = match &reading.rows {
        Rows::Texts => Layout::TEXTS,
        Rows::Of(task) => Layout::of_task(task).map_err(|e| in_field("rows", &e))?,
    };
    let source = match kind {
        Kind::Csv => Csv::path(path)
            .options(csv(reading, base))
            .documents(layout),
        Kind::JsonLines => of_rows(reading, Dataset::json_lines(path), base, layout)?,
        Kind::Parquet => of_rows(reading, Dataset::parquet(path), base, layout)?,
        Kind::Zip => {
            return Err(Refusal::Field(
                "file",
                "it is a zip in a zip: upload the inner zip".to_owned(),
            ));
        }
    };
    source.map_err(|error| Refusal::data(error, spooled.folder()))
}

fn in_field(field: &'static str, error: &finetuner_data::Error) -> Refusal {
    Refusal::Field(field, words(&error.to_string()))
}

fn is_table(path: &Path) -> bool {
    matches!(
        Kind::of_name(path),
        Some(Kind::Csv | Kind::JsonLines | Kind::Parquet)
    )
}

/// Returns the file of a zip that contains the rows.
fn table_of(mut tables: Vec<PathBuf>, files: &Path) -> Result<PathBuf, Refusal> {
    if tables.len() > 1 {
        let is_metadata = |path: &PathBuf| path.file_stem().is_some_and(|stem| stem == "metadata");
        if tables.iter().filter(|path| is_metadata(path)).count() == 1 {
            tables.retain(is_metadata);
        }
    }
    match tables.len() {
        1 => Ok(tables.remove(0)),
        0 => Err(Refusal::Field(
            "file",
            "the zip has no CSV, JSON Lines or Parquet file that names its images: add one, such \
             as a `metadata.csv` with the columns `file_name` and `caption`"
                .to_owned(),
        )),
        _ => {
            let names = tables.iter().take(5).map(|path| {
                let name = path.strip_prefix(files).unwrap_or(path);
                format!("`{}`", name.display())
            });
            Err(Refusal::Field(
                "file",
                format!(
                    "the zip has {} files of rows ({}): leave one in it, or call it `metadata.csv`",
                    tables.len(),
                    names.collect::<Vec<_>>().join(", ")
                ),
            ))
        }
    }
}

fn csv(reading: &Reading, base: PathBuf) -> CsvOptions {
    let mut options = CsvOptions::new()
        .confined(base)
        .columns(reading.columns.clone())
        .is_labeled(reading.is_labeled)
        .size(MAX_DOCUMENTS + 1)
        .first_row(match reading.first_row {
            FirstRow::Guess => First::Guess,
            FirstRow::Names => First::Names,
            FirstRow::Data => First::Data,
        });
    if let Some(delimiter) = reading.delimiter {
        options = options.dialect(Dialect::Custom {
            delimiter,
            quote: b'"',
            escape: None,
            skip_initial_space: false,
        });
    }
    match &reading.encoding {
        Some(encoding) => options.encoding(encoding),
        None => options,
    }
}

/// Returns the documents of a file whose columns always have names. Rejects
/// options for CSV files.
fn of_rows(
    reading: &Reading,
    rows: Dataset,
    base: PathBuf,
    layout: Layout,
) -> Result<Result<DocumentSource, finetuner_data::Error>, Refusal> {
    let set = [
        ("first_row", reading.first_row != FirstRow::Guess),
        ("delimiter", reading.delimiter.is_some()),
        ("encoding", reading.encoding.is_some()),
        ("labeled", reading.is_labeled),
    ];
    if let Some((field, _)) = set.into_iter().find(|(_, is_set)| *is_set) {
        let reason = "it applies to CSV files only: leave it at its default".to_owned();
        return Err(Refusal::Field(field, reason));
    }
    let rows = rows.columns(reading.columns.clone()).confined(base);
    Ok(rows.size(MAX_DOCUMENTS + 1).documents(layout))
}
