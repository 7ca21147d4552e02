//! Messages between a server and its workers (feature `worker`).

use std::{fmt, path::PathBuf};

use serde::{Deserialize, Serialize};

use crate::{Device, Event};

/// Name under which a worker requests the artifact that its run continues from.
///
/// No data set can have it, because names contain no slash.
///
/// ```
/// let name = finetuner_protocol::worker::MODEL_ARTIFACT;
/// assert!(finetuner_protocol::check_name("train_data", name).is_err());
/// ```
pub const MODEL_ARTIFACT: &str = "/model_artifact";

/// Name under which a worker requests the checkpoint that its run continues from.
pub const LAST_CHECKPOINT: &str = "/checkpoint";

/// Description of a content, which a worker gets before it fetches the content.
#[derive(Clone, Serialize, Deserialize)]
pub struct WorkContent {
    /// SHA-256 as hex digits.
    pub sha256: String,
    /// Size in bytes.
    pub size: u64,
    /// Address in the store that is valid for a few minutes without a token. The
    /// server provides the content too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
}

impl fmt::Debug for WorkContent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Anyone with the address can read the content.
        f.debug_struct("WorkContent")
            .field("sha256", &self.sha256)
            .field("size", &self.size)
            .finish_non_exhaustive()
    }
}

/// The run that a worker was started for.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Job {
    /// The configuration, a [`RunConfig`](crate::RunConfig), exactly as the client
    /// sent it. Parsing and serializing it would convert it to one generation and
    /// lose members that the other has.
    pub config: serde_json::Value,
    /// Unique name of the run, for trackers.
    #[serde(default)]
    pub run: String,
    /// Requested device.
    pub device: Device,
    /// Number of the run's attempt, counted from 1.
    pub attempt: u32,
    /// Whether there is a checkpoint to continue from.
    pub has_checkpoint: bool,
    /// Rules for the worker.
    pub rules: WorkRules,
}

/// Limits that the operator sets for workers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WorkRules {
    /// Folders of the worker's machine from which models may be loaded.
    pub local_models: LocalModels,
    /// Maximum size of a model from the hub, in bytes.
    pub max_hub_download: Option<u64>,
    /// Whether images may be fetched from private addresses, and runs may be
    /// reported to trackers there.
    pub private_addresses: bool,
    /// Seconds between two checkpoints.
    pub checkpoint_seconds: f64,
    /// Maximum seconds between two heartbeats.
    pub heartbeat_seconds: f64,
    /// Memory limit of the worker's process, in bytes.
    pub max_memory: Option<u64>,
    /// Limit for its temporary files, in bytes.
    pub max_disk: Option<u64>,
}

/// Folders of a machine from which models may be loaded.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LocalModels {
    /// No folder.
    #[default]
    Nowhere,
    /// These folders and their subfolders.
    In(Vec<PathBuf>),
    /// Every folder of the machine.
    Anywhere,
}

/// Events reported by a worker, in order.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EventBatch {
    /// Number of the first event, counted from 0 over all events of this worker.
    /// The server skips events that it already has, so a batch may be repeated.
    pub first: u64,
    /// The events.
    pub events: Vec<Event>,
}

/// The server's answer to events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WorkerOrders {
    /// Continue.
    #[default]
    GoOn,
    /// Write a checkpoint and end; another worker will continue from it.
    Pause,
}

/// Outcome that a worker reports when it ends.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Outcome {
    /// The run finished and its artifact is uploaded.
    Finished,
    /// The worker paused as requested; the run continues from its checkpoint.
    Paused,
    /// The run failed.
    Failed {
        /// The problem, and the remedy.
        reason: String,
    },
}
