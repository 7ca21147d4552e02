//! `EarlyStopping`: ends a training that no longer improves.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::checks::{check_monitor, check_positive, invalid_option};
use crate::{Generation, InvalidField, MonitorMode, members::with_extra_members};

/// Ends the training if a metric has not improved for some epochs.
///
/// ```
/// use finetuner_protocol::callback::EarlyStopping;
///
/// let callback = EarlyStopping::new().patience(3).min_delta(0.01);
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct EarlyStopping {
    /// Metric to watch; `val_loss` by default.
    ///
    /// It is `train_loss`, `val_loss` or a metric of an
    /// [`EvaluationCallback`](super::EvaluationCallback).
    pub monitor: String,
    /// `min`, `max` or `auto`: smaller is better for losses, greater for all others.
    pub mode: MonitorMode,
    /// Number of epochs without improvement before the training ends; 2 by default.
    pub patience: u64,
    /// Smallest change that counts as an improvement; 0 by default. A number, kept
    /// as JSON because clients send whole numbers without a decimal point.
    pub min_delta: Value,
    /// Value that must be improved on.
    pub baseline: Option<f64>,
    /// Sent by clients up to 0.2.2; without effect.
    pub verbose: bool,
    /// Other options, kept as received.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl Default for EarlyStopping {
    fn default() -> Self {
        Self {
            monitor: "val_loss".to_owned(),
            mode: MonitorMode::Auto,
            patience: 2,
            min_delta: 0.into(),
            baseline: None,
            verbose: false,
            extra: Map::new(),
        }
    }
}

impl EarlyStopping {
    /// Watches the validation loss.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets [`EarlyStopping::monitor`].
    #[must_use]
    pub fn monitor(mut self, metric: impl Into<String>) -> Self {
        self.monitor = metric.into();
        self
    }

    /// Sets [`EarlyStopping::mode`].
    #[must_use]
    pub fn mode(mut self, mode: impl Into<MonitorMode>) -> Self {
        self.mode = mode.into();
        self
    }

    /// Sets [`EarlyStopping::patience`].
    #[must_use]
    pub fn patience(mut self, epochs: u64) -> Self {
        self.patience = epochs;
        self
    }

    /// Sets [`EarlyStopping::min_delta`].
    #[must_use]
    pub fn min_delta(mut self, delta: f64) -> Self {
        self.min_delta = delta.into();
        self
    }

    /// Sets [`EarlyStopping::baseline`].
    #[must_use]
    pub fn baseline(mut self, value: f64) -> Self {
        self.baseline = Some(value);
        self
    }

    /// Finds the first option that can't be used.
    pub(super) fn check(&self) -> Result<(), InvalidField> {
        const NAME: &str = "EarlyStopping";
        check_monitor(NAME, &self.monitor, &self.mode)?;
        check_positive(NAME, "patience", self.patience)?;
        if self.min_delta.as_f64().is_none_or(|delta| delta < 0.0) {
            let limit = "it must be a number of at least 0";
            return Err(invalid_option(NAME, "min_delta", &self.min_delta, limit));
        }
        if let Some(baseline) = self.baseline.filter(|value| !value.is_finite()) {
            let limit = "it must be a finite number; leave it out to have none";
            return Err(invalid_option(NAME, "baseline", baseline, limit));
        }
        Ok(())
    }

    pub(super) fn options(&self, generation: Generation) -> Map<String, Value> {
        let mut options = json!({
            "monitor": self.monitor, "mode": self.mode, "patience": self.patience,
            "min_delta": self.min_delta, "baseline": self.baseline,
        });
        if generation == Generation::V0_2 {
            options["verbose"] = self.verbose.into();
        }
        with_extra_members(options, &self.extra)
    }
}
