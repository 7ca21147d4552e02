//! Prompts, which are put before the texts of a run.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Prompts for the columns of the data.
///
/// They have the meaning of `prompts` in the training arguments of
/// sentence-transformers.
///
/// ```
/// use finetuner_protocol::Prompts;
///
/// let prompts = Prompts::new().anchor("query: ").positive("passage: ");
/// assert_eq!(serde_json::to_value(&prompts)?["anchor"], "query: ");
/// assert_eq!(serde_json::to_value(Prompts::from("text: "))?, "text: ");
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
#[non_exhaustive]
pub enum Prompts {
    /// One prompt for all texts.
    All(String),
    /// One prompt per column.
    ByColumn(Map<String, Value>),
    /// Any other value.
    Other(Value),
}

impl Default for Prompts {
    fn default() -> Self {
        Self::ByColumn(Map::new())
    }
}

impl From<&str> for Prompts {
    fn from(prompt: &str) -> Self {
        Self::All(prompt.to_owned())
    }
}

impl From<String> for Prompts {
    fn from(prompt: String) -> Self {
        Self::All(prompt)
    }
}

impl Prompts {
    /// Creates an empty set of prompts.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the prompt of anchors: queries, questions, first sentences.
    #[must_use]
    pub fn anchor(self, prompt: impl Into<String>) -> Self {
        self.column("anchor", prompt)
    }

    /// Sets the prompt of the anchors' matches.
    #[must_use]
    pub fn positive(self, prompt: impl Into<String>) -> Self {
        self.column("positive", prompt)
    }

    /// Sets the prompt of negatives.
    #[must_use]
    pub fn negative(self, prompt: impl Into<String>) -> Self {
        self.column("negative", prompt)
    }

    /// Sets the prompt of a column.
    ///
    /// Columns are `anchor`, `positive` and `negative`, or `text` for labelled texts.
    #[must_use]
    pub fn column(self, name: impl Into<String>, prompt: impl Into<String>) -> Self {
        let mut columns = match self {
            Self::ByColumn(columns) => columns,
            _ => Map::new(),
        };
        columns.insert(name.into(), prompt.into().into());
        Self::ByColumn(columns)
    }
}
