//! Further training data sets of a run.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// A further training data set, besides `train_data`.
///
/// ```
/// let more = finetuner_protocol::MoreData::new("questions").weight(0.5);
/// assert_eq!(serde_json::to_value(&more)?["name"], "questions");
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct MoreData {
    /// Name of the data.
    pub name: String,
    /// Number of times that an epoch goes through it.
    #[serde(default = "once")]
    pub weight: f64,
    /// Other members, kept as received.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

fn once() -> f64 {
    1.0
}

impl MoreData {
    /// Creates a data set with the weight 1.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            weight: once(),
            extra: Map::new(),
        }
    }

    /// Sets [`MoreData::weight`].
    #[must_use]
    pub fn weight(mut self, weight: f64) -> Self {
        self.weight = weight;
        self
    }
}
