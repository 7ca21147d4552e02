//! What happens in a run, in order. A worker sends events, a server stores and
//! numbers them; logs, metrics and examples are views of them.

use std::{collections::BTreeMap, fmt, path::PathBuf};

use serde::{Deserialize, Serialize};

use crate::Device;

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
        epoch: usize,
        /// All epochs.
        epochs: usize,
        /// The step in its epoch, counted from 1.
        step: usize,
        /// Steps of an epoch.
        steps: usize,
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
        epoch: usize,
        /// All epochs.
        epochs: usize,
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

/// The name under which a worker asks for the artifact that its run goes on
/// from. No data set can have it: names hold no slash.
///
/// ```
/// let name = finetuner_protocol::MODEL_ARTIFACT;
/// assert!(finetuner_protocol::check_name("train_data", name).is_err());
/// ```
pub const MODEL_ARTIFACT: &str = "/model_artifact";

/// The name under which a worker asks for the checkpoint that its run goes on
/// from.
pub const LAST_CHECKPOINT: &str = "/checkpoint";

/// What a worker is told about a content before it fetches it.
#[derive(Clone, Serialize, Deserialize)]
pub struct WorkContent {
    /// SHA-256 of its bytes, as hex digits.
    pub sha256: String,
    /// Its size in bytes.
    pub size: u64,
    /// An address of the store that gives the bytes without a token, for a few
    /// minutes. The server gives them, too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
}

impl fmt::Debug for WorkContent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Whoever has the address can read the content.
        f.debug_struct("WorkContent")
            .field("sha256", &self.sha256)
            .field("size", &self.size)
            .finish_non_exhaustive()
    }
}

/// What a worker asks for first: the run that it was started for.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Job {
    /// The configuration, a [`RunConfig`](crate::RunConfig): as it was sent, since
    /// one that was read and written again would be of one generation of clients,
    /// and lose what that one does not know.
    pub config: serde_json::Value,
    /// A name that no other run has, for trackers.
    #[serde(default)]
    pub run: String,
    /// The processor asked for.
    pub device: Device,
    /// Which worker of the run it is, counted from 1.
    pub attempt: u32,
    /// Whether there is a checkpoint to go on from.
    pub has_checkpoint: bool,
    /// What the worker may do.
    pub rules: WorkRules,
}

/// What an operator allows workers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WorkRules {
    /// From which folders of the worker's machine models may be loaded.
    pub local_models: LocalModels,
    /// The most bytes of a model of the hub that may be fetched.
    pub max_hub_download: Option<u64>,
    /// Whether pictures may be fetched from private addresses, and trackers be
    /// told there.
    pub private_addresses: bool,
    /// Seconds between two checkpoints.
    pub checkpoint_seconds: f64,
    /// Seconds between two signs of life, at most.
    pub heartbeat_seconds: f64,
    /// Bytes of memory that the worker's process may have.
    pub max_memory: Option<u64>,
    /// Bytes that its temporary files may have.
    pub max_disk: Option<u64>,
}

/// From which folders of a machine models may be loaded.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LocalModels {
    /// From none.
    #[default]
    Nowhere,
    /// From these, and from folders inside of them.
    In(Vec<PathBuf>),
    /// From every folder of the machine.
    Anywhere,
}

/// Events that a worker reports, in order.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EventBatch {
    /// The number of the first event, counted from 0 over all that this worker
    /// reports. Events that the server already has are skipped, so a batch may
    /// be sent again.
    pub first: u64,
    /// The events.
    pub events: Vec<Event>,
}

/// What a worker is told in answer to events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WorkerOrders {
    /// To go on.
    #[default]
    GoOn,
    /// To make a checkpoint and end: another worker will go on from it.
    Pause,
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
    /// When it was made, in UTC.
    pub created_at: String,
}

/// How a worker has ended.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Outcome {
    /// The artifact is uploaded.
    Finished,
    /// It has paused, as it was told: the run goes on from its checkpoint.
    Paused,
    /// The run went wrong.
    Failed {
        /// What went wrong, and what to do.
        reason: String,
    },
}
