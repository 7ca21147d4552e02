//! Validation of documents before the upload.

use finetuner_protocol::{Content, Document};

/// Rejects a document that is empty or has an empty chunk.
pub(crate) fn check_document(document: &Document) -> Result<(), String> {
    let has_parts = !document.chunks.is_empty() || !document.matches.is_empty();
    let is_empty = match &document.content {
        None => document.uri.is_empty() && document.embedding.is_none(),
        Some(Content::Text(_) | Content::Tensor(_)) => false,
        Some(Content::Blob(bytes)) => bytes.is_empty(),
    };
    if is_empty && !has_parts {
        return Err(format!(
            "document `{}` is empty: give it a text, a blob, a tensor, a URI or chunks",
            document.id
        ));
    }
    for chunk in &document.chunks {
        check_document(chunk)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_documents_are_found_at_any_nesting_level() {
        let empty = Document::new().with_id("e");
        assert!(check_document(&empty).is_err());
        let parent = Document::new()
            .with_chunk(Document::text("a"))
            .with_chunk(empty);
        assert!(check_document(&parent).unwrap_err().contains("`e`"));
        assert_eq!(check_document(&Document::uri("a.png")), Ok(()));
    }
}
