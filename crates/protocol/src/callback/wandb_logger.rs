//! `WandBLogger`: sends metrics to Weights & Biases.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::checks::invalid_option;
use crate::{Generation, InvalidField, members::with_extra_members};

/// Sends metrics to Weights & Biases.
///
/// ```
/// let callback = finetuner_protocol::callback::WandBLogger::new().experiment("fashion");
/// ```
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct WandBLogger {
    /// Interval at which metrics are sent: `epoch` (the default) or `batch`.
    pub metrics_logger_step: String,
    /// Arguments of `wandb.init`.
    pub wandb_args: Option<Map<String, Value>>,
    /// Whether to send the evaluation before training too; on by default.
    pub log_zero_shot: bool,
    /// Name of the experiment; sent by clients up to 0.2.2.
    pub experiment: String,
    /// API key of an account; sent by clients up to 0.2.2. It is never printed.
    pub api_key: Option<String>,
    /// Other options, kept as received.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl Default for WandBLogger {
    fn default() -> Self {
        Self {
            metrics_logger_step: "epoch".to_owned(),
            wandb_args: None,
            log_zero_shot: true,
            experiment: String::new(),
            api_key: None,
            extra: Map::new(),
        }
    }
}

impl WandBLogger {
    /// Sends metrics after each epoch.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets [`WandBLogger::metrics_logger_step`], `epoch` or `batch`.
    #[must_use]
    pub fn metrics_logger_step(mut self, step: impl Into<String>) -> Self {
        self.metrics_logger_step = step.into();
        self
    }

    /// Sets one of [`WandBLogger::wandb_args`].
    #[must_use]
    pub fn wandb_arg(mut self, name: impl Into<String>, value: impl Into<Value>) -> Self {
        let args = self.wandb_args.get_or_insert_default();
        args.insert(name.into(), value.into());
        self
    }

    /// Sets [`WandBLogger::log_zero_shot`].
    #[must_use]
    pub fn log_zero_shot(mut self, log: bool) -> Self {
        self.log_zero_shot = log;
        self
    }

    /// Sets [`WandBLogger::experiment`].
    #[must_use]
    pub fn experiment(mut self, name: impl Into<String>) -> Self {
        self.experiment = name.into();
        self
    }

    /// Sets [`WandBLogger::api_key`].
    #[must_use]
    pub fn api_key(mut self, key: impl Into<String>) -> Self {
        self.api_key = Some(key.into());
        self
    }

    /// Finds the first option that can't be used.
    pub(super) fn check(&self) -> Result<(), InvalidField> {
        let step = &self.metrics_logger_step;
        if !["batch", "epoch"].contains(&step.as_str()) {
            return Err(invalid_option(
                "WandBLogger",
                "metrics_logger_step",
                format!("`{step}`"),
                "it must be `batch` or `epoch`",
            ));
        }
        Ok(())
    }

    pub(super) fn options(&self, generation: Generation) -> Map<String, Value> {
        let options = match generation {
            Generation::V0_2 => json!({
                "experiment": self.experiment,
                "wandb_args": self.wandb_args.clone().unwrap_or_default(),
                "api_key": self.api_key,
            }),
            Generation::V0_8 => json!({
                "metrics_logger_step": self.metrics_logger_step,
                "wandb_args": self.wandb_args, "log_zero_shot": self.log_zero_shot,
            }),
        };
        with_extra_members(options, &self.extra)
    }
}

impl std::fmt::Debug for WandBLogger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Arguments and other options may contain a key as well.
        f.debug_struct("WandBLogger")
            .field("metrics_logger_step", &self.metrics_logger_step)
            .field("log_zero_shot", &self.log_zero_shot)
            .field("experiment", &self.experiment)
            .finish_non_exhaustive()
    }
}
