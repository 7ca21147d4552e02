//! A job and what can be asked about it.

use std::path::Path;

use finetuner_protocol::{
    CheckpointInfo, Config, ExamplesInfo, MAX_POINTS, MetricPoint, MetricsInfo, RunInfo, RunTask,
    Status, StatusInfo, check_name,
};
use reqwest::Method;
use serde_json::json;

use crate::{
    Error, ExamplesTable, LogStream, MetricsTable, Result, SaveArtifact, Watch,
    artifact::Saved,
    transport::{Call, Transport},
};

/// A handle on a run. Clones are cheap, and dropping one does not stop the run:
/// it goes on without anybody looking, and is found again by its name.
///
/// ```no_run
/// # async fn example(run: finetuner::Run) -> finetuner::Result<()> {
/// println!("{}/{}: {}", run.experiment(), run.name(), run.status().await?);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Run {
    pub(crate) transport: Transport,
    experiment: String,
    info: std::sync::Arc<RunInfo>,
}

impl Run {
    pub(crate) fn new(transport: Transport, experiment: &str, info: RunInfo) -> Self {
        Self {
            transport,
            experiment: experiment.to_owned(),
            info: std::sync::Arc::new(info),
        }
    }

    /// Its name.
    ///
    /// ```no_run
    /// # async fn example(run: finetuner::Run) -> finetuner::Result<()> {
    /// println!("{}", run.name());
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn name(&self) -> &str {
        &self.info.name
    }

    /// The name of its experiment.
    ///
    /// ```no_run
    /// # async fn example(run: finetuner::Run) -> finetuner::Result<()> {
    /// println!("{}", run.experiment());
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn experiment(&self) -> &str {
        &self.experiment
    }

    /// The text that was given about it.
    ///
    /// ```no_run
    /// # async fn example(run: finetuner::Run) -> finetuner::Result<()> {
    /// println!("{}", run.description());
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn description(&self) -> &str {
        &self.info.description
    }

    /// Whether it fine-tunes a model or makes training data.
    ///
    /// ```no_run
    /// # async fn example(run: finetuner::Run) -> finetuner::Result<()> {
    /// println!("{:?}", run.task());
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn task(&self) -> &RunTask {
        &self.info.task
    }

