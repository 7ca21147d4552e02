//! In-memory search index: the items of a data set with their embeddings.

use std::{
    collections::{HashMap, HashSet},
    io::Read,
    sync::{Mutex, MutexGuard, PoisonError},
};

use finetuner_engine::{
    Error as EngineError, evaluation::Distance, infer::Embeddings, models::ModelKind,
};
use finetuner_protocol::{Content, Document, DocumentError, DocumentReader};
use sha2::{Digest, Sha256};

use super::batch::Item;

/// Maximum number of texts or images of a data set that are searched.
pub(crate) const MOST: usize = 5000;
/// Number of texts or images in a chunk.
const CHUNK_ITEMS: usize = 64;
/// Size limit of a chunk in bytes, unless a single item is larger.
const CHUNK_BYTES: usize = 16 << 20;
/// Maximum size of a searched text or image, in bytes. Larger ones are
/// skipped.
const MAX_ITEM: usize = 8 << 20;
/// Number of a text's characters that are kept for display.
const MAX_CHARS: usize = 400;
/// Depth to which chunks of documents are searched.
const MAX_DEPTH: usize = 3;

/// Progress of the indexes that are being built: number of embedded items by index key.
#[derive(Default)]
pub(crate) struct Progress(Mutex<HashMap<String, usize>>);

impl Progress {
    fn all(&self) -> MutexGuard<'_, HashMap<String, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns how many texts or images of a data set in progress are embedded.
    pub(crate) fn of(&self, key: &str) -> usize {
        self.all().get(key).copied().unwrap_or_default()
    }

    pub(crate) fn note(&self, key: &str, done: usize) {
        self.all().insert(key.to_owned(), done);
    }

    pub(crate) fn end(&self, key: &str) {
        self.all().remove(key);
    }
}

/// Display data of a search result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Shown {
    /// Index of its document, from 0.
    pub(crate) document: u64,
    /// Indices of its chunk and subchunks, joined by dots.
    pub(crate) part: String,
    /// The text, or the text that accompanies an image.
    pub(crate) text: String,
    pub(crate) is_image: bool,
}

/// The embeddings of a data set.
pub(crate) struct Index {
    embeddings: Embeddings,
    shown: Vec<Shown>,
    /// Number of documents in the whole data set.
    pub(crate) documents: u64,
}

/// A search result.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub(crate) shown: Shown,
    /// Cosine similarity of query and item.
    pub(crate) score: f32,
}

impl Index {
    pub(crate) fn new(dim: usize) -> Self {
        Self {
            embeddings: Embeddings {
                dim,
                values: Vec::new(),
            },
            shown: Vec::new(),
            documents: 0,
        }
    }

    pub(crate) fn extend(&mut self, shown: Vec<Shown>, found: &Embeddings) {
        self.embeddings.values.extend_from_slice(&found.values);
        self.shown.extend(shown);
    }

    /// Returns the number of searchable items.
    pub(crate) fn len(&self) -> usize {
        self.shown.len()
    }

    /// Returns the memory usage in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        let texts: usize = self.shown.iter().map(|shown| shown.text.len()).sum();
        let values = self.embeddings.values.len() * size_of::<f32>();
        (values + texts + self.shown.len() * size_of::<Shown>()) as u64
    }

    /// Returns the items that are most similar to a query, the best first.
    ///
    /// # Errors
    /// The query has a different number of dimensions.
    pub(crate) fn search(
        &self,
        query: &Embeddings,
        limit: usize,
    ) -> Result<Vec<Found>, EngineError> {
        let rankings = self.embeddings.search(query, limit, Distance::Cosine)?;
        let found = rankings.into_iter().flatten().filter_map(|found| {
            Some(Found {
                shown: self.shown.get(found.index)?.clone(),
                score: 1.0 - found.distance,
            })
        });
        Ok(found.collect())
    }
}

