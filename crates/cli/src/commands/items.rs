//! Texts and images on this machine, and the model that embeds them.

use std::{
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
};

use finetuner::local::{self, Embeddings, Encoder};
use indicatif::ProgressBar;
use serde_json::{Value, json};

use crate::{
    failure::{Failure, Result},
    output::Output,
    progress,
    sources::{extension, images, is_image},
};

/// Number of items read and embedded at a time.
const CHUNK: usize = 256;

/// Items to embed.
#[derive(Debug)]
pub(super) enum Items {
    Texts(Vec<String>),
    Images(Vec<PathBuf>),
}

impl Items {
    /// Reads a file of texts, an image, a folder of images, or texts on standard
    /// input (`-`). Errors call the option `option`. Also returns how many rows have no
    /// text and are left out, so that the items are not those of the same rows.
    pub(super) fn read(option: &str, path: &Path, column: Option<&str>) -> Result<(Self, usize)> {
        let failed = |e: std::io::Error| Failure::file(option, path, &e);
        let mut left_out = 0;
        let mut texts = |(texts, empty): (Vec<String>, usize)| {
            left_out = empty;
            Self::Texts(texts)
        };
        let items = match extension(path).as_str() {
            _ if path.is_dir() => Self::Images(images(path).map_err(failed)?),
            _ if path == Path::new("-") => {
                texts(unnumbered(lines(std::io::stdin().lock(), failed)?))
            }
            _ if is_image(path) && path.is_file() => Self::Images(vec![path.to_owned()]),
            kind => {
                let file = std::fs::File::open(path).map_err(failed)?;
                texts(match kind {
                    "csv" => cells(file, option, path, column)?,
                    "jsonl" | "ndjson" => {
                        let lines = lines(file, failed)?;
                        unnumbered(members(lines, option, path, column.unwrap_or("text"))?)
                    }
                    _ => unnumbered(lines(file, failed)?),
                })
            }
        };
        match items.len() {
            0 => Err(Failure::usage(format!(
                "`{option} {}` contains neither texts nor images",
                path.display()
            ))),
            _ => Ok((items, left_out)),
        }
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Self::Texts(texts) => texts.len(),
            Self::Images(paths) => paths.len(),
        }
    }

    /// Formats an item as text.
    pub(super) fn shown(&self, place: usize) -> String {
        match self {
            Self::Texts(texts) => texts.get(place).cloned().unwrap_or_default(),
            Self::Images(paths) => paths
                .get(place)
                .map_or_else(String::new, |path| path.display().to_string()),
        }
    }

    /// Formats an item as JSON.
    pub(super) fn as_json(&self, place: usize) -> Value {
        match self {
            Self::Texts(_) => json!({"text": self.shown(place)}),
            Self::Images(_) => json!({"file": self.shown(place)}),
        }
    }

    /// Embeds all items, with a bar on standard error.
    pub(super) fn embed(&self, model: &Encoder, output: Output) -> Result<Embeddings> {
        let bar = ProgressBar::with_draw_target(Some(self.len() as u64), progress::target(output));
        let mut all = Embeddings {
            dim: model.dim(),
            values: Vec::new(),
        };
        let places: Vec<usize> = (0..self.len()).collect();
        for places in places.chunks(CHUNK) {
            let (start, end) = (places[0], places[0] + places.len());
            let embeddings = match self {
                Self::Texts(texts) => {
                    let texts: Vec<&str> = texts[start..end].iter().map(String::as_str).collect();
                    model.encode_texts(&texts)
                }
                Self::Images(paths) => {
                    let read = |path: &PathBuf| {
                        std::fs::read(path)
                            .map_err(|e| Failure::failed(format!("{}: {e}", path.display())))
                    };
                    let files = paths[start..end].iter().map(read);
                    let files = files.collect::<Result<Vec<Vec<u8>>>>()?;
                    let bytes: Vec<&[u8]> = files.iter().map(Vec::as_slice).collect();
                    model.encode_images(&bytes)
                }
            };
            let embeddings = embeddings.map_err(|error| self.named(error, start))?;
            all.values.extend(embeddings.values);
            bar.inc(places.len() as u64);
        }
        bar.finish_and_clear();
        Ok(all)
    }

    /// Adds the item's name to an error.
    fn named(&self, error: local::Error, start: usize) -> Failure {
        match error {
            local::Error::Item { place, reason } => {
                Failure::failed(format!("{}: {reason}", self.shown(start + place)))
            }
            error => error.into(),
        }
    }
}

/// A text and its line, counted from 1.
type Line = (usize, String);

/// Reads the lines that are not blank.
fn lines(file: impl Read, failed: impl Fn(std::io::Error) -> Failure) -> Result<Vec<Line>> {
    let mut found = Vec::new();
    for (line, number) in BufReader::new(file).lines().zip(1..) {
        let line = line.map_err(&failed)?;
        if !line.trim().is_empty() {
            found.push((number, line));
        }
    }
    Ok(found)
}

/// Returns the texts, and the number of blank lines among them.
fn unnumbered(lines: Vec<Line>) -> (Vec<String>, usize) {
    let empty = lines.last().map_or(0, |(last, _)| last - lines.len());
    (lines.into_iter().map(|(_, text)| text).collect(), empty)
}

