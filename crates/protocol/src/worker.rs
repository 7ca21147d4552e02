//! What a server and its workers say to each other, for those two alone
//! (feature `worker`).

use std::{fmt, path::PathBuf};

use serde::{Deserialize, Serialize};

use crate::{Device, Event};

/// The name under which a worker asks for the artifact that its run goes on
/// from. No data set can have it: names hold no slash.
///
/// ```
/// let name = finetuner_protocol::worker::MODEL_ARTIFACT;
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
