//! Prompts: texts that go before the texts of a run.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Prompts for the columns of the data, as `prompts` of the training arguments of
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
    /// One prompt for each column that is named.
    ByColumn(Map<String, Value>),
    /// Anything else.
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
    /// No prompts.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The prompt of anchors: queries, questions, first sentences.
    #[must_use]
    pub fn anchor(self, prompt: impl Into<String>) -> Self {
        self.column("anchor", prompt)
    }

    /// The prompt of the anchors' matches.
    #[must_use]
    pub fn positive(self, prompt: impl Into<String>) -> Self {
        self.column("positive", prompt)
    }

    /// The prompt of negatives.
    #[must_use]
    pub fn negative(self, prompt: impl Into<String>) -> Self {
        self.column("negative", prompt)
    }

    /// The prompt of a column: `anchor`, `positive` and `negative`, or `text` of
    /// labelled texts.
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