    /// What was submitted.
    ///
    /// ```no_run
    /// # async fn example(run: finetuner::Run) -> finetuner::Result<()> {
    /// println!("{:?}", run.config());
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.info.config
    }

    /// When it was created, in UTC.
    ///
    /// ```no_run
    /// # async fn example(run: finetuner::Run) -> finetuner::Result<()> {
    /// println!("{}", run.created_at());
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn created_at(&self) -> &str {
        &self.info.created_at
    }

    /// The id of the artifact that the run has filled.
    ///
    /// ```no_run
    /// # async fn example(run: finetuner::Run) -> finetuner::Result<()> {
    /// println!("{}", run.artifact_id().await?);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::is_run_in_progress`] before the run has finished,
    /// [`Error::is_run_failed`] where it has failed.
    pub async fn artifact_id(&self) -> Result<&str> {
        self.check_finished("get the artifact id").await?;
        self.known_artifact()
    }

    pub(crate) fn known_artifact(&self) -> Result<&str> {
        let id = self.info.artifact_id.as_deref();
        id.ok_or_else(|| Error::artifact("the backend gave the run none"))
    }

    /// The same run, whose calls are not repeated.
    pub(crate) fn with_calls_made_once(&self) -> Self {
        Self {
            transport: self.transport.once(),
            ..self.clone()
        }
    }

    pub(crate) fn call(&self, method: Method, route: &'static str) -> Call {
        Call::api(method, route, &[&self.experiment, &self.info.name])
    }

    /// Where the run stands.
    ///
    /// ```no_run
    /// # async fn example(run: finetuner::Run) -> finetuner::Result<()> {
    /// use finetuner::Status;
    ///
    /// let status = run.status().await?;
    /// if status.status == Status::Started {
    ///     println!("{}", status.details);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Where the call fails.
    pub async fn status(&self) -> Result<StatusInfo> {
        let route = "experiments/{experiment}/runs/{run}/status";
        self.transport.json(self.call(Method::GET, route)).await
    }

    /// The log so far.
    ///
    /// ```no_run
    /// # async fn example(run: finetuner::Run) -> finetuner::Result<()> {
    /// print!("{}", run.logs().await?);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::is_run_preparing`] before the run has started.
    pub async fn logs(&self) -> Result<String> {
        if self.status().await?.status == Status::Created {
            return Err(Error::preparing());
        }
        let route = "experiments/{experiment}/runs/{run}/logs";
        self.transport.text(self.call(Method::GET, route)).await
    }

    /// The log, line by line as it is written, until the run has ended. A run
    /// that waits is waited for.
    ///
    /// ```no_run
    /// # async fn example(run: finetuner::Run) -> finetuner::Result<()> {
    /// let mut lines = run.stream_logs();
    /// while let Some(line) = lines.next().await {
    ///     println!("{}", line?);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    #[must_use = "a stream does nothing until it is read"]
    pub fn stream_logs(&self) -> LogStream {
        LogStream::new(self.clone())
    }

    /// Waits until the run has finished. Waiting can be given up at any time.
    /// A backend that restarts is waited for; see
    /// [`Builder::outage_limit`](crate::Builder::outage_limit).
    ///
    /// ```no_run
    /// # async fn example(run: finetuner::Run) -> finetuner::Result<()> {
    /// run.wait().await?;
    /// run.save_model("clip-model").await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::is_run_failed`] where the run fails.
    pub async fn wait(&self) -> Result<StatusInfo> {
        self.watch().await
    }

    /// Follows the run: awaited, it gives the end; read as a stream, what
    /// happens until then. See [`Watch`].
    ///
    /// ```no_run
    /// # async fn example(run: finetuner::Run) -> finetuner::Result<()> {
    /// use finetuner::Update;
    ///
    /// let mut watch = run.watch();
    /// while let Some(update) = watch.next().await {
    ///     if let Update::Progress(progress) = update? {
    ///         println!("step {} of {}", progress.step, progress.steps);
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn watch(&self) -> Watch {
        Watch::new(self.clone())
    }

    /// Retrieval metrics before and after the training, from the run's
    /// `EvaluationCallback`.
    ///
    /// ```no_run
    /// # async fn example(run: finetuner::Run) -> finetuner::Result<()> {
    /// let metrics = run.metrics().await?;
    /// if let Some(recall) = metrics.after.get("recall_at_k") {
    ///     println!("recall@k: {recall:.3}");
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As for [`Run::artifact_id`].
    pub async fn metrics(&self) -> Result<MetricsInfo> {
        self.check_finished("get the metrics").await?;
        let route = "experiments/{experiment}/runs/{run}/metrics";
        self.transport.json(self.call(Method::GET, route)).await
    }

    /// [`Run::metrics`] as tables to print.
    ///
    /// ```no_run
    /// # async fn example(run: finetuner::Run) -> finetuner::Result<()> {
    /// println!("{}", run.display_metrics().await?);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As for [`Run::artifact_id`].
    pub async fn display_metrics(&self) -> Result<MetricsTable> {
        self.metrics().await.map(MetricsTable)
    }

    /// What example queries found before and after the training, where an
    /// `EvaluationCallback` gathered examples.
    ///
    /// ```no_run
    /// # async fn example(run: finetuner::Run) -> finetuner::Result<()> {
    /// for (query, matches) in run.example_results().await?.after {
    ///     println!("{query}: {matches:?}");
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As for [`Run::artifact_id`].
    pub async fn example_results(&self) -> Result<ExamplesInfo> {
        self.check_finished("get the example results").await?;
        let route = "experiments/{experiment}/runs/{run}/examples";
        self.transport.json(self.call(Method::GET, route)).await
    }

    /// [`Run::example_results`] as tables to print, with `k` matches of each
    /// query at most.
    ///
    /// ```no_run
    /// # async fn example(run: finetuner::Run) -> finetuner::Result<()> {
    /// println!("{}", run.display_examples(5).await?);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As for [`Run::artifact_id`].
    pub async fn display_examples(&self, k: usize) -> Result<ExamplesTable> {
        let examples = self.example_results().await?;
        Ok(ExamplesTable { examples, k })
    }

    /// The run's curves so far: steps, epochs and evaluations in their order.
    /// `after` skips the points up to that number.
    ///
    /// ```no_run
    /// # async fn example(run: finetuner::Run) -> finetuner::Result<()> {
    /// let points = run.metric_history(None).await?;
    /// println!("{} points", points.len());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::is_unsupported`] where the backend keeps none.
    pub async fn metric_history(&self, after: Option<u64>) -> Result<Vec<MetricPoint>> {
        let route = "experiments/{experiment}/runs/{run}/history";
        let mut points: Vec<MetricPoint> = Vec::new();
        loop {
            let mut call = self.call(Method::GET, route);
            if let Some(number) = points.last().map(|point| point.number).or(after) {
                call = call.query("after", number);
            }
            let answer = self.transport.json(call).await;
            let more: Vec<MetricPoint> = self.optional(answer, "give a run's history").await?;
            let is_last = more.len() < MAX_POINTS;
            points.extend(more);
            if is_last {
                return Ok(points);
            }
        }
    }

    /// The states of the training that the backend has kept, oldest first: the
    /// last one while the run goes on or when it has failed, and as many as
    /// [`TrainingCheckpoint`](crate::TrainingCheckpoint) wants.
    ///
    /// ```no_run
    /// # async fn example(run: finetuner::Run) -> finetuner::Result<()> {
    /// for checkpoint in run.checkpoints().await? {
    ///     println!("{}: {} epochs", checkpoint.number, checkpoint.epoch);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::is_unsupported`] where the backend keeps none.
    pub async fn checkpoints(&self) -> Result<Vec<CheckpointInfo>> {
        let route = "experiments/{experiment}/runs/{run}/checkpoints";
        let answer = self.transport.json(self.call(Method::GET, route)).await;
        self.optional(answer, "list a run's checkpoints").await
    }

    /// Starts another run that goes on from one of this run's checkpoints, by
    /// its number: with the same configuration, and `epochs` in all where that
    /// is given, those that are done among them.
    ///
    /// ```no_run
    /// # async fn example(run: finetuner::Run) -> finetuner::Result<()> {
    /// // It was still getting better after its 5 epochs.
    /// if let Some(last) = run.checkpoints().await?.last() {
    ///     let longer = run.go_on_from(last.number, "longer", Some(10)).await?;
    ///     longer.wait().await?;
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::is_unsupported`] where the backend can't,
    /// [`Error::is_conflict`] where the experiment has a run of that name.
    pub async fn go_on_from(
        &self,
        checkpoint: u64,
        run_name: impl Into<String>,
        epochs: Option<u64>,
    ) -> Result<Self> {
        let run_name = run_name.into();
        check_name("run_name", &run_name)?;
        let mut body = json!({"name": run_name});
        if let Some(epochs) = epochs {
            body["epochs"] = epochs.into();
        }
        let number = checkpoint.to_string();
        let call = Call::api(
            Method::POST,
            "experiments/{experiment}/runs/{run}/checkpoints/{number}/runs",
            &[&self.experiment, self.name(), &number],
        )
        .json(body)
        .keyed()
        .repeatable();
        let answer = match self.transport.json(call).await {
            // A checkpoint that is not there is told from a backend without any.
            Err(error) if error.is_not_found() => {
                self.checkpoints().await?;
                Err(error)
            }
            answer => answer,
        };
        Ok(Self::new(self.transport.clone(), &self.experiment, answer?))
    }

    /// Ends the run without a model; its status is then `FAILED`. A run that has
    /// ended stays as it is.
    ///
    /// ```no_run
    /// # async fn example(run: finetuner::Run) -> finetuner::Result<()> {
    /// run.cancel().await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::is_unsupported`] where the backend can't.
    pub async fn cancel(&self) -> Result<()> {
        let route = "experiments/{experiment}/runs/{run}/cancel";
        let call = self.call(Method::POST, route).repeatable();
        self.optional(self.transport.done(call).await, "cancel a run")
            .await
    }

    /// An answer to a call that not every backend knows. That there is no such
    /// call is told from that there is no such run.
    async fn optional<T>(&self, answer: Result<T>, what: &'static str) -> Result<T> {
        match answer {
            Err(error) if matches!(error.status(), Some(404 | 405 | 501)) => {
                self.status().await?;
                Err(Error::unsupported(what))
            }
            answer => answer,
        }
    }

    /// The name of the data that a synthesis run has made.
    ///
    /// ```no_run
    /// # async fn example(run: finetuner::Run) -> finetuner::Result<()> {
    /// // Of a run that `synthesize` made.
    /// println!("{}", run.train_data().await?);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As for [`Run::artifact_id`], and where the run makes no data.
    pub async fn train_data(&self) -> Result<String> {
        if self.info.task != RunTask::Generation {
            return Err(Error::setup(format!(
                "{} run does not produce data.",
                self.info.task
            )));
        }
        self.check_finished("get the data").await?;
        if let Some(name) = &self.info.train_data {
            return Ok(name.clone());
        }
        let route = "experiments/{experiment}/runs/{run}";
        let info: RunInfo = self.transport.json(self.call(Method::GET, route)).await?;
        let missing = || Error::artifact(format!("run {} has no train_data.", self.name()));
        info.train_data.ok_or_else(missing)
    }

    /// Saves the fine-tuned model as a folder in Hugging Face layout, which
    /// `transformers` opens, beside the run's configuration and metrics.
    /// Awaiting it returns the folder.
    ///
    /// The folder is created. A model that was saved there before is replaced;
    /// `.finetuner-files.json` lists its files. If the folder holds any other
    /// file, or one that was changed since, the call fails, names it, and
    /// changes nothing. The download resumes after a broken connection and is
    /// verified. If the disk fills up, the old model stays. If the program is
    /// killed, the folder holds the old model or the new one. On a mount point,
    /// and where the system can't swap folders, it may be incomplete until the
    /// next `save_model` or `local::get_model` repairs it.
    ///
    /// ```no_run
    /// # async fn example(run: finetuner::Run) -> finetuner::Result<()> {
    /// run.save_model("clip-model").await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn save_model(&self, folder: impl AsRef<Path>) -> SaveArtifact {
        let saved = Saved::Unpacked(folder.as_ref().to_owned());
        SaveArtifact::new(self.clone(), saved)
    }

    /// Saves the artifact as it is, `{run}.zip` in this directory, which is
    /// created. A file of that name is replaced. Awaiting it returns the file.
    ///
    /// ```no_run
    /// # async fn example(run: finetuner::Run) -> finetuner::Result<()> {
    /// let zip = run.save_artifact("artifacts").await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn save_artifact(&self, directory: impl AsRef<Path>) -> SaveArtifact {
        let saved = Saved::Zip(directory.as_ref().to_owned());
        SaveArtifact::new(self.clone(), saved)
    }

    /// Deletes the run and the model it has made. A run in progress ends.
    ///
    /// ```no_run
    /// # async fn example(run: finetuner::Run) -> finetuner::Result<()> {
    /// run.delete().await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Where the call fails.
    pub async fn delete(self) -> Result<()> {
        let route = "experiments/{experiment}/runs/{run}";
        self.transport.done(self.call(Method::DELETE, route)).await
    }

    pub(crate) async fn check_finished(&self, purpose: &'static str) -> Result<()> {
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
