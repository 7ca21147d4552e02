//! `BestModelCheckpoint`: keeps the best weights.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::checks::check_monitor;
use crate::{Generation, InvalidField, MonitorMode, members::with_extra_members};

/// Keeps the weights of the epoch with the best value of a metric for the artifact.
///
/// ```
/// use finetuner_protocol::callback::BestModelCheckpoint;
///
/// let callback = BestModelCheckpoint::new().monitor("recall_at_k");
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct BestModelCheckpoint {
    /// Metric to watch; `val_loss` by default.
    ///
    /// It is `train_loss`, `val_loss` or a metric of an
    /// [`EvaluationCallback`](super::EvaluationCallback).
    pub monitor: String,
    /// `min`, `max` or `auto`: smaller is better for losses, greater for all others.
    pub mode: MonitorMode,
    /// Sent by clients up to 0.2.2; without effect.
    pub save_dir: String,
    /// Sent by clients up to 0.2.2; without effect.
    pub verbose: bool,
    /// Other options, kept as received.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl Default for BestModelCheckpoint {
    fn default() -> Self {
        Self {
            monitor: "val_loss".to_owned(),
            mode: MonitorMode::Auto,
            save_dir: "best_model_chckpt".to_owned(),
            verbose: false,
            extra: Map::new(),
        }
    }
}

impl BestModelCheckpoint {
    /// Watches the validation loss.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets [`BestModelCheckpoint::monitor`].
    #[must_use]
    pub fn monitor(mut self, metric: impl Into<String>) -> Self {
        self.monitor = metric.into();
        self
    }

    /// Sets [`BestModelCheckpoint::mode`].
    #[must_use]
    pub fn mode(mut self, mode: impl Into<MonitorMode>) -> Self {
        self.mode = mode.into();
        self
    }

    /// Finds the first option that can't be used.
    pub(super) fn check(&self) -> Result<(), InvalidField> {
        check_monitor("BestModelCheckpoint", &self.monitor, &self.mode)
    }

    pub(super) fn options(&self, generation: Generation) -> Map<String, Value> {
        let (monitor, mode) = (&self.monitor, &self.mode);
        let options = match generation {
            Generation::V0_2 => json!({
                "save_dir": self.save_dir, "monitor": monitor, "mode": mode,
                "verbose": self.verbose,
            }),
            Generation::V0_8 => json!({"monitor": monitor, "mode": mode}),
        };
        with_extra_members(options, &self.extra)
    }
}
