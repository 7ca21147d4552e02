//! What the Python client makes of the same files is made here: the cases are
//! in `tests/fixtures/csv`, with the script that made them.

use finetuner_protocol::{Document, Modality, listed_task};
use serde_json::{Value, json};

use super::{dialect::Dialect, file::Csv, options::CsvOptions};
use crate::{error::Result, roles::Layout};

/// Cases in which something else is right, and why.
const BETTER: [(&str, &str); 6] = [
    ("byte order mark", "the mark is no part of the first cell"),
    ("empty lines", "an empty line is no row, where Python fails"),
    (
        "synthesis",
        "one column of texts is read, where Python finds no delimiter and fails",
    ),
    (
        "four columns",
        "they are an anchor, its match and two negatives",
    ),
    (
        "latin-1 unsaid",
        "what reads well as windows-1252 is read as such, where Python says that the file is empty",
    ),
    (
        "ragged",
        "the row is named, where Python says that the file is empty",
    ),
];

fn words(document: &Document) -> Value {
    json!({
        "text": document.as_text(),
        "blob": document.as_blob().map(base64_of),
        "uri": document.uri.rsplit('/').next().filter(|_| !document.uri.starts_with("http"))
            .unwrap_or(&document.uri),
        "modality": document.modality.as_ref().map_or("", Modality::as_str),
        "mime_type": document.mime_type,
        "granularity": document.other.granularity,
        "tags": document.tags,
        "chunks": document.chunks.iter().map(words).collect::<Vec<_>>(),
    })
}

const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

fn base64_of(bytes: &[u8]) -> String {
    let mut out = String::new();
    for group in bytes.chunks(3) {
        let mut padded = [0; 4];
        padded[1..=group.len()].copy_from_slice(group);
        let bits = u32::from_be_bytes(padded);
        for i in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * i) & 63) as usize] as char;
            out.push(if i <= group.len() { digit } else { '=' });
        }
    }
    out
}

fn bytes_of(base64: &str) -> Vec<u8> {
    let digits: Vec<usize> = base64
        .bytes()
        .filter_map(|c| DIGITS.iter().position(|digit| *digit == c))
        .collect();
    let mut out = Vec::new();
    for group in digits.chunks(4) {
        let bits = group.iter().fold(0, |bits, digit| bits << 6 | digit);
        let bits = (bits << (6 * (4 - group.len()))) as u32;
        out.extend_from_slice(&bits.to_be_bytes()[1..group.len()]);
    }
    out
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
    let bytes = bytes_of(case["csv"].as_str().unwrap());
    let csv = Csv::reader(bytes.as_slice())?.options(options(&case["options"], folder));
    let source = csv.documents(layout)?;
    source.check("the case")?;
    source
        .loaded()
        .map(|document| Ok(words(&document?)))
        .collect()
}

/// Documents hold whole numbers as others.
fn plain(value: &Value) -> Value {
    match value {
        Value::Number(n) => json!(n.as_f64().unwrap()),
        Value::Array(items) => items.iter().map(plain).collect(),
        Value::Object(map) => map.iter().map(|(k, v)| (k.clone(), plain(v))).collect(),
        other => other.clone(),
    }
}

#[test]
fn documents_are_the_python_clients_or_the_error_is_better() {
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
        if BETTER.iter().any(|(better, _)| *better == name) {
            continue;
        }
        match (&case["documents"], ours) {
            (Value::Null, Err(error)) => assert!(error.to_string().len() > 20, "{name}: {error}"),
            (Value::Null, Ok(ours)) => panic!("{name}: {ours:?}, not {}", case["error"]),
            (_, Err(error)) => panic!("{name}: {error}"),
            (theirs, Ok(ours)) => assert_eq!(plain(&json!(ours)), plain(theirs), "{name}"),
        }
    }
    let case = |name: &str| cases.iter().find(|case| case["name"] == name).unwrap();
    let better = |name: &str| read(case(name), folder.path());
    assert_eq!(better("byte order mark").unwrap()[0]["text"], "one");
    assert_eq!(better("empty lines").unwrap().len(), 4);
    assert_eq!(better("synthesis").unwrap().len(), 3);
    let chunks = better("four columns").unwrap()[0]["chunks"].clone();
    assert_eq!(chunks.as_array().unwrap().len(), 4);
    assert_eq!(better("latin-1 unsaid").unwrap()[0]["text"], "größe");
    let error = better("ragged").unwrap_err();
    assert_eq!(error.problems().unwrap().problems[0].number, 2, "{error}");
}
