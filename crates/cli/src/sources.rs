//! Data of an option: a file, a folder of images, standard input, or the name of
//! data at the backend.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use clap::{Args, ValueEnum};
use finetuner::{
    Columns, Csv, CsvOptions, DataSource, Dataset, Dialect, Document, DocumentSource, LABEL_TAG,
};

use crate::failure::{Failure, Result};

/// Extensions of image files.
const IMAGES: [&str; 6] = ["png", "jpg", "jpeg", "gif", "webp", "bmp"];

/// Options for reading files of rows.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Reading files")]
pub(crate) struct Reading {
    /// Meaning of a named column: anchor, positive, negative, text, image, label or
    /// score, such as anchor=title; may be given several times
    #[arg(long = "column", value_name = "ROLE=NAME", value_parser = column)]
    columns: Vec<(Role, String)>,
    /// CSV: the last column contains labels
    #[arg(long)]
    labeled: bool,
    /// Maximum number of rows to read from each file
    #[arg(long, value_name = "N")]
    rows: Option<u64>,
    /// Probability of reading each row, from 0 to 1
    #[arg(long, value_name = "PART")]
    sampling_rate: Option<f64>,
    /// Base folder of relative image paths in the file [default: the current
    /// one]
    #[arg(long, value_name = "DIR")]
    base_folder: Option<PathBuf>,
    /// CSV: the encoding, such as windows-1252 [default: detected]
    #[arg(long, value_name = "NAME")]
    encoding: Option<String>,
    /// CSV: the delimiter, one character [default: detected]
    #[arg(long, value_name = "CHAR", value_parser = delimiter)]
    delimiter: Option<u8>,
    #[arg(skip)]
    read: Arc<Read>,
}

/// Kinds of files that were read with the options.
#[derive(Debug, Default)]
struct Read {
    rows: AtomicBool,
    csv: AtomicBool,
}

/// Meaning of a column.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Role {
    Anchor,
    Positive,
    Negative,
    Text,
    Image,
    Label,
    Score,
}

fn column(text: &str) -> Result<(Role, String), String> {
    let remedy = "write ROLE=NAME with one of the roles anchor, positive, negative, text, image, \
                  label, score";
    let (role, name) = text
        .split_once('=')
        .ok_or_else(|| format!("there is no `=` in it: {remedy}"))?;
    let role =
        Role::from_str(role, true).map_err(|_| format!("`{role}` is not a role: {remedy}"))?;
    Ok((role, name.to_owned()))
}

fn delimiter(text: &str) -> Result<u8, String> {
    match text.as_bytes() {
        b"\\t" | b"tab" => Ok(b'\t'),
        [one] if one.is_ascii() => Ok(*one),
        _ => Err("give one ASCII character, or `tab`".to_owned()),
    }
}

impl Reading {
    fn columns(&self) -> Columns {
        let mut columns = Columns::new();
        for (role, name) in &self.columns {
            columns = match role {
                Role::Anchor => columns.anchor(name),
                Role::Positive => columns.positive(name),
                Role::Negative => columns.add_negative(name),
                Role::Text => columns.text(name),
                Role::Image => columns.image(name),
                Role::Label => columns.label(name),
                Role::Score => columns.add_score(name),
            };
        }
        columns
    }

    fn csv(&self, path: &Path) -> Csv {
        self.read.rows.store(true, Relaxed);
        self.read.csv.store(true, Relaxed);
        let mut options = CsvOptions::new().is_labeled(self.labeled);
        if !self.columns.is_empty() {
            options = options.columns(self.columns());
        }
        if let Some(rows) = self.rows {
            options = options.size(rows);
        }
        if let Some(rate) = self.sampling_rate {
            options = options.sampling_rate(rate);
        }
        if let Some(folder) = &self.base_folder {
            options = options.base_folder(folder);
        }
        if let Some(encoding) = &self.encoding {
            options = options.encoding(encoding);
        }
        if let Some(delimiter) = self.delimiter {
            options = options.dialect(Dialect::Custom {
                delimiter,
                quote: b'"',
                escape: None,
                skip_initial_space: false,
            });
        }
        Csv::path(path).options(options)
    }

    fn dataset(&self, mut rows: Dataset) -> Dataset {
        self.read.rows.store(true, Relaxed);
        if !self.columns.is_empty() {
            rows = rows.columns(self.columns());
        }
        if let Some(count) = self.rows {
            rows = rows.size(count);
        }
        if let Some(rate) = self.sampling_rate {
            rows = rows.sampling_rate(rate);
        }
        if let Some(folder) = &self.base_folder {
            rows = rows.base_folder(folder);
        }
        rows
    }