/// Returns a member of each line of JSON. A line may also be a JSON string.
fn members(lines: Vec<Line>, option: &str, path: &Path, name: &str) -> Result<Vec<Line>> {
    let text = |(number, line): Line| {
        let bad = |reason: String| {
            let path = path.display();
            Failure::usage(format!("`{option} {path}`: line {number}: {reason}"))
        };
        let value: Value =
            serde_json::from_str(&line).map_err(|e| bad(format!("it is not JSON: {e}")))?;
        let text = match &value {
            Value::String(text) => Some(text.as_str()),
            value => value[name].as_str(),
        };
        let missing = || format!("it has no text `{name}`: name the member with `--column`");
        let text = text.ok_or_else(|| bad(missing()))?;
        Ok((number, text.to_owned()))
    };
    lines.into_iter().map(text).collect()
}

/// Returns the cells of a column of a CSV file. The column is given by name, if the
/// first row contains names, or by number, from 1. Also returns the number of rows
/// without a text there.
fn cells(
    file: std::fs::File,
    option: &str,
    path: &Path,
    column: Option<&str>,
) -> Result<(Vec<String>, usize)> {
    let bad = |reason: String| Failure::usage(format!("`{option} {}`: {reason}", path.display()));
    let number = match column {
        None => Some(1),
        Some(column) => column.parse::<usize>().ok().filter(|number| *number > 0),
    };
    let mut reader = csv::ReaderBuilder::new()
        .has_headers(number.is_none())
        .flexible(true)
        .from_reader(BufReader::new(file));
    let place = match (number, column) {
        (None, Some(name)) => {
            let names = reader.headers().map_err(|e| bad(e.to_string()))?;
            let place = names.iter().position(|known| known == name);
            place.ok_or_else(|| {
                let names: Vec<&str> = names.iter().collect();
                bad(format!(
                    "the first row has no column `{name}`: it has {}. Give `--column` one of \
                     these, or a number from 1 on",
                    names.join(", ")
                ))
            })?
        }
        (number, _) => number.unwrap_or(1) - 1,
    };
    let (mut found, mut empty) = (Vec::new(), 0);
    for record in reader.records() {
        let record = record.map_err(|e| bad(e.to_string()))?;
        match record.get(place).filter(|cell| !cell.trim().is_empty()) {
            Some(cell) => found.push(cell.to_owned()),
            None => empty += 1,
        }
    }
    Ok((found, empty))
}

/// Opens a saved model or a backbone.
pub(super) fn open(model: &str) -> Result<Encoder> {
    if Path::new(model).exists() {
        return Ok(local::get_model(model)?);
    }
    match finetuner::list_model_options(model) {
        Some(_) => Ok(local::build_model(model)?),
        None => Err(Failure::usage(format!(
            "`MODEL {model}` is neither a folder or zip nor a model that `finetuner models` lists. \
             `finetuner save RUN` makes the folder"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(name: &str, content: &str, column: Option<&str>) -> Result<(Items, usize)> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join(name);
        std::fs::write(&path, content)?;
        Items::read("ITEMS", &path, column)
    }

    fn texts(name: &str, content: &str, column: Option<&str>) -> Result<Vec<String>> {
        match read(name, content, column)?.0 {
            Items::Texts(texts) => Ok(texts),
            Items::Images(_) => Err(Failure::failed("images")),
        }
    }

    #[test]
    fn texts_are_read_from_lines_csv_cells_and_json_fields() {
        let two = vec!["a, b".to_owned(), "c".to_owned()];
        assert_eq!(texts("a.txt", "a, b\n\nc\n", None).unwrap(), two);
        let csv = "x,name\n1,\"a, b\"\n2,c\n";
        assert_eq!(texts("a.csv", csv, Some("name")).unwrap(), two);
        assert_eq!(texts("a.csv", "\"a, b\",1\nc\n", None).unwrap(), two);
        assert_eq!(texts("a.csv", "1,\"a, b\"\n2,c\n", Some("2")).unwrap(), two);
        let lines = "{\"t\": \"a, b\"}\n\"c\"\n";
        assert_eq!(texts("a.jsonl", lines, Some("t")).unwrap(), two);
    }

    #[test]
    fn rows_without_a_text_are_counted() {
        for (name, content, column, left_out) in [
            ("a.txt", "a\n\n \nb\n\n", None, 2),
            ("a.jsonl", "\"a\"\n\n\"b\"\n", None, 1),
            ("a.csv", "x,name\n1,a\n2,\n3,b\n4, \n", Some("name"), 2),
            ("a.csv", "a\nb\n", None, 0),
        ] {
            let (items, found) = read(name, content, column).unwrap();
            assert_eq!((items.len(), found), (2, left_out), "{name}");
        }
    }

    #[test]
    fn unusable_files_are_errors_with_the_file_name() {
        for (name, content, column, words) in [
            ("a.txt", "\n", None, "neither texts nor images"),
            ("a.csv", "x\n1\n", Some("y"), "it has x"),
            ("a.jsonl", "{}\n", None, "line 1: it has no text `text`"),
            ("a.jsonl", "{", None, "line 1: it is not JSON"),
            ("a.jsonl", "\n\"a\"\n\n[]", None, "line 4: it has no text"),
        ] {
            let failure = texts(name, content, column).unwrap_err().to_string();
            assert!(
                failure.contains(words) && failure.contains(name),
                "{failure}"
            );
        }
        let missing = Items::read("ITEMS", Path::new("nowhere.txt"), None).unwrap_err();
        assert!(missing.to_string().contains("`ITEMS nowhere.txt`"));
    }
}
