//! What happens in a run, in order. A worker sends events, a server stores and
//! numbers them; logs, metrics and examples are views of them.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

use crate::time::Timestamp;

/// One thing that happened in a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Event {
    /// A line for people.
    Log {
        /// How important it is.
        level: Level,
        /// The line.
        message: String,
    },
    /// A training step is done.
    Step {
        /// The epoch, counted from 1.
        epoch: u64,
        /// All epochs.
        epochs: u64,
        /// The step in its epoch, counted from 1.
        step: u64,
        /// Steps of an epoch.
        steps: u64,
        /// Loss of the step.
        loss: f64,
        /// Mean loss of the epoch so far.
        mean_loss: f64,
        /// Learning rate of the step.
        learning_rate: f64,
    },
    /// An epoch is done.
    Epoch {
        /// The epoch, counted from 1.
        epoch: u64,
        /// All epochs.
        epochs: u64,
        /// Mean loss over the training data.
        train_loss: f64,
        /// Mean loss over the evaluation data.
        val_loss: Option<f64>,
    },
    /// Retrieval was measured.
    Evaluation {
        /// When.
        stage: Stage,
        /// Values by metric.
        metrics: BTreeMap<String, f64>,
    },
    /// What example queries found.
    Examples {
        /// When.
        stage: Stage,
        /// By query, the best match first: a text, or the name of a picture.
        examples: BTreeMap<String, Vec<serde_json::Value>>,
        /// Where the matches lie.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        found: Option<FoundDocuments>,
    },
}

/// Where the matches of example queries lie.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct FoundDocuments {
    /// The name of the data that was searched.
    pub data: String,
    /// By query, the number of each match in it, counted from 0.
    pub places: BTreeMap<String, Vec<u64>>,
    /// By query, whether each match belongs to it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub hits: BTreeMap<String, Vec<bool>>,
    /// By query, how far each match is from it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub distances: BTreeMap<String, Vec<f32>>,
}

impl FoundDocuments {
    /// Matches in the data of this name.
    #[must_use]
    pub fn new(data: impl Into<String>, places: BTreeMap<String, Vec<u64>>) -> Self {
        Self {
            data: data.into(),
            places,
            ..Self::default()
        }
    }
}

/// How important a log line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Level {
    /// Details.
    Debug,
    /// The course of things.
    Info,
    /// Something that may surprise.
    Warning,
    /// What ended the run.
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

/// Before or after the training.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// The backbone as it was.
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
    /// Its number in the run, counted from 1.
    pub number: u64,
    /// Whole epochs behind it.
    pub epoch: u64,
    /// Steps of the next epoch that are done.
    pub step: u64,
    /// Its size in bytes.
    pub size: u64,
    /// Its SHA-256, as hex digits.
    pub sha256: String,
    /// When it was created.
    #[serde(default, with = "crate::time")]
    pub created_at: Option<Timestamp>,
}

impl CheckpointInfo {
    /// A checkpoint behind `epoch` whole epochs and `step` steps of the next one.
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
