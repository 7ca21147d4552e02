//! `MLFlowLogger`: sends metrics to MLflow. Clients up to 0.2.2 have it.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::checks::invalid_option;
use crate::{Generation, InvalidField, members::with_extra_members};

/// Sends metrics to an MLflow server while a run is in progress.
///
/// Backends of the last Python client don't know it.
///
/// ```
/// use finetuner_protocol::callback::MLFlowLogger;
///
/// let callback = MLFlowLogger::new("fashion", "http://127.0.0.1:5000");
/// ```
#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct MLFlowLogger {
    /// Name of the experiment.
    pub experiment: String,
    /// Address of an MLflow server, which may contain a user name and a password; if
    /// empty, the backend's own. `Debug` does not print it.
    pub tracking_uri: String,
    /// Other options, kept as received.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl MLFlowLogger {
    /// Sends metrics of this experiment to this address.
    #[must_use]
    pub fn new(experiment: impl Into<String>, tracking_uri: impl Into<String>) -> Self {
        Self {
            experiment: experiment.into(),
            tracking_uri: tracking_uri.into(),
            extra: Map::new(),
        }
    }

    /// Finds the first option that can't be used.
    pub(super) fn check(&self) -> Result<(), InvalidField> {
        let control = self.tracking_uri.chars().any(char::is_control);
        match control {
            false => Ok(()),
            true => Err(invalid_option(
                "MLFlowLogger",
                "tracking_uri",
                "text with control characters",
                "give an address such as `http://mlflow.example.org`",
            )),
        }
    }

    pub(super) fn options(&self, _: Generation) -> Map<String, Value> {
        let options = json!({
            "experiment": self.experiment, "tracking_uri": self.tracking_uri,
        });
        with_extra_members(options, &self.extra)
    }
}

impl std::fmt::Debug for MLFlowLogger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The address and other options may contain a password.
        f.debug_struct("MLFlowLogger")
            .field("experiment", &self.experiment)
            .finish_non_exhaustive()
    }
}
