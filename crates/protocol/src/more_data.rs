//! Further data sets of a run.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// A data set that is trained on beside `train_data`.
///
/// ```
/// let more = finetuner_protocol::MoreData::new("questions").weight(0.5);
/// assert_eq!(serde_json::to_value(&more)?["name"], "questions");
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct MoreData {
    /// Its name.
    pub name: String,
    /// How often an epoch goes through it.
    #[serde(default = "once")]
    pub weight: f64,
    /// Members that are not known here.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

fn once() -> f64 {
    1.0
}

impl MoreData {
    /// A data set that each epoch goes through once.
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
