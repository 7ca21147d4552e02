//! Summary of an array of documents.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use serde_json::{Value, json};

use crate::{Content, Document, DocumentArray, LABEL_TAG};

/// Summary of an array of documents, printable as a short text.
///
/// ```
/// use finetuner_protocol::{Document, DocumentArray, Summary};
///
/// let array = DocumentArray::from(vec![Document::text("a red shoe").with_label("shoe")]);
/// let summary = Summary::from(&array);
/// assert_eq!(summary.length, 1);
/// assert_eq!(summary.labels, 1);
/// println!("{summary}");
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Summary {
    /// Number of documents.
    pub length: u64,
    /// Sets of fields, and the number of documents with exactly these fields, the most
    /// frequent first.
    pub attributes: Vec<(Vec<&'static str>, u64)>,
    /// Number of different labels of documents and chunks.
    pub labels: u64,
    /// Number of documents and chunks per modality.
    pub modalities: BTreeMap<String, u64>,
}

impl Summary {
    /// Returns the summary as docarray sends it with an upload.
    #[must_use]
    pub fn to_meta_data(&self) -> Value {
        let item = |name: &str, value: Value, description: &str| {
            let mut item = json!({"name": name, "value": value});
            if !description.is_empty() {
                item["description"] = description.into();
            }
            item
        };
        let common = self.attributes.first().map(|(names, _)| names);
        let has = |field: &&str| {
            self.attributes
                .iter()
                .any(|(names, _)| names.contains(field))
        };
        let nested: Vec<&str> = ["chunks", "matches"].into_iter().filter(has).collect();
        let groups: Vec<Value> = if self.attributes.len() > 1 {
            self.attributes.iter().map(group).collect()
        } else {
            Vec::new()
        };
        json!({
            "branding": null,
            "summary": [
                item(
                    "Type",
                    "DocumentArrayInMemory".into(),
                    "The type of the DocumentArray",
                ),
                item("Length", self.length.into(), "The length of the DocumentArray"),
                item(
                    "Homogenous Documents",
                    (self.attributes.len() == 1).into(),
                    "Whether all documents are of the same structure, attributes",
                ),
                item(
                    "Common Attributes",
                    json!(common),
                    "The common attributes of all documents",
                ),
                item(
                    "Has nested Documents in",
                    json!(nested),
                    "The field that contains nested Documents",
                ),
                item(
                    "Multimodal dataclass",
                    false.into(),
                    "Whether all documents are multimodal",
                ),
                item("Subindices", json!([]), ""),
                item(
                    "Inspect attributes",
                    groups.into(),
                    "Quick overview of attributes of all documents",
                ),
                item(
                    "Storage backend",
                    json!([]),
                    "Quick overview of the Document Store",
                ),
            ],
        })
    }
}

impl From<&DocumentArray> for Summary {
    fn from(array: &DocumentArray) -> Self {
        let mut counter = SummaryCounter::default();
        for document in array {
            counter.add(document);
        }
        counter.finish()
    }
}

/// Formats a group of documents with the same fields as docarray does.
fn group((names, count): &(Vec<&'static str>, u64)) -> Value {
    let documents = match count {
        1 => "1 Document has".to_owned(),
        n => format!("{n} Documents have"),
    };
    let attributes = match names.len() {
        0 => "no attribute",
        1 => "one attribute",
        _ => "attributes",
    };
    let quoted: Vec<String> = names.iter().map(|name| format!("'{name}'")).collect();
    let tuple = match quoted.as_slice() {
        [one] => format!("({one},)"),
        all => format!("({})", all.join(", ")),
    };
    json!({"name": format!("{documents} {attributes}"), "value": tuple, "description": ""})
}

/// Builds a [`Summary`] from documents one at a time.
#[derive(Clone, Debug, Default)]
pub struct SummaryCounter {
    length: u64,
    /// In order of first occurrence.
    attributes: Vec<(Vec<&'static str>, u64)>,
    labels: BTreeSet<String>,
    modalities: BTreeMap<String, u64>,
}

impl SummaryCounter {
    /// Counts a document.
    pub fn add(&mut self, document: &Document) {
        self.length += 1;
        let names = attributes(document);
        match self.attributes.iter_mut().find(|(n, _)| *n == names) {
            Some((_, count)) => *count += 1,
            None => self.attributes.push((names, 1)),
        }
        for part in std::iter::once(document).chain(&document.chunks) {
            if part.tags.contains_key(LABEL_TAG) {
                self.labels.extend(part.label());
            }
            if let Some(modality) = &part.modality {
                let count = self.modalities.entry(modality.to_string());
                *count.or_default() += 1;
            }
        }
    }

    /// Returns the summary of all documents.
    #[must_use]
    pub fn finish(mut self) -> Summary {
        self.attributes
            .sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        Summary {
            length: self.length,
            attributes: self.attributes,
            labels: self.labels.len() as u64,
            modalities: self.modalities,
        }
    }
}

/// Returns the fields that are set, in docarray's order.
fn attributes(document: &Document) -> Vec<&'static str> {
    let holds = |kind: fn(&Content) -> bool| document.content.as_ref().is_some_and(kind);
    [
        ("id", !document.id.is_empty()),
        ("blob", holds(|c| matches!(c, Content::Blob(_)))),
        ("tensor", holds(|c| matches!(c, Content::Tensor(_)))),
        ("mime_type", !document.mime_type.is_empty()),
        ("text", holds(|c| matches!(c, Content::Text(_)))),
        ("uri", !document.uri.is_empty()),
        ("tags", !document.tags.is_empty()),
        ("embedding", document.embedding.is_some()),
        ("modality", document.modality.is_some()),
        ("scores", !document.scores.is_empty()),
        ("chunks", !document.chunks.is_empty()),
        ("matches", !document.matches.is_empty()),
    ]
    .into_iter()
    .filter_map(|(name, holds)| holds.then_some(name))
    .collect()
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} documents", self.length)?;
        for (names, count) in &self.attributes {
            write!(f, "\n  {count} with {}", names.join(", "))?;
        }
        for (modality, count) in &self.modalities {
            write!(f, "\n  {count} of modality {modality}")?;
        }
        if self.labels > 0 {
            write!(f, "\n  {} different labels", self.labels)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_counts_documents_in_the_format_of_docarray() {
        let pair = |text: &str| {
            Document::new()
                .with_chunk(Document::text(text).with_modality("text"))
                .with_chunk(Document::blob(vec![1]).with_modality("image"))
        };
        let array: DocumentArray = [Document::text("alone").with_label(7), pair("a"), pair("b")]
            .into_iter()
            .collect();
        let summary = Summary::from(&array);
        assert_eq!((summary.length, summary.labels), (3, 1));
        assert_eq!(summary.attributes[0], (vec!["id", "chunks"], 2));
        assert_eq!(summary.modalities["image"], 2);
        let meta_data = summary.to_meta_data();
        assert_eq!(
            meta_data["summary"][7]["value"][0]["name"],
            "2 Documents have attributes"
        );
        assert_eq!(
            meta_data["summary"][7]["value"][1]["value"],
            "('id', 'text', 'tags')"
        );
        let text = summary.to_string();
        assert!(
            text.contains("3 documents") && text.contains("2 of modality text"),
            "{text}"
        );
    }
}