/// Reads the searchable items of a data set in chunks, up to [`MOST`] items.
///
/// Passes each chunk to `take` and stops when that returns false. Returns the
/// number of documents in the data set.
///
/// The items are images if the model embeds images and the first document
/// has one. Otherwise they are texts, without duplicates. In a document with
/// several texts, the first one is the query and is skipped.
pub(crate) fn gather(
    bytes: impl Read,
    kind: ModelKind,
    mut take: impl FnMut(Vec<(Shown, Item)>) -> bool,
) -> Result<u64, DocumentError> {
    let mut reader = DocumentReader::new(bytes)?;
    let total = reader.count_announced();
    let (mut texts, mut chunk, mut count) = (HashSet::new(), Vec::new(), 0);
    let mut size = 0;
    let mut images = None;
    let mut number = 0;
    while count < MOST
        && let Some(document) = reader.next()
    {
        let document = document?;
        let images = *images.get_or_insert_with(|| match kind {
            ModelKind::Image => true,
            ModelKind::TextImage => has_image(&document, 0),
            _ => false,
        });
        for (shown, item) in items_of(&document, number, images) {
            if let Item::Text(text) = &item
                && !texts.insert(<[u8; 32]>::from(Sha256::digest(text)))
            {
                continue;
            }
            size += item.size();
            chunk.push((shown, item));
            count += 1;
            if chunk.len() == CHUNK_ITEMS || size >= CHUNK_BYTES {
                size = 0;
                if !take(std::mem::take(&mut chunk)) {
                    return Ok(total);
                }
            }
            if count == MOST {
                break;
            }
        }
        number += 1;
    }
    if !chunk.is_empty() {
        take(chunk);
    }
    Ok(total)
}

fn has_image(document: &Document, depth: usize) -> bool {
    document.as_blob().is_some()
        || depth < MAX_DEPTH
            && document
                .chunks
                .iter()
                .any(|part| has_image(part, depth + 1))
}

/// Returns the searchable items of a document.
fn items_of(document: &Document, number: u64, images: bool) -> Vec<(Shown, Item)> {
    let mut leaves = Vec::new();
    gather_leaves(document, &mut Vec::new(), &mut leaves);
    let text = |leaf: &&(String, &Document)| leaf.1.as_text().is_some();
    let caption = leaves
        .iter()
        .find(text)
        .and_then(|(_, part)| part.as_text());
    let shown = |part: &str, text: &str, is_image| Shown {
        document: number,
        part: part.to_owned(),
        text: text.chars().take(MAX_CHARS).collect(),
        is_image,
    };
    let texts = leaves.iter().filter(text).count();
    let mut passed = 0;
    let items = leaves
        .iter()
        .filter_map(|(part, leaf)| match &leaf.content {
            Some(Content::Blob(bytes)) if images && bytes.len() <= MAX_ITEM => Some((
                shown(part, caption.unwrap_or_default(), true),
                Item::Image(bytes.clone().into()),
            )),
            Some(Content::Text(text)) if !images && text.len() <= MAX_ITEM => {
                passed += 1;
                let is_query = texts > 1 && passed == 1;
                let item = Item::Text(text.clone());
                (!is_query && !text.is_empty()).then(|| (shown(part, text, false), item))
            }
            _ => None,
        });
    items.collect()
}

/// Collects the parts of a document that have content, with their positions.
fn gather_leaves<'a>(
    document: &'a Document,
    place: &mut Vec<usize>,
    leaves: &mut Vec<(String, &'a Document)>,
) {
    if document.content.is_some() {
        let numbers: Vec<String> = place.iter().map(ToString::to_string).collect();
        leaves.push((numbers.join("."), document));
    }
    if place.len() < MAX_DEPTH {
        for (i, part) in document.chunks.iter().enumerate() {
            place.push(i);
            gather_leaves(part, place, leaves);
            place.pop();
        }
    }
}

#[cfg(test)]
mod tests {
    use finetuner_protocol::DocumentArray;

    use super::*;

