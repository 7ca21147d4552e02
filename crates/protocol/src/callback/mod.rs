//! Callbacks: saving the best model, evaluating, stopping early, logging. Each has
//! its own file.

mod best_model_checkpoint;
mod checks;
mod early_stopping;
mod evaluation;
mod mlflow_logger;
mod training_checkpoint;
mod wandb_logger;
mod wise_ft;

use serde::Deserialize;
use serde_json::{Map, Value, json};

pub use best_model_checkpoint::BestModelCheckpoint;
pub use early_stopping::EarlyStopping;
pub use evaluation::EvaluationCallback;
pub use mlflow_logger::MLFlowLogger;
pub use training_checkpoint::TrainingCheckpoint;
pub use wandb_logger::WandBLogger;
pub use wise_ft::WiSEFTCallback;

use crate::{Generation, InvalidField};

/// A callback of a run. The constructors use the Python client's defaults.
///
/// ```
/// use finetuner_protocol::callback::{BestModelCheckpoint, Callback, EvaluationCallback};
///
/// let callbacks: Vec<Callback> = vec![
///     EvaluationCallback::new("clip-fashion-eval-data").limit(10).into(),
///     BestModelCheckpoint::new().into(),
/// ];
/// # assert_eq!(callbacks[1].name(), "BestModelCheckpoint");
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Callback {
    /// Keeps the best weights.
    BestModelCheckpoint(BestModelCheckpoint),
    /// Keeps the state of the last epochs.
    TrainingCheckpoint(TrainingCheckpoint),
    /// Ends a training that no longer improves.
    EarlyStopping(EarlyStopping),
    /// Measures retrieval before and after the training.
    EvaluationCallback(EvaluationCallback),
    /// Sends metrics to Weights & Biases.
    WandBLogger(WandBLogger),
    /// Averages weights before and after fine-tuning.
    WiSEFTCallback(WiSEFTCallback),
    /// Sends metrics to MLflow.
    MLFlowLogger(MLFlowLogger),
    /// Any other callback.
    Other {
        /// Name of the callback.
        name: String,
        /// Options of the callback.
        options: Map<String, Value>,
    },
}

macro_rules! from_types {
    ($($name:ident),+) => {
        $(impl From<$name> for Callback {
            fn from(callback: $name) -> Self {
                Self::$name(callback)
            }
        })+
    };
}

from_types!(
    BestModelCheckpoint,
    TrainingCheckpoint,
    EarlyStopping,
    EvaluationCallback,
    WandBLogger,
    WiSEFTCallback,
    MLFlowLogger
);

/// Names of all callbacks with their own type.
pub const CALLBACKS: &[&str] = &[
    "BestModelCheckpoint",
    "TrainingCheckpoint",
    "EarlyStopping",
    "EvaluationCallback",
    "WandBLogger",
    "WiSEFTCallback",
    "MLFlowLogger",
];

impl Callback {
    /// Returns the name on the wire.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::BestModelCheckpoint(_) => "BestModelCheckpoint",
            Self::TrainingCheckpoint(_) => "TrainingCheckpoint",
            Self::EarlyStopping(_) => "EarlyStopping",
            Self::EvaluationCallback(_) => "EvaluationCallback",
            Self::WandBLogger(_) => "WandBLogger",
            Self::WiSEFTCallback(_) => "WiSEFTCallback",
            Self::MLFlowLogger(_) => "MLFlowLogger",
            Self::Other { name, .. } => name,
        }
    }

    /// Returns the callback in the format of this generation of the client.
    #[must_use]
    pub fn to_json(&self, generation: Generation) -> Value {
        let options = match self {
            Self::BestModelCheckpoint(callback) => callback.options(generation),
            Self::TrainingCheckpoint(callback) => callback.options(generation),
            Self::EarlyStopping(callback) => callback.options(generation),
            Self::EvaluationCallback(callback) => callback.options(generation),
            Self::WandBLogger(callback) => callback.options(generation),
            Self::WiSEFTCallback(callback) => callback.options(generation),
            Self::MLFlowLogger(callback) => callback.options(generation),
            Self::Other { options, .. } => options.clone(),
        };
        json!({"name": self.name(), "options": options})
    }

    /// Finds the first option that no backend can accept.
    ///
    /// # Errors
    /// [`InvalidField`] names the option, its value and its limits.
    pub fn check(&self) -> Result<(), InvalidField> {
        match self {
            Self::BestModelCheckpoint(callback) => callback.check(),
            Self::TrainingCheckpoint(callback) => callback.check(),
            Self::EarlyStopping(callback) => callback.check(),
            Self::EvaluationCallback(callback) => callback.check(),
            Self::WandBLogger(callback) => callback.check(),
            Self::WiSEFTCallback(callback) => callback.check(),
            Self::MLFlowLogger(callback) => callback.check(),
            Self::Other { name, .. } if name.is_empty() => Err(InvalidField::new(
                "callbacks",
                "a callback without a name",
                "give it one",
            )),
            Self::Other { .. } => Ok(()),
        }
    }

    /// Reads a callback that a client of either generation sent.
    ///
    /// # Errors
    /// If an option has a value of the wrong type.
    pub fn from_json(value: Value) -> Result<Self, serde_json::Error> {
        #[derive(Deserialize)]
        struct Wire {
            name: String,
            #[serde(default)]
            options: Option<Map<String, Value>>,
        }
        let Wire { name, options } = serde_json::from_value(value)?;
        let options = options.unwrap_or_default();
        Ok(match name.as_str() {
            "BestModelCheckpoint" => {
                Self::BestModelCheckpoint(serde_json::from_value(options.into())?)
            }
            "TrainingCheckpoint" => {
                Self::TrainingCheckpoint(serde_json::from_value(options.into())?)
            }
            "EarlyStopping" => Self::EarlyStopping(serde_json::from_value(options.into())?),
            "EvaluationCallback" => {
                Self::EvaluationCallback(serde_json::from_value(options.into())?)
            }
            "WandBLogger" => Self::WandBLogger(serde_json::from_value(options.into())?),
            "WiSEFTCallback" => Self::WiSEFTCallback(serde_json::from_value(options.into())?),
            "MLFlowLogger" => Self::MLFlowLogger(serde_json::from_value(options.into())?),
            _ => Self::Other { name, options },
        })
    }
}
