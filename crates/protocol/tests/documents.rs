//! Reads documents that docarray 0.21 wrote. `fixtures/make_documents.py` writes the
//! fixtures, and can check that docarray reads documents written here.

#![allow(clippy::unwrap_used)]

use finetuner_protocol::{Content, Document, DocumentArray, Modality, NdArray};
use serde_json::{Value, json};

fn array(array: &NdArray) -> Value {
    let NdArray::Dense { shape, dtype, .. } = array else {
        return Value::Null;
    };
    json!({"dtype": dtype, "shape": shape, "values": array.to_f32().unwrap()})
}

fn to_json(document: &Document) -> Value {
    let blob = document.as_blob().map(|bytes| bytes.to_vec());
    let tensor = match &document.content {
        Some(Content::Tensor(tensor)) => array(tensor),
        _ => Value::Null,
    };
    let scores: serde_json::Map<String, Value> = document
        .scores
        .iter()
        .map(|(name, s)| {
            let score = json!([s.value, s.op_name, s.description, s.ref_id]);
            (name.clone(), score)
        })
        .collect();
    json!({
        "id": document.id,
        "text": document.as_text(),
        "blob": blob,
        "tensor": tensor,
        "embedding": document.embedding.as_ref().map(array),
        "uri": document.uri,
        "modality": document.modality.as_ref().map_or("", Modality::as_str),
        "mime_type": document.mime_type,
        "tags": document.tags,
        "scores": scores,
        "weight": document.other.weight,
        "chunks": document.chunks.iter().map(to_json).collect::<Vec<_>>(),
        "matches": document.matches.iter().map(to_json).collect::<Vec<_>>(),
    })
}

/// Normalises JSON: numbers become floats, as in documents. Bytes are base64.
fn plain(value: Value) -> Value {
    match value {
        Value::Number(n) => json!(n.as_f64().unwrap()),
        Value::Array(items) => items.into_iter().map(plain).collect(),
        Value::Object(map) => map
            .into_iter()
            .map(|(key, value)| match (key.as_str(), value) {
                ("blob", Value::String(text)) => (key, plain(json!(base64(&text)))),
                (_, value) => (key, plain(value)),
            })
            .collect(),
        other => other,
    }
}

fn base64(text: &str) -> Vec<u8> {
    const DIGITS: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let bits = text
        .chars()
        .filter_map(|c| DIGITS.find(c))
        .collect::<Vec<_>>();
    let mut out = Vec::new();
    for group in bits.chunks(4) {
        let number = group.iter().fold(0, |n, digit| n << 6 | digit) << (6 * (4 - group.len()));
        out.extend_from_slice(&(number as u32).to_be_bytes()[1..group.len()]);
    }
    out
}

#[test]
fn every_document_that_docarray_writes_is_read() {
    let bytes = include_bytes!("fixtures/documents.da");
    let documents = DocumentArray::from_bytes(bytes).unwrap();
    let expected: Value = serde_json::from_str(include_str!("fixtures/documents.json")).unwrap();
    let expected = expected.as_array().unwrap();
    assert_eq!(documents.len(), expected.len());
    for (document, expected) in documents.iter().zip(expected) {
        assert_eq!(
            plain(to_json(document)),
            plain(expected.clone()),
            "{}",
            document.id
        );
    }
    // Including granularity and parents, if the builders set them.
    let parent = &documents[8];
    let built = Document::new()
        .with_id("parent")
        .with_score(0.75)
        .with_chunk({
            let mut red = Document::text("red").with_modality("text");
            red.id = "c0".to_owned();
            red.chunks = parent.chunks[0].chunks.clone();
            red
        })
        .with_chunk({
            let mut image = Document::blob(b"\x89PNG".to_vec()).with_modality("image");
            image.id = "c1".to_owned();
            image
        });
    let mut parent = parent.clone();
    for (chunk, built) in parent.chunks.iter_mut().zip(&built.chunks) {
        chunk.mime_type.clone_from(&built.mime_type);
    }
    assert_eq!(built.chunks, parent.chunks);
}
