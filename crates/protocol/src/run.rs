//! Experiments and runs as the API shows them.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{Device, RunConfig, RunTask, Status};

/// A group of runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExperimentInfo {
    /// Its name, unique for its owner.
    pub name: String,
    /// Free text.
    #[serde(default)]
    pub description: String,
    /// `ACTIVE`.
    #[serde(default)]
    pub status: String,
    /// When it was created, in UTC.
    #[serde(default)]
    pub created_at: String,
    /// Members that are not known here.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// A run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunInfo {
    /// Its name, unique in its experiment.
    pub name: String,
    /// Free text.
    #[serde(default)]
    pub description: String,
    /// Its configuration.
    #[serde(default)]
    pub config: RunConfig,
    /// When it was created, in UTC.
    #[serde(default)]
    pub created_at: String,
    /// Fine-tuning or data synthesis.
    #[serde(default = "training")]
    pub task: RunTask,
    /// The artifact that the run fills when it ends well.
    #[serde(default)]
    pub artifact_id: Option<String>,
    /// What a synthesis run has made.
    #[serde(default)]
    pub train_data: Option<String>,
    /// Members that are not known here.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

fn training() -> RunTask {
    RunTask::Training
}

/// What a client sends to create a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NewRun {
    /// The run's name.
    pub name: String,
    /// Its configuration.
    pub config: RunConfig,
    /// Fine-tuning or data synthesis. Clients up to 0.7.6 don't say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<RunTask>,
    /// The version of the schema that the client was made for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finetuner_version: Option<String>,
    /// The processor to run on.
    pub device: Device,
    /// Threads that load data.
    pub cpus: u64,
    /// Graphics processors; every client says 1.
    pub gpus: u64,
    /// Free text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
}

/// Where a run stands, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusInfo {
    /// Where it stands.
    pub status: Status,
    /// More about it, for people.
    #[serde(default)]
    pub details: String,
}

impl std::fmt::Display for StatusInfo {
    /// As Python prints the answer.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{{'status': '{}', 'details': '{}'}}",
            self.status, self.details
        )
    }
}

/// Metrics before and after the training, by name.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MetricsInfo {
    /// Of the backbone as it was.
    #[serde(default)]
    pub before: std::collections::BTreeMap<String, f64>,
    /// Of the fine-tuned model.
    #[serde(default)]
    pub after: std::collections::BTreeMap<String, f64>,
}

/// One page of a list.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Page<T> {
    /// The items of the page.
    pub items: Vec<T>,
    /// Items on all pages.
    pub total: u64,
    /// Which page, counted from 1.
    pub page: u64,
    /// Items that a page may have.
    pub size: u64,
}
