//! Submitted values of the form that starts a run.

use serde::Deserialize;

/// Default name of the experiment.
const DEFAULT_EXPERIMENT: &str = "default";

/// Submitted values.
#[derive(Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Typed {
    /// The name of the dataset to train on.
    pub(super) data: String,
    pub(super) experiment: String,
    pub(super) name: String,
    pub(super) description: String,
    pub(super) model: String,
    /// Name of a model that is not in the list; overrides `model`.
    pub(super) other_model: String,
    pub(super) loss: String,
    pub(super) eval_data: String,
    pub(super) evaluate: String,
    pub(super) epochs: String,
    pub(super) batch_size: String,
    pub(super) learning_rate: String,
    pub(super) device: String,
    /// `code` to show the run as code without starting it.
    pub(super) action: String,
}

impl Typed {
    /// Returns the name of the model, from either field.
    pub(super) fn model(&self) -> &str {
        match self.other_model.trim() {
            "" => self.model.trim(),
            other => other,
        }
    }

    /// Returns the name of the experiment, or its default.
    pub(super) fn experiment(&self) -> &str {
        match self.experiment.trim() {
            "" => DEFAULT_EXPERIMENT,
            given => given,
        }
    }

    pub(super) fn evaluates(&self) -> bool {
        !self.evaluate.is_empty() && !self.eval_data.trim().is_empty()
    }
}
