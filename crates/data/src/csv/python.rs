//! Compares the documents of CSV files with those of the Python client. The cases and
//! the script that created them are in `tests/fixtures/csv`.

use base64::{Engine, prelude::BASE64_STANDARD};
use finetuner_protocol::{Document, Modality, listed_task};
use serde_json::{Value, json};

use super::{dialect::Dialect, file::Csv, options::CsvOptions};
use crate::{error::Result, layout::Layout};

/// Cases with intentional differences, and the reasons.
const DIFFERENT: [(&str, &str); 6] = [
    ("byte order mark", "the mark is not part of the first cell"),
    ("empty lines", "an empty line is skipped; Python fails"),
    (
        "synthesis",
        "a single column of texts is read; Python finds no delimiter and fails",
    ),
    (
        "four columns",
        "the columns are an anchor, its positive and two negatives",
    ),
    (
        "latin-1 unsaid",
        "windows-1252 is detected; Python reports an empty file",
    ),
    (
        "ragged",
        "the error names the row; Python reports an empty file",
    ),
];

fn words(document: &Document) -> Value {
    json!({
        "text": document.as_text(),
        "blob": document.as_blob().map(|blob| BASE64_STANDARD.encode(blob)),
        "uri": document.uri.rsplit('/').next().filter(|_| !document.uri.starts_with("http"))
            .unwrap_or(&document.uri),
        "modality": document.modality.as_ref().map_or("", Modality::as_str),
        "mime_type": document.mime_type,
        "granularity": document.other.granularity,
        "tags": document.tags,
        "chunks": document.chunks.iter().map(words).collect::<Vec<_>>(),
    })
}

fn options(case: &Value, folder: &std::path::Path) -> CsvOptions {
    let mut options = CsvOptions::new().base_folder(folder);
    for (name, value) in case.as_object().unwrap() {
        options = match name.as_str() {
            "is_labeled" => options.is_labeled(value.as_bool().unwrap()),
            "convert_to_blob" => options.convert_to_blob(value.as_bool().unwrap()),
            "encoding" => options.encoding(value.as_str().unwrap()),
            "size" => options.size(value.as_u64().unwrap()),
            "dialect" => options.dialect(Dialect::Excel),
            other => panic!("{other}"),
        };
    }
    options
}

fn read(case: &Value, folder: &std::path::Path) -> Result<Vec<Value>> {
    let layout = match case["model"].as_str() {
        Some(model) => Layout::of_task(&listed_task(model).unwrap())?,
        None => Layout::TEXTS,
    };
    let bytes = BASE64_STANDARD
        .decode(case["csv"].as_str().unwrap())
        .unwrap();
    let csv = Csv::reader(bytes.as_slice())?.options(options(&case["options"], folder));
    let source = csv.documents(layout)?;
    source.check("the case")?;
    source
        .loaded()
        .map(|document| Ok(words(&document?)))
        .collect()
}

/// Converts all numbers to floating point, which documents do with integers.
fn normalized(value: &Value) -> Value {
    match value {
        Value::Number(n) => json!(n.as_f64().unwrap()),
        Value::Array(items) => items.iter().map(normalized).collect(),
        Value::Object(map) => map
            .iter()
            .map(|(k, v)| (k.clone(), normalized(v)))
            .collect(),
        other => other.clone(),
    }
}

#[test]
fn documents_are_those_of_the_python_client() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["a.png", "b.jpg", "c.gif"] {
        let content = [b"\x89PNG\r\n\x1a\n", name.as_bytes()].concat();
        std::fs::write(folder.path().join(name), content).unwrap();
    }
    let cases = include_str!("../../tests/fixtures/csv/python.json");
    let cases: Vec<Value> = serde_json::from_str(cases).unwrap();
    assert_eq!(cases.len(), 31);
    for case in &cases {
        let name = case["name"].as_str().unwrap();
        let ours = read(case, folder.path());
        if DIFFERENT.iter().any(|(different, _)| *different == name) {
            continue;
        }
        match (&case["documents"], ours) {
            (Value::Null, Err(error)) => assert!(error.to_string().len() > 20, "{name}: {error}"),
            (Value::Null, Ok(ours)) => panic!("{name}: {ours:?}, not {}", case["error"]),
            (_, Err(error)) => panic!("{name}: {error}"),
            (theirs, Ok(ours)) => {
                assert_eq!(normalized(&json!(ours)), normalized(theirs), "{name}")
            }
        }
    }
    let case = |name: &str| cases.iter().find(|case| case["name"] == name).unwrap();
    let ours = |name: &str| read(case(name), folder.path());
    assert_eq!(ours("byte order mark").unwrap()[0]["text"], "one");
    assert_eq!(ours("empty lines").unwrap().len(), 4);
    assert_eq!(ours("synthesis").unwrap().len(), 3);
    let chunks = ours("four columns").unwrap()[0]["chunks"].clone();
    assert_eq!(chunks.as_array().unwrap().len(), 4);
    assert_eq!(ours("latin-1 unsaid").unwrap()[0]["text"], "größe");
    let error = ours("ragged").unwrap_err();
    assert_eq!(error.problems().unwrap().problems[0].number, 2, "{error}");
}
