//! `TrainingCheckpoint`: keeps the checkpoints of the last epochs.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::checks::check_positive;
use crate::{Generation, InvalidField, members::with_extra_members};

/// Keeps a checkpoint of each of the last epochs.
///
/// ```
/// let callback = finetuner_protocol::callback::TrainingCheckpoint::new().last_k_epochs(3);
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct TrainingCheckpoint {
    /// Number of epochs to keep, counted from the last; 1 by default.
    pub last_k_epochs: u64,
    /// Sent by clients up to 0.2.2; without effect.
    pub save_dir: String,
    /// Sent by clients up to 0.2.2; without effect.
    pub verbose: bool,
    /// Other options, kept as received.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl Default for TrainingCheckpoint {
    fn default() -> Self {
        Self {
            last_k_epochs: 1,
            save_dir: "training_chckpt".to_owned(),
            verbose: false,
            extra: Map::new(),
        }
    }
}

impl TrainingCheckpoint {
    /// Keeps the last epoch.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets [`TrainingCheckpoint::last_k_epochs`].
    #[must_use]
    pub fn last_k_epochs(mut self, count: u64) -> Self {
        self.last_k_epochs = count;
        self
    }

    /// Finds the first option that can't be used.
    pub(super) fn check(&self) -> Result<(), InvalidField> {
        check_positive("TrainingCheckpoint", "last_k_epochs", self.last_k_epochs)
    }

    pub(super) fn options(&self, generation: Generation) -> Map<String, Value> {
        let count = self.last_k_epochs;
        let options = match generation {
            Generation::V0_2 => json!({
                "save_dir": self.save_dir, "last_k_epochs": count, "verbose": self.verbose,
            }),
            Generation::V0_8 => json!({"last_k_epochs": count}),
        };
        with_extra_members(options, &self.extra)
    }
}
