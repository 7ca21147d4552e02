//! Reads data sets of unlabelled texts.

use std::sync::Arc;

use finetuner_protocol::{Document, text::is_blank};

use super::{DataName, Documents, each::convert_documents};
use crate::{Error, Result};

/// Calls `make` on the text of each document, and returns the results in order.
///
/// # Errors
/// [`Error::Data`] lists up to ten documents without a text.
pub(crate) fn texts<T: Send>(
    documents: Documents,
    name: DataName<'_>,
    make: impl Fn(&str) -> T + Sync,
) -> Result<Vec<T>> {
    convert_documents(documents, name, "are not texts", |_, document| {
        Ok(make(text(document)?))
    })
}

/// Returns the text of one document.
///
/// # Errors
/// [`Error::Data`] if the document holds no text.
pub(crate) fn read_text(document: &Document, name: DataName<'_>) -> Result<Arc<str>> {
    let bad = |reason| Error::data(format!("document `{}` of {name}: {reason}", document.id));
    text(document).map(Arc::from).map_err(bad)
}

/// Returns the text of a document, or why it has none.
pub(super) fn text(document: &Document) -> Result<&str, String> {
    let text = document.as_text().filter(|text| !is_blank(text));
    text.ok_or_else(|| "it holds no text".to_owned())
}
