//! Data sets whose documents are texts, without labels.

use std::sync::Arc;

use finetuner_protocol::{Document, text::is_blank};

use super::{DataName, Documents, each::each};
use crate::{Error, Result};

/// Makes something of the text of each document.
///
/// # Errors
/// [`Error::Data`] lists the documents that hold no text, up to ten.
pub(crate) fn texts<T: Send>(
    documents: Documents,
    name: DataName<'_>,
    make: impl Fn(&str) -> T + Sync,
) -> Result<Vec<T>> {
    each(documents, name, "are no texts", |_, document| {
        Ok(make(text(document)?))
    })
}

/// The text of one document.
///
/// # Errors
/// [`Error::Data`] where it holds none.
pub(crate) fn read_text(document: &Document, name: DataName<'_>) -> Result<Arc<str>> {
    let bad = |reason| Error::data(format!("document `{}` of {name}: {reason}", document.id));
    text(document).map(Arc::from).map_err(bad)
}

/// The text of a document, or why there is none.
pub(super) fn text(document: &Document) -> Result<&str, String> {
    let text = document.as_text().filter(|text| !is_blank(text));
    text.ok_or_else(|| "it holds no text".to_owned())
}
