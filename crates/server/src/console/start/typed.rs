//! Input of the form.

use serde::Deserialize;

/// The experiment of a run whose form names none.
const EXPERIMENT: &str = "default";

/// Input of the form.
#[derive(Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Typed {
    /// The name of the dataset to train on.
    pub(super) data: String,
    pub(super) experiment: String,
    pub(super) name: String,
    pub(super) description: String,
    pub(super) model: String,
    /// A model that is not in the list.
    pub(super) other_model: String,
    pub(super) loss: String,
    pub(super) eval_data: String,
    pub(super) evaluate: String,
    pub(super) epochs: String,
    pub(super) batch_size: String,
    pub(super) learning_rate: String,
    pub(super) device: String,
    /// `code` to see the code alone, without starting anything.
    pub(super) action: String,
}

impl Typed {
    pub(super) fn model(&self) -> &str {
        match self.other_model.trim() {
            "" => self.model.trim(),
            other => other,
        }
    }

    pub(super) fn experiment(&self) -> &str {
        match self.experiment.trim() {
            "" => EXPERIMENT,
            given => given,
        }
    }

    pub(super) fn evaluates(&self) -> bool {
        !self.evaluate.is_empty() && !self.eval_data.trim().is_empty()
    }
}
