//! `WiSEFTCallback`: averages weights before and after fine-tuning.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::checks::invalid_option;
use crate::{Generation, InvalidField, members::with_extra_members};

/// Averages the fine-tuned weights with those of the backbone.
///
/// The result keeps more of the backbone's knowledge (Wortsman et al. 2021,
/// <https://arxiv.org/abs/2109.01903>).
///
/// ```
/// let callback = finetuner_protocol::callback::WiSEFTCallback::new().alpha(0.4);
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct WiSEFTCallback {
    /// Weight of the fine-tuned model, from 0 to 1; 0.4 by default. The result is
    /// `(1 - alpha) * backbone + alpha * fine_tuned`.
    pub alpha: f64,
    /// Other options, kept as received.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl Default for WiSEFTCallback {
    fn default() -> Self {
        Self {
            alpha: 0.4,
            extra: Map::new(),
        }
    }
}

impl WiSEFTCallback {
    /// Uses 0.4 as `alpha`.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets [`WiSEFTCallback::alpha`].
    #[must_use]
    pub fn alpha(mut self, alpha: f64) -> Self {
        self.alpha = alpha;
        self
    }

    /// Finds the first option that can't be used.
    pub(super) fn check(&self) -> Result<(), InvalidField> {
        if !(0.0..=1.0).contains(&self.alpha) {
            let limit = "from 0 to 1 is allowed";
            return Err(invalid_option("WiSEFTCallback", "alpha", self.alpha, limit));
        }
        Ok(())
    }

    pub(super) fn options(&self, _: Generation) -> Map<String, Value> {
        with_extra_members(json!({"alpha": self.alpha}), &self.extra)
    }
}
