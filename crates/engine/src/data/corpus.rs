//! Reads the corpus that negatives are mined from.

use super::{DataName, Documents, Images, Item, each::convert_documents, example::item};
use crate::{Result, models::ModelKind};

/// Reads the items of a corpus.
///
/// An item is a document, or a chunk of a document with chunks.
///
/// # Errors
/// [`crate::Error::Data`] lists the documents without content of this kind.
pub fn read_corpus(
    documents: Documents,
    kind: ModelKind,
    name: DataName<'_>,
    images: &Images,
) -> Result<Vec<Item>> {
    let found = convert_documents(documents, name, "can't be mined from", |i, document| {
        if document.chunks.is_empty() {
            return Ok(vec![item(images, i, document, kind)?]);
        }
        let chunks = document.chunks.iter().enumerate();
        let items = chunks.map(|(number, chunk)| {
            item(images, i, chunk, kind).map_err(|e| e.of(&format!("its chunk {}", number + 1)))
        });
        items.collect()
    })?;
    Ok(found.into_iter().flatten().collect())
}
