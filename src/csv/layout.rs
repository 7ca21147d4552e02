//! From rows to documents: what columns mean for a model of a kind.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use finetuner_protocol::{Document, LABEL_TAG, SCORE_TAG, Task, guess_task};

use super::{CsvOptions, mesh, read::Row};
use crate::{
    DocumentSource, Error, Result,
    data::{Problems, local_path},
};

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
    fn modality(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Image => "image",
            Self::Mesh => "mesh",
        }
    }
}

/// What the model in a folder compares, where there is one.
fn task_of_folder(folder: &Path) -> Option<Task> {
    let text = std::fs::read_to_string(folder.join("config.json")).ok()?;
    let config: serde_json::Value = serde_json::from_str(&text).ok()?;
    config["model_type"].as_str().map(guess_task)
}

impl Layout {
    /// What columns mean for a model. Of one that is not in the list of
    /// backbones, the `config.json` of its folder says what it is, else its name.
    pub(crate) fn of_model(model: Option<&str>) -> Result<Self> {
        let task = match model {
            Some(model) => task_of_folder(Path::new(model)).unwrap_or_else(|| guess_task(model)),
            // What goes on from an earlier run.
            None => Task::TextToImage,
        };
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

    /// The documents of all rows. What is wrong with any of them is told
    /// together.
    pub(super) fn documents(
        &self,
        name: &str,
        rows: &[Row],
        options: &CsvOptions,
    ) -> Result<DocumentSource> {
        let mut reading = Reading {
            options,
            problems: Problems::new(name),
        };
        let documents = match *self {
            Self::Texts => rows
                .iter()
                .flat_map(|row| row.cells.iter().map(Document::text))
                .collect(),
            Self::Items { first, second } => reading.items(rows, first, second),
        };
        reading.problems.into_result()?;
        let source = DocumentSource::of_array(Arc::new(documents.into()));
        Ok(source.reads_own_files(options.convert_to_blob))
    }
}

struct Reading<'a> {
    options: &'a CsvOptions,
    problems: Problems,
}