    /// Returns the data of an option; errors call the option `option`.
    ///
    /// An existing path is a file or folder, and `-` is JSON Lines on standard input.
    /// Any other text, and any text after `name:`, is the name of data at the backend.
    pub(crate) async fn source(&self, option: &str, text: &str) -> Result<DataSource> {
        if let Some(name) = text.strip_prefix("name:") {
            return Ok(name.into());
        }
        if text == "-" {
            let rows =
                tokio::task::spawn_blocking(|| Dataset::json_lines_reader(std::io::stdin().lock()));
            let rows = rows.await?.map_err(finetuner::Error::from)?;
            return Ok(self.dataset(rows).into());
        }
        let path = Path::new(text);
        let kind = extension(path);
        if path.is_dir() {
            return self.folder(option, path);
        }
        if !path.exists() {
            return match FILES.contains(&kind.as_str()) {
                true => Err(Failure::usage(format!(
                    "`{option} {text}`: there is no such file. Check the path; for data of that \
                     name at the backend write name:{text}"
                ))),
                false => Ok(text.into()),
            };
        }
        match kind.as_str() {
            "csv" | "tsv" | "txt" => Ok(self.csv(path).into()),
            "jsonl" | "ndjson" => Ok(self.dataset(Dataset::json_lines(path)).into()),
            #[cfg(feature = "parquet")]
            "parquet" => Ok(self.dataset(Dataset::parquet(path)).into()),
            #[cfg(not(feature = "parquet"))]
            "parquet" => Err(Failure::usage(format!(
                "`{option} {text}`: this program was built without Parquet. Build it with the \
                 feature `parquet`, or write the rows as JSON Lines"
            ))),
            "da" | "bin" | "docs" | "protobuf" => Ok(finetuner::load_documents(path).await?.into()),
            _ => Err(Failure::usage(format!(
                "`{option} {text}`: the end of the file's name says nothing of what it holds. \
                 Rename it to end with one of .{}",
                FILES.join(", .")
            ))),
        }
    }

    /// Refuses options that no file was read with, because the result would not be the
    /// one that was asked for.
    pub(crate) fn check_used(&self) -> Result {
        let (rows, csv) = (&self.read.rows, &self.read.csv);
        let rows_of = "files of rows: CSV, JSON Lines, Parquet, folders with a metadata file";
        let csv_of = "CSV files";
        let unused = [
            ("--column", !self.columns.is_empty(), rows, rows_of),
            ("--rows", self.rows.is_some(), rows, rows_of),
            (
                "--sampling-rate",
                self.sampling_rate.is_some(),
                rows,
                rows_of,
            ),
            ("--base-folder", self.base_folder.is_some(), rows, rows_of),
            ("--labeled", self.labeled, csv, csv_of),
            ("--encoding", self.encoding.is_some(), csv, csv_of),
            ("--delimiter", self.delimiter.is_some(), csv, csv_of),
        ];
        let mut unused = unused
            .iter()
            .filter(|(_, is_set, read, _)| *is_set && !read.load(Relaxed));
        match unused.next() {
            None => Ok(()),
            Some((option, _, _, files)) => Err(Failure::usage(format!(
                "`{option}` has no effect on this data: it is for {files}. Leave it out"
            ))),
        }
    }

    /// Reads images with a metadata file, or in one folder per class.
    fn folder(&self, option: &str, folder: &Path) -> Result<DataSource> {
        let has_list = ["metadata.csv", "metadata.jsonl"]
            .iter()
            .any(|name| folder.join(name).is_file());
        if has_list {
            return Ok(self.dataset(Dataset::image_folder(folder)).into());
        }
        let images = classes(folder).map_err(|e| Failure::file(option, folder, &e))?;
        if images.is_empty() {
            return Err(Failure::usage(format!(
                "`{option} {}`: the folder has neither a metadata.csv or metadata.jsonl, whose \
                 column `file_name` names its images, nor folders of images, one for each \
                 class. For data of that name at the backend write name:{0}",
                folder.display()
            )));
        }
        Ok(DocumentSource::new(move || {
            images.clone().into_iter().map(|(class, path)| {
                Document::uri(path.to_string_lossy()).with_tag(LABEL_TAG, class)
            })
        })
        .into())
    }
}

/// Extensions of data files.
const FILES: [&str; 10] = [
    "csv", "tsv", "txt", "jsonl", "ndjson", "parquet", "da", "bin", "docs", "protobuf",
];

/// Returns the extension of a file in lower case.
pub(crate) fn extension(path: &Path) -> String {
    let extension = path.extension().unwrap_or_default();
    extension.to_string_lossy().to_ascii_lowercase()
}

/// Lists the images in the subfolders of a folder, each with its subfolder's name.
fn classes(folder: &Path) -> std::io::Result<Vec<(String, PathBuf)>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let class = entry?.path();
        if class.is_dir() {
            let name = class.file_name().unwrap_or_default();
            let name = name.to_string_lossy().into_owned();
            let images = images(&class)?.into_iter();
            found.extend(images.map(|image| (name.clone(), image)));
        }
    }
    found.sort();
    Ok(found)
}

/// Lists the images in a folder, sorted by name.
pub(crate) fn images(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if is_image(&path) && path.is_file() {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// Whether a file has the extension of an image.
pub(crate) fn is_image(path: &Path) -> bool {
    IMAGES.contains(&extension(path).as_str())
}
