//! A job and what can be asked about it.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use finetuner_protocol::{MetricsInfo, RunConfig, RunInfo, Status, StatusInfo};
use url::Url;

use crate::{
    Error, LogStream, Result, artifact,
    transport::{Call, Transport},
};

/// How long a status may take, as in the Python client.
const STATUS_TIMEOUT: Duration = Duration::from_secs(10);
/// Pauses between looks at the status grow from the first to the second.
const POLL: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

/// A handle on a run. Dropping it does not stop the run.
#[derive(Clone)]
pub struct Run {
    pub(crate) transport: Transport,
    experiment: String,
    info: RunInfo,
}

impl Run {
    pub(crate) fn new(transport: Transport, experiment: &str, info: RunInfo) -> Self {
        Self {
            transport,
            experiment: experiment.to_owned(),
            info,
        }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.info.name
    }

    /// The name of its experiment.
    #[must_use]
    pub fn experiment(&self) -> &str {
        &self.experiment
    }

    /// What was submitted.
    #[must_use]
    pub fn config(&self) -> &RunConfig {
        &self.info.config
    }

    /// When it was created, in UTC.
    #[must_use]
    pub fn created_at(&self) -> &str {
        &self.info.created_at
    }

    /// The id of the artifact that the run has filled.
    ///
    /// # Errors
    /// [`Error::is_run_in_progress`] before the run has finished,
    /// [`Error::is_run_failed`] where it has failed.
    pub async fn artifact_id(&self) -> Result<&str> {
        self.check_finished("get the artifact id").await?;
        self.known_artifact()
    }

    fn known_artifact(&self) -> Result<&str> {
        let id = self.info.artifact_id.as_deref();
        id.ok_or_else(|| Error::artifact("the backend gave the run none"))
    }

    pub(crate) fn address(&self, what: &[&str]) -> Url {
        let parts = ["experiments", &self.experiment, "runs", &self.info.name];
        self.transport.addresses().api(&[&parts, what].concat())
    }

    /// Where the run stands.
    ///
    /// # Errors
    /// Where the call fails.
    pub async fn status(&self) -> Result<StatusInfo> {
        let call = Call::get(self.address(&["status"])).timeout(STATUS_TIMEOUT);
        self.transport.json(call).await
    }

    /// The log so far.
    ///
    /// # Errors
    /// Where the call fails.
    pub async fn logs(&self) -> Result<String> {
        self.transport
            .text(Call::get(self.address(&["logs"])))
            .await
    }

    /// The log, line by line as it is written, until the run has ended.
    #[must_use = "a stream does nothing until it is read"]
    pub fn stream_logs(&self) -> LogStream {
        LogStream::new(self.clone())
    }

    /// Waits until the run has finished. Waiting can be given up at any time.
    ///
    /// # Errors
    /// [`Error::is_run_failed`] where the run fails.
    pub async fn wait(&self) -> Result<StatusInfo> {
        let mut pause = POLL.0;
        loop {
            let status = self.status().await?;
            match status.status {
                Status::Finished => return Ok(status),
                Status::Failed => return Err(Error::run_failed(self.name(), &status.details)),
                _ => tokio::time::sleep(pause).await,
            }
            pause = (pause * 2).min(POLL.1);
        }
    }

    /// Retrieval metrics before and after the training, from the run's
    /// `EvaluationCallback`.
    ///
    /// # Errors
    /// As for [`Run::artifact_id`].
    pub async fn metrics(&self) -> Result<MetricsInfo> {
        self.check_finished("get the metrics").await?;
        self.transport
            .json(Call::get(self.address(&["metrics"])))
            .await
    }

    /// Saves the fine-tuned model as a folder in Hugging Face layout, which
    /// `transformers` opens, beside the run's configuration and metrics.
    /// Returns the folder.
    ///
    /// The folder is created; a model that was saved there before is replaced,
    /// and nothing else ever is. The download is checked, and the folder
    /// appears only when it is whole.
    ///
    /// # Errors
    /// As for [`Run::artifact_id`], and where the folder can't be written.
    pub async fn save_model(&self, folder: impl AsRef<Path>) -> Result<PathBuf> {
        self.check_finished("save the model").await?;
        let folder = folder.as_ref();
        artifact::save(&self.transport, self.known_artifact()?, folder).await?;
        Ok(folder.to_owned())
    }

    async fn check_finished(&self, purpose: &'static str) -> Result<()> {
        let status = self.status().await?;
        match status.status {
            Status::Finished => Ok(()),
            Status::Failed => Err(Error::run_failed(self.name(), &status.details)),
            _ => Err(Error::in_progress(purpose)),
        }
    }
}

impl std::fmt::Debug for Run {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Run")
            .field("experiment", &self.experiment)
            .field("name", &self.info.name)
            .finish_non_exhaustive()
    }
}
