//! Events of a run, in order. A worker sends them, the server stores and numbers them.
//! Logs, metrics and examples are derived from them.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

use crate::time::Timestamp;

/// An event of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Event {
    /// A log line.
    Log {
        /// Severity.
        level: Level,
        /// Text of the line.
        message: String,
    },
    /// A training step was completed.
    Step {
        /// Epoch, counted from 1.
        epoch: u64,
        /// Number of epochs.
        epochs: u64,
        /// Step in its epoch, counted from 1.
        step: u64,
        /// Number of steps per epoch.
        steps: u64,
        /// Loss of the step.
        loss: f64,
        /// Mean loss of the epoch so far.
        mean_loss: f64,
        /// Learning rate of the step.
        learning_rate: f64,
    },
    /// An epoch was completed.
    Epoch {
        /// Epoch, counted from 1.
        epoch: u64,
        /// Number of epochs.
        epochs: u64,
        /// Mean loss over the training data.
        train_loss: f64,
        /// Mean loss over the evaluation data.
        val_loss: Option<f64>,
    },
    /// An evaluation was completed.
    Evaluation {
        /// Before or after training.
        stage: Stage,
        /// Values by metric.
        metrics: BTreeMap<String, f64>,
    },
    /// Results of example queries.
    Examples {
        /// Before or after training.
        stage: Stage,
        /// Matches by query, the best first: a text, or the name of an image.
        examples: BTreeMap<String, Vec<serde_json::Value>>,
        /// Positions of the matches in the data.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        found: Option<FoundDocuments>,
    },
}

/// Positions of the matches of example queries in the searched data.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct FoundDocuments {
    /// Name of the data that was searched.
    pub data: String,
    /// Position of each match by query, counted from 0.
    pub places: BTreeMap<String, Vec<u64>>,
    /// Whether each match is relevant, by query.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub hits: BTreeMap<String, Vec<bool>>,
    /// Distance of each match, by query.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub distances: BTreeMap<String, Vec<f32>>,
}

impl FoundDocuments {
    /// Creates the positions in the data of this name.
    #[must_use]
    pub fn new(data: impl Into<String>, places: BTreeMap<String, Vec<u64>>) -> Self {
        Self {
            data: data.into(),
            places,
            ..Self::default()
        }
    }
}

/// Severity of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Level {
    /// Details for debugging.
    Debug,
    /// Normal progress.
    Info,
    /// Something unexpected that does not stop the run.
    Warning,
    /// The reason why the run failed.
    Error,
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Debug => "DEBUG",
            Self::Info => "INFO",
            Self::Warning => "WARNING",
            Self::Error => "ERROR",
        })
    }
}

/// Before or after training.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// The backbone before training.
    Before,
    /// The fine-tuned model.
    After,
}

/// A checkpoint of a run.
///
/// ```
/// let checkpoint: finetuner_protocol::CheckpointInfo = serde_json::from_str(
///     r#"{"number": 1, "epoch": 2, "step": 0, "size": 9, "sha256": "00", "created_at": ""}"#,
/// )?;
/// assert_eq!(checkpoint.epoch, 2);
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct CheckpointInfo {
    /// Number within the run, counted from 1.
    pub number: u64,
    /// Number of completed epochs.
    pub epoch: u64,
    /// Number of completed steps of the next epoch.
    pub step: u64,
    /// Size in bytes.
    pub size: u64,
    /// SHA-256 as hex digits.
    pub sha256: String,
    /// Time of creation.
    #[serde(default, with = "crate::time")]
    pub created_at: Option<Timestamp>,
}

impl CheckpointInfo {
    /// Creates a checkpoint after `epoch` epochs and `step` steps of the next one.
    #[must_use]
    pub fn new(
        number: u64,
        (epoch, step): (u64, u64),
        size: u64,
        sha256: impl Into<String>,
        created_at: Option<Timestamp>,
    ) -> Self {
        Self {
            number,
            epoch,
            step,
            size,
            sha256: sha256.into(),
            created_at,
        }
    }
}
