//! Experiments and runs in the API.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

pub use crate::page::Page;

use crate::{
    AnnotationChange, Annotations, Device, InvalidField, RunConfig, RunTask, Status,
    SynthesisConfig, time::Timestamp,
};

/// A group of runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ExperimentInfo {
    /// Name, unique per user.
    pub name: String,
    /// Description.
    #[serde(default)]
    pub description: String,
    /// `ACTIVE`.
    #[serde(default)]
    pub status: String,
    /// Time of creation in UTC.
    #[serde(default)]
    pub created_at: String,
    /// Other members, kept as received.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl ExperimentInfo {
    /// Creates an active experiment with this name.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            description: String::new(),
            status: "ACTIVE".to_owned(),
            created_at: String::new(),
            extra: Map::new(),
        }
    }
}

/// Information about a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RunInfo {
    /// Name, unique in the experiment.
    pub name: String,
    /// Description.
    #[serde(default)]
    pub description: String,
    /// Submitted configuration.
    #[serde(default)]
    pub config: Config,
    /// Time of creation in UTC.
    #[serde(default)]
    pub created_at: String,
    /// Fine-tuning or data synthesis.
    #[serde(default = "training")]
    pub task: RunTask,
    /// Id of the artifact that a finished run has.
    #[serde(default)]
    pub artifact_id: Option<String>,
    /// Name of the data that a synthesis run has created.
    #[serde(default)]
    pub train_data: Option<String>,
    /// Tags and note.
    #[serde(flatten)]
    pub annotations: Annotations,
    /// Other members, kept as received.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// The configuration of a run of any kind.
///
/// ```
/// use finetuner_protocol::Config;
///
/// let config: Config = serde_json::from_str(
///     r#"{"model": {"name": "clip-small"}, "data": {"train_data": "train"}}"#,
/// )?;
/// assert!(config.training().is_some());
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Config {
    /// Configuration of a run that fine-tunes a model.
    Training(Box<RunConfig>),
    /// Configuration of a run that creates training data.
    Synthesis(Box<SynthesisConfig>),
    /// Configuration of an unknown kind of run, as JSON.
    Other(Value),
}

impl Config {
    /// Returns the settings of a training run.
    #[must_use]
    pub fn training(&self) -> Option<&RunConfig> {
        match self {
            Self::Training(config) => Some(config),
            _ => None,
        }
    }

    /// Returns the settings of a synthesis run.
    #[must_use]
    pub fn synthesis(&self) -> Option<&SynthesisConfig> {
        match self {
            Self::Synthesis(config) => Some(config),
            _ => None,
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self::Other(Value::Null)
    }
}

impl From<RunConfig> for Config {
    fn from(config: RunConfig) -> Self {
        Self::Training(Box::new(config))
    }
}

impl From<SynthesisConfig> for Config {
    fn from(config: SynthesisConfig) -> Self {
        Self::Synthesis(Box::new(config))
    }
}

impl Serialize for Config {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Training(config) => config.serialize(serializer),
            Self::Synthesis(config) => config.serialize(serializer),
            Self::Other(config) => config.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Config {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        // Old servers encode the object as a string.
        let value = match value {
            Value::String(text) => serde_json::from_str(&text).unwrap_or(Value::String(text)),
            other => other,
        };
        let is_synthesis = !value["relation_mining"].is_null();
        let is_training = value["model"].is_object();
        let read = |value: &Value| -> Result<Self, serde_json::Error> {
            Ok(if is_synthesis {
                Self::Synthesis(serde_json::from_value(value.clone())?)
            } else if is_training {
                Self::Training(serde_json::from_value(value.clone())?)
            } else {
                Self::Other(value.clone())
            })
        };
        // A configuration of a newer server must not make the run unreadable.
        Ok(read(&value).unwrap_or(Self::Other(value)))
    }
}

fn training() -> RunTask {
    RunTask::Training
}

/// Request that creates a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct NewRun {
    /// Name of the run.
    pub name: String,
    /// Configuration of the run.
    pub config: Config,
    /// Fine-tuning or data synthesis. Clients up to 0.7.6 don't send it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<RunTask>,
    /// Version of the schema that the client uses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finetuner_version: Option<String>,
    /// Device to run on.
    #[serde(default = "cpu")]
    pub device: Device,
    /// Number of cores to request, which equals the threads that load data. Every
    /// client sends a number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpus: Option<u64>,
    /// Number of GPUs to request if `device` is a GPU; every client sends 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpus: Option<u64>,
    /// Description.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Its first tags.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// Its first note.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub note: String,
}

impl NewRun {
    /// Creates the request for a run on the CPU.
    #[must_use]
    pub fn new(name: impl Into<String>, config: impl Into<Config>) -> Self {
        Self {
            name: name.into(),
            config: config.into(),
            task: None,
            finetuner_version: None,
            device: cpu(),
            cpus: None,
            gpus: None,
            description: None,
            tags: Vec::new(),
            note: String::new(),
        }
    }