impl Reading<'_> {
    fn items(&mut self, rows: &[Row], first: Kind, second: Kind) -> Vec<Document> {
        let width = rows.first().map_or(0, |row| row.cells.len());
        let wanted = match (self.options.is_labeled, width) {
            (true, _) => 2,
            (false, 2 | 3) => width,
            (false, _) => {
                let number = rows.first().map_or(0, |row| row.number);
                self.problems.add(
                    number,
                    format!(
                        "Can not determine the context of the csv: it has {width} columns; two \
                         items, two items and a score, or an item and a label are possible"
                    ),
                );
                return Vec::new();
            }
        };
        let mut good = Vec::with_capacity(rows.len());
        for row in rows {
            let found = row.cells.len();
            if found == wanted {
                good.push(row);
            } else {
                let reason = format!("it has {found} columns, {wanted} are wanted");
                self.problems.add(row.number, reason);
            }
        }
        let Some(head) = good.first() else {
            return Vec::new();
        };
        // Text and picture may come in either order, the same in all rows.
        let (first, second) = match (first, second) {
            (Kind::Text, Kind::Image)
                if self.is_uri(&head.cells[0]) && !self.is_uri(&head.cells[1]) =>
            {
                (Kind::Image, Kind::Text)
            }
            kinds => kinds,
        };
        if self.options.is_labeled {
            self.labelled(&good, first)
        } else if wanted == 3 {
            self.scored(&good, first, second)
        } else {
            self.related(&good, first, second)
        }
    }

    fn labelled(&mut self, rows: &[&Row], kind: Kind) -> Vec<Document> {
        rows.iter()
            .filter_map(|row| {
                let document = self.item(row, 0, kind)?;
                Some(document.with_tag(LABEL_TAG, row.cells[1].as_str()))
            })
            .collect()
    }

    fn scored(&mut self, rows: &[&Row], first: Kind, second: Kind) -> Vec<Document> {
        rows.iter()
            .filter_map(|row| {
                let score = row.cells[2].as_str();
                let number = score.trim().parse::<f64>();
                if number.as_ref().is_ok_and(|n| n.is_finite()) {
                    let pair = Document::new()
                        .with_chunk(self.item(row, 0, first)?)
                        .with_chunk(self.item(row, 1, second)?);
                    // A text, as the Python client has it.
                    return Some(pair.with_tag(SCORE_TAG, score));
                }
                let reason = format!("its score is `{score}`, which is not a number");
                self.problems.add(row.number, reason);
                None
            })
            .collect()
    }

    /// Pairs of the same meaning: each query with all its documents has a label
    /// of its own.
    fn related(&mut self, rows: &[&Row], first: Kind, second: Kind) -> Vec<Document> {
        let mut labels: HashMap<&str, u64> = HashMap::new();
        let mut next = 0;
        let mut documents = Vec::new();
        for row in rows {
            let (a, b) = (row.cells[0].as_str(), row.cells[1].as_str());
            if labels.contains_key(a) && labels.contains_key(b) {
                continue;
            }
            let (Some(one), Some(two)) = (self.item(row, 0, first), self.item(row, 1, second))
            else {
                continue;
            };
            let (mut one, mut two) = (
                one.with_modality(first.modality()),
                two.with_modality(second.modality()),
            );
            let known = labels.get(a).copied();
            let label = known.unwrap_or(next);
            if known.is_none() {
                next += 1;
                labels.insert(a, label);
                one = one.with_label(label);
            }
            labels.insert(b, label);
            two = two.with_label(label);
            if first != second {
                let pair = Document::new().with_label(label);
                documents.push(pair.with_chunk(one).with_chunk(two));
                continue;
            }
            if known.is_none() {
                documents.push(one);
            }
            documents.push(two);
        }
        documents
    }

    /// The item in a cell.
    fn item(&mut self, row: &Row, column: usize, kind: Kind) -> Option<Document> {
        let cell = row.cells[column].as_str();
        if kind == Kind::Text {
            return Some(Document::text(cell));
        }
        let mut problem = |reason: String| {
            self.problems.add(row.number, reason);
            None
        };
        let place = column + 1;
        if cell.is_empty() {
            return problem(format!(
                "column {place} is empty, a file or an address is wanted"
            ));
        }
        let Some(path) = local_path(cell).map(|path| self.options.path(&path)) else {
            return Some(with_type(Document::uri(cell), Path::new(cell)));
        };
        if !path.is_file() {
            return problem(format!(
                "column {place}: there is no file {}, and it is no address",
                path.display()
            ));
        }
        if kind == Kind::Mesh && self.options.create_point_clouds {
            let cloud = mesh::point_cloud(&path, self.options.point_cloud_size);
            return cloud.map_or_else(problem, Some);
        }
        let uri = path.to_string_lossy().into_owned();
        Some(with_type(Document::uri(uri), &path))
    }

    /// Whether a cell is an address, a file, or could be one.
    fn is_uri(&self, cell: &str) -> bool {
        match local_path(cell) {
            None => !cell.is_empty(),
            Some(path) => {
                let path = self.options.path(&path);
                let folder = path.parent().filter(|p| !p.as_os_str().is_empty());
                path.exists() || (cell.contains(['/', '\\']) && folder.is_some_and(Path::is_dir))
            }
        }
    }
}

