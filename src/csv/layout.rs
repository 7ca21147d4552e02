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
    text::{is_blank, start_of},
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
        told: [const { AtomicBool::new(false) }; 2],
    });
    let source = DocumentSource::of_items(move || Documents::new(Arc::clone(&shared)));
    Ok(source.reads_own_files(reads_files).named(name))
}

struct Shared {
    reading: Reading,
    columns: Columns,
    /// Which warnings were given.
    told: [AtomicBool; 2],
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
        // As pandas writes a value that is missing.
        if label.eq_ignore_ascii_case("nan") || label == "<NA>" {
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
mod tests {
    use finetuner_protocol::{Content, DocumentArray, NdArray};

    use super::*;
    use crate::{Csv, CsvOptions, data::Problem};

    fn read(text: &str, model: &str, options: CsvOptions) -> Result<DocumentArray> {
        let layout = match model {
            "synthesis" => Layout::Texts,
            model => Layout::of_model(Some(model))?,
        };
        let source = Csv::text(text).options(options).documents(layout)?;
        source.check("the CSV text")?;
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
        assert_eq!(numbers, [2, 3, 4], "{error}");
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

    /// What is wrong with each row of a labelled file of texts.
    fn faults(text: &str, options: CsvOptions) -> Vec<(u64, String)> {
        let error = read(text, "bert-base-cased", options).unwrap_err();
        let problems = error.problems().unwrap_or_else(|| panic!("{error}"));
        let all = problems.problems.iter();
        all.map(|problem| (problem.number, problem.reason.clone()))
            .collect()
    }

    fn labelled() -> CsvOptions {
        CsvOptions::new().is_labeled(true)
    }

    fn labels(text: &str) -> Vec<String> {
        let documents = read(text, "bert-base-cased", labelled()).unwrap();
        documents
            .iter()
            .map(|document| document.label().unwrap())
            .collect()
    }

    #[test]
    fn semicolon_files_with_decimal_commas_keep_their_columns() {
        let text = "a red dress;a long red dress;0,75\r\na shoe;a running shoe;1\r\n";
        let documents = read(text, "bert-base-cased", CsvOptions::new()).unwrap();
        let scores: Vec<_> = documents
            .iter()
            .map(|d| d.tags[SCORE_TAG].clone())
            .collect();
        assert_eq!(scores, ["0.75", "1"]);
        assert_eq!(documents[0].chunks[1].as_text(), Some("a long red dress"));
        assert_eq!(
            labels("Kleid, rot;dress\nSchuh, weiß;shoe\n"),
            ["dress", "shoe"]
        );
    }

    #[test]
    fn missing_labels_are_told_and_spaces_around_labels_left_out() {
        let text = "a,dress\nb,\nc,  \nd,nan\ne,NaN\nf,shirt\n";
        let faults = faults(text, labelled());
        let lines: Vec<u64> = faults.iter().map(|(line, _)| *line).collect();
        assert_eq!(lines, [2, 3, 4, 5], "{faults:?}");
        assert!(
            faults.iter().all(|(_, reason)| reason.contains("label")),
            "{faults:?}"
        );
        assert_eq!(labels("a,dress\nb, dress\nc,dress \n"), ["dress"; 3]);
    }

    #[test]
    fn empty_columns_and_rows_of_a_spreadsheet_are_left_out() {
        assert_eq!(labels("a,dress,,\nb,shoe,,\n,,,\n,,,\n"), ["dress", "shoe"]);
        let pairs = |text: &str| read(text, "bert-base-cased", CsvOptions::new()).unwrap();
        let documents = pairs("a red dress,dress,\na white shoe,shoe,\n");
        assert_eq!(
            (documents.len(), documents[1].as_text()),
            (4, Some("dress"))
        );
        // A score that is missing is no empty column.
        let scored = "a,b,\nc,d,0.5\ne,f,0.1\n";
        let faults = faults(scored, CsvOptions::new());
        assert_eq!(faults, [(1, "its score is empty".to_owned())]);
        let faults = self::faults("a,x\n   \n\nb,y\n", labelled());
        assert!(faults.len() == 1 && faults[0].0 == 2, "{faults:?}");
        assert!(faults[0].1.contains("spaces"), "{faults:?}");
    }

    #[test]
    fn texts_that_show_nothing_are_told() {
        let text = "\u{200b}\u{feff},a\n\u{1}\u{2},b\n\u{a0},c\nd,e\n";
        let faults = faults(text, labelled());
        let lines: Vec<u64> = faults.iter().map(|(line, _)| *line).collect();
        assert_eq!(lines, [1, 2, 3], "{faults:?}");
        let error = read("one\n\u{200b}\n", "synthesis", CsvOptions::new()).unwrap_err();
        assert_eq!(error.problems().unwrap().problems[0].number, 2, "{error}");
    }

    #[test]
    fn errors_show_the_start_of_a_text_alone() {
        let long = "x".repeat(100_000);
        for (text, model) in [
            (format!("a,b,{long}\nc,d,0.1\n"), "bert-base-cased"),
            (format!("{long}.png,a\nb.png,c\n"), "resnet50"),
            (format!("a,/{long}.png\n"), "clip-base-en"),
            (format!("a,\"{long}\n"), "bert-base-cased"),
        ] {
            let error = read(&text, model, CsvOptions::new())
                .unwrap_err()
                .to_string();
            assert!(error.len() < 1000, "{} characters", error.len());
            assert!(error.contains("xxxx"), "{error}");
        }
        let options = CsvOptions::new().header(["a", "b"]);
        let error = read(&format!("{long},b\n"), "bert-base-cased", options).unwrap_err();
        assert!(error.to_string().len() < 1000);
    }

    #[test]
    fn the_picture_is_the_column_that_names_files() {
        let (_folder, options) = pictures(&["dress.png", "shoe.png"]);
        let text_of = |text: &str| {
            let documents = read(text, "clip-base-en", options.clone()).unwrap();
            let chunks = documents[0].chunks.clone();
            let text = chunks
                .iter()
                .find(|chunk| chunk.modality == "text")
                .unwrap();
            text.as_text().unwrap().to_owned()
        };
        let note = "Note: a red dress (see http://shop.example/1)";
        for text in [
            format!("dress.png,{note}\nshoe.png,a white shoe\n"),
            format!("{note},dress.png\na white shoe,shoe.png\n"),
            // The first row alone would say something else.
            format!("{note},dress.png\nshoe.png,shoe.png\nb,dress.png\n"),
        ] {
            assert_eq!(text_of(&text), note);
        }
        let text = "dress.png,http://shop.example\nshoe.png,dresses/summer\n";
        assert_eq!(text_of(text), "http://shop.example");
    }

    #[test]
    fn rows_of_another_machine_are_refused_each_with_its_line() {
        let (_folder, options) = pictures(&["up.png"]);
        let text = "pics\\red shoe.png,a\nC:\\Users\\a.png,b\nC:/Users/a.png,c\n\
                    file:///C:/Users/a.png,d\n~/pics/a.png,e\n./up.png,f\nfile://nas/a.png,g\n";
        let error = read(text, "clip-base-en", options).unwrap_err();
        let problems = &error.problems().unwrap().problems;
        let lines: Vec<u64> = problems.iter().map(|problem| problem.number).collect();
        assert_eq!(lines, [1, 2, 3, 4, 5, 7], "{error}");
    }

    #[test]
    fn a_file_is_read_as_its_documents_are_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("train.csv");
        std::fs::write(&path, "a,x\nb,y\n".repeat(20_000)).unwrap();
        let layout = Layout::of_model(Some("bert-base-cased")).unwrap();
        let csv = Csv::path(&path).options(labelled());
        let source = csv.documents(layout).unwrap();
        let mut items = source.iter();
        assert!(items.next().unwrap().is_ok());
        // What is behind the part that was read is not in memory.
        let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        file.set_len(0).unwrap();
        let read = items.count();
        assert!(read < 39_000, "{read} documents were in memory");
        let error = source.check("train_data").err().unwrap();
        assert!(error.is_data(), "{error}");
    }
}
