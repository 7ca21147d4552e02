//! Whether the labels of training data can teach anything.

use finetuner_protocol::{Document, text::start_of};

/// The labels of documents without parts, which are trained on by their labels
/// alone.
#[derive(Default)]
pub(crate) struct Labels {
    documents: u64,
    first: Option<String>,
    /// Whether there is a second label, a part, or a document without label.
    more: bool,
}

impl Labels {
    pub(crate) fn add(&mut self, document: &Document) {
        self.documents += 1;
        if self.more {
            return;
        }
        let label = document.label().filter(|_| document.chunks.is_empty());
        match (&self.first, label) {
            (None, Some(label)) => self.first = Some(label),
            (Some(first), Some(label)) => self.more = *first != label,
            (_, None) => self.more = true,
        }
    }

    /// Returns why nothing can be learned: all documents have one label.
    pub(crate) fn check(&self) -> Result<(), String> {
        match &self.first {
            Some(label) if !self.more => Err(format!(
                "all {} documents have the label `{}`: training needs at least two classes",
                self.documents,
                start_of(label)
            )),
            _ => Ok(()),
        }
    }
}