impl CsvOptions {
    fn path(&self, path: &Path) -> PathBuf {
        match &self.base_folder {
            Some(folder) => folder.join(path),
            None => path.to_owned(),
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
mod tests {
    use finetuner_protocol::{Content, DocumentArray, NdArray};

    use super::*;
    use crate::{Csv, data::Problem};

    fn read(text: &str, model: &str, options: CsvOptions) -> Result<DocumentArray> {
        let layout = match model {
            "synthesis" => Layout::Texts,
            model => Layout::of_model(Some(model))?,
        };
        let source = Csv::text(text).options(options).documents(layout)?;
        Ok(source.iter().map(|item| item.unwrap().document).collect())
    }

    fn pictures(names: &[&str]) -> (tempfile::TempDir, CsvOptions) {
        let folder = tempfile::tempdir().unwrap();
        for name in names {
            std::fs::write(folder.path().join(name), name).unwrap();
        }
        let options = CsvOptions::new().base_folder(folder.path());
        (folder, options)
    }

    #[test]
    fn texts_of_one_query_have_one_label_and_come_once() {
        let text = "q1,d1\nq1,d2\nq2,d3\nq1,d1\n";
        let documents = read(text, "bert-base-cased", CsvOptions::new()).unwrap();
        let found: Vec<_> = documents
            .iter()
            .map(|d| {
                (
                    d.as_text().unwrap(),
                    d.label().unwrap(),
                    d.modality.as_str(),
                )
            })
            .collect();
        let expected = [
            ("q1", "0"),
            ("d1", "0"),
            ("d2", "0"),
            ("q2", "1"),
            ("d3", "1"),
        ];
        let expected = expected.map(|(text, label)| (text, label.to_owned(), "text"));
        assert_eq!(found, expected);
    }

    #[test]
    fn text_and_picture_come_in_either_order() {
        let (_folder, options) = pictures(&["a.png", "b.jpg"]);
        for text in ["a.png,red\nb.jpg,blue\n", "red,a.png\nblue,b.jpg\n"] {
            let documents = read(text, "clip-base-en", options.clone()).unwrap();
            assert_eq!(documents.len(), 2);
            let part = |modality: &str| {
                documents[1]
                    .chunks
                    .iter()
                    .find(|c| c.modality == modality)
                    .unwrap()
            };
            assert_eq!(part("text").as_text(), Some("blue"));
            assert!(part("image").uri.ends_with("b.jpg"));
            assert_eq!(part("image").mime_type, "image/jpeg");
            assert_eq!(documents[1].label().unwrap(), "1");
        }
    }

    #[test]
    fn labels_scores_and_plain_texts() {
        let options = CsvOptions::new().is_labeled(true);
        let documents = read("a,x\nb,y\n", "bert-base-cased", options).unwrap();
        assert_eq!(documents[1].label().unwrap(), "y");
        let documents = read("a,b,0.5\n", "bert-base-cased", CsvOptions::new()).unwrap();
        assert_eq!(documents[0].tags[SCORE_TAG], "0.5");
        assert_eq!(documents[0].chunks[1].as_text(), Some("b"));
        let documents = read("a,b\nc\n", "synthesis", CsvOptions::new()).unwrap();
        assert_eq!(documents.len(), 3);
    }

    #[test]
    fn meshes_become_clouds_of_points() {
        let (folder, options) = pictures(&[]);
        for name in ["a.off", "b.off"] {
            let mesh = "OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 2\n";
            std::fs::write(folder.path().join(name), mesh).unwrap();
        }
        let clouds = options.clone().point_cloud_size(64);
        let documents = read("a.off,b.off\n", "pointnet++", clouds).unwrap();
        assert_eq!(documents.len(), 2);
        assert_eq!(documents[1].modality, "mesh");
        let Some(Content::Tensor(NdArray::Dense { shape, .. })) = &documents[1].content else {
            panic!("{:?}", documents[1])
        };
        assert_eq!(shape, &[64, 3]);
        let files = options.create_point_clouds(false);
        let documents = read("a.off,b.off\n", "pointnet++", files).unwrap();
        assert!(documents[0].uri.ends_with("a.off") && documents[0].content.is_none());
    }

    #[test]
    fn every_bad_row_is_named() {
        let (_folder, options) = pictures(&["a.png"]);
        let text = "a.png,red\nmissing.png,blue\na.png\n,green\n";
        let error = read(text, "clip-base-en", options).unwrap_err();
        let problems = &error.problems().unwrap().problems;
        let numbers: Vec<u64> = problems
            .iter()
            .map(|Problem { number, .. }| *number)
            .collect();
        assert_eq!(numbers, [3, 2, 4], "{error}");
        assert!(error.to_string().contains("missing.png"), "{error}");
        let error = read("a,b,high\n", "bert-base-cased", CsvOptions::new()).unwrap_err();
        assert!(error.to_string().contains("`high`"), "{error}");
        let error = read("a,b,c,d\n", "bert-base-cased", CsvOptions::new()).unwrap_err();
        assert!(error.to_string().contains("4 columns"), "{error}");
        let (_folder, options) = pictures(&["a.obj"]);
        let error = read("a.obj,b.obj\n", "pointnet++", options).unwrap_err();
        assert!(error.to_string().contains("no area"), "{error}");
        assert!(error.to_string().contains("no file"), "{error}");
    }

    #[test]
    fn addresses_are_left_where_they_are() {
        let text = "https://example.com/a.png,red\n";
        let documents = read(text, "clip-base-en", CsvOptions::new()).unwrap();
        assert_eq!(documents[0].chunks[0].uri, "https://example.com/a.png");
        assert_eq!(documents[0].chunks[0].content, None);
    }
}
