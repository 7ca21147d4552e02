//! Relevance of search results.

/// Relevance of the results of one query.
#[derive(Clone, Debug)]
pub struct Relevance {
    /// Whether each result is relevant, best match first.
    pub found: Vec<bool>,
    /// Number of relevant documents in the index.
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

    /// Returns the number of relevant results.
    pub(super) fn count(&self) -> usize {
        self.found.iter().filter(|r| **r).count()
    }
}