    /// Returns its first tags and its first note.
    ///
    /// # Errors
    /// As for [`AnnotationChange::apply`].
    pub fn annotations(&self) -> Result<Annotations, InvalidField> {
        let mut annotations = Annotations::default();
        let given = AnnotationChange::default()
            .tags(&self.tags)
            .note(&self.note);
        given.apply(&mut annotations)?;
        Ok(annotations)
    }
}

fn cpu() -> Device {
    Device::Cpu
}

/// Status of a run, with details.
///
/// ```
/// let status: finetuner_protocol::StatusInfo =
///     serde_json::from_str(r#"{"status": "FINISHED", "details": "Run finished"}"#)?;
/// assert!(status.status.is_final());
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct StatusInfo {
    /// The status.
    pub status: Status,
    /// Details for people.
    #[serde(default)]
    pub details: String,
}

impl StatusInfo {
    /// Creates a status with details.
    #[must_use]
    pub fn new(status: impl Into<Status>, details: impl Into<String>) -> Self {
        Self {
            status: status.into(),
            details: details.into(),
        }
    }
}

impl std::fmt::Display for StatusInfo {
    /// Formats the status as Python prints the answer.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{{'status': '{}', 'details': '{}'}}",
            self.status, self.details
        )
    }
}

/// Metrics before and after training, by name.
///
/// ```
/// let metrics: finetuner_protocol::MetricsInfo =
///     serde_json::from_str(r#"{"before": {}, "after": {"recall_at_k": 0.75}}"#)?;
/// assert_eq!(metrics.after["recall_at_k"], 0.75);
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct MetricsInfo {
    /// Metrics of the backbone before training.
    #[serde(default)]
    pub before: BTreeMap<String, f64>,
    /// Metrics of the fine-tuned model.
    #[serde(default)]
    pub after: BTreeMap<String, f64>,
}

impl MetricsInfo {
    /// Creates the metrics of the backbone and of the fine-tuned model.
    #[must_use]
    pub fn new(before: BTreeMap<String, f64>, after: BTreeMap<String, f64>) -> Self {
        Self { before, after }
    }
}

/// Returns whether greater values of a metric are better.
///
/// It is `None` for metrics that are neither better nor worse, such as a threshold.
///
/// ```
/// use finetuner_protocol::greater_is_better;
///
/// assert_eq!(greater_is_better("recall@10"), Some(true));
/// assert_eq!(greater_is_better("val_loss"), Some(false));
/// assert_eq!(greater_is_better("cosine_f1_threshold"), None);
/// ```
#[must_use]
pub fn greater_is_better(metric: &str) -> Option<bool> {
    match metric {
        name if name.ends_with("_threshold") => None,
        name => Some(!name.ends_with("loss")),
    }
}

/// Results of example queries before and after training, by query.
///
/// A match is what the backend shows of it: a text, or the name of an image.
///
/// ```
/// let examples: finetuner_protocol::ExamplesInfo =
///     serde_json::from_str(r#"{"before": {}, "after": {"a shoe": ["shoe.png"]}}"#)?;
/// assert_eq!(examples.after["a shoe"].len(), 1);
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ExamplesInfo {
    /// Results of the backbone before training.
    #[serde(default)]
    pub before: BTreeMap<String, Vec<Value>>,
    /// Results of the fine-tuned model.
    #[serde(default)]
    pub after: BTreeMap<String, Vec<Value>>,
}

impl ExamplesInfo {
    /// Creates the results of the backbone and of the fine-tuned model.
    #[must_use]
    pub fn new(before: BTreeMap<String, Vec<Value>>, after: BTreeMap<String, Vec<Value>>) -> Self {
        Self { before, after }
    }
}

/// Maximum number of metric points in one answer.
pub const MAX_POINTS: usize = 10_000;

/// A metric point of a run.
///
/// ```
/// use finetuner_protocol::{Event, MetricPoint};
///
/// let point: MetricPoint = serde_json::from_str(
///     r#"{"number": 7, "at": 0, "kind": "epoch", "epoch": 1, "epochs": 5, "train_loss": 0.5, "val_loss": null}"#,
/// )?;
/// assert!(matches!(point.event, Event::Epoch { epoch: 1, .. }));
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct MetricPoint {
    /// Number within the run; later points have greater numbers.
    pub number: u64,
    /// Time of the event; milliseconds since 1970 on the wire.
    #[serde(with = "crate::time::milliseconds")]
    pub at: Timestamp,
    /// The event: a step, an epoch or an evaluation.
    #[serde(flatten)]
    pub event: crate::Event,
}

impl MetricPoint {
    /// Creates a point with its number in the run.
    #[must_use]
    pub fn new(number: u64, at: Timestamp, event: crate::Event) -> Self {
        Self { number, at, event }
    }
}
