//! The relevant documents that a search found, and those that it missed.

/// The relevance of the documents that one query found.
#[derive(Clone, Debug)]
pub struct Relevance {
    /// Whether each document of the list is relevant, the best match first.
    pub found: Vec<bool>,
    /// How many relevant documents the index holds.
    pub max_relevant: usize,
}

impl Relevance {
    /// Returns the relevance of the first `limit` found documents.
    #[must_use]
    pub(crate) fn within(&self, limit: usize) -> Self {
        Self {
            found: self.found.iter().take(limit).copied().collect(),
            max_relevant: self.max_relevant,
        }
    }

    /// How many of the found documents are relevant.
    pub(super) fn count(&self) -> usize {
        self.found.iter().filter(|r| **r).count()
    }
}