    fn found(documents: Vec<Document>, kind: ModelKind) -> Vec<(String, String)> {
        let bytes = DocumentArray::from(documents).to_bytes().unwrap();
        let mut all = Vec::new();
        gather(bytes.as_slice(), kind, |chunk| {
            let shown = chunk.into_iter().map(|(shown, item)| match item {
                Item::Text(text) => (format!("{}:{}", shown.document, shown.part), text),
                Item::Image(_) => (format!("{}:{}", shown.document, shown.part), shown.text),
            });
            all.extend(shown);
            true
        })
        .unwrap();
        all
    }

    #[test]
    fn only_matches_are_indexed_and_equal_texts_once() {
        let pair = |a: &str, b: &str| {
            Document::new()
                .with_chunk(Document::text(a))
                .with_chunk(Document::text(b))
        };
        let documents = vec![
            pair("hem", "the edge"),
            pair("seam", "the edge"),
            Document::text("alone"),
            Document::new().with_chunk(Document::text("one part")),
            Document::text(""),
        ];
        let own = |place: &str, text: &str| (place.to_owned(), text.to_owned());
        let expected = [
            own("0:1", "the edge"),
            own("2:", "alone"),
            own("3:0", "one part"),
        ];
        assert_eq!(found(documents, ModelKind::Text), expected);
    }

    #[test]
    fn images_are_found_with_their_captions() {
        let pair = Document::new()
            .with_chunk(Document::blob(vec![1]))
            .with_chunk(Document::text("a shoe"));
        let own = |place: &str| (place.to_owned(), "a shoe".to_owned());
        let all = found(vec![pair.clone(), pair.clone()], ModelKind::TextImage);
        assert_eq!(all, [own("0:0"), own("1:0")]);
        assert_eq!(found(vec![pair.clone()], ModelKind::Text), [own("0:1")]);
        let texts = vec![Document::text("a shoe"), pair];
        assert_eq!(found(texts, ModelKind::TextImage), [own("0:")]);
    }

    #[test]
    fn large_data_is_read_in_chunks_up_to_a_limit() {
        let texts = (0..MOST + 10).map(|n| Document::text(format!("text {n}")));
        let texts: Vec<Document> = texts.collect();
        let bytes = DocumentArray::from(texts).to_bytes().unwrap();
        let mut sizes = Vec::new();
        let total = gather(bytes.as_slice(), ModelKind::Text, |chunk| {
            sizes.push(chunk.len());
            true
        });
        assert_eq!(total.unwrap() as usize, MOST + 10);
        assert_eq!(sizes.iter().sum::<usize>(), MOST);
        assert!(sizes.iter().all(|size| *size <= CHUNK_ITEMS));
        let mut calls = 0;
        gather(bytes.as_slice(), ModelKind::Text, |_| {
            calls += 1;
            false
        })
        .unwrap();
        assert_eq!(calls, 1, "reading stops at the limit");
    }

    #[test]
    fn the_most_similar_comes_first() {
        let shown = |text: &str| Shown {
            document: 0,
            part: String::new(),
            text: text.to_owned(),
            is_image: false,
        };
        let of = |values: Vec<f32>| Embeddings { dim: 2, values };
        let mut index = Index::new(2);
        index.extend(vec![shown("x")], &of(vec![3.0, 0.0]));
        index.extend(vec![shown("y"), shown("xy")], &of(vec![0.0, 1.0, 1.0, 1.0]));
        let found = index.search(&of(vec![1.0, 0.2]), 2).unwrap();
        let names: Vec<&str> = found
            .iter()
            .map(|found| found.shown.text.as_str())
            .collect();
        assert_eq!(names, ["x", "xy"]);
        assert!(
            (found[0].score - 0.980_58).abs() < 1e-4,
            "{}",
            found[0].score
        );
        let wrong = Embeddings {
            dim: 3,
            values: vec![1.0; 3],
        };
        assert!(index.search(&wrong, 2).is_err());
        assert_eq!((index.len(), index.bytes() > 24), (3, true));
    }
}
