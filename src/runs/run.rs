//! The handle of a run.

use finetuner_protocol::{
    Config, MAX_POINTS, MetricPoint, RunInfo, RunTask, Status, StatusInfo,
    time::{self, Timestamp},
};
use reqwest::Method;

use crate::{
    error::{Error, Result},
    transport::{Call, Transport},
};

/// Handle of a run. Cloning is cheap.
///
/// Dropping it does not stop the run, which continues on the server and can be found
/// again by its name.
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

    pub(super) fn info(&self) -> &RunInfo {
        &self.info
    }

    /// Returns the name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.info.name
    }

    /// Returns the name of the experiment.
    #[must_use]
    pub fn experiment(&self) -> &str {
        &self.experiment
    }

    /// Returns the description; empty if there is none.
    #[must_use]
    pub fn description(&self) -> &str {
        &self.info.description
    }

    /// Returns whether the run fine-tunes a model or creates training data.
    #[must_use]
    pub fn task(&self) -> &RunTask {
        &self.info.task
    }

    /// Returns the submitted configuration.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.info.config
    }

    /// Returns the time of creation, if the backend has returned it.
    #[must_use]
    pub fn created_at(&self) -> Option<Timestamp> {
        time::parse(&self.info.created_at)
    }

    /// Returns the id of the run's artifact.
    ///
    /// # Errors
    /// [`Error::is_run_in_progress`] before the run has finished,
    /// [`Error::is_run_failed`] if it has failed.
    pub async fn artifact_id(&self) -> Result<&str> {
        self.check_finished("get the artifact id").await?;
        self.known_artifact()
    }

    pub(crate) fn known_artifact(&self) -> Result<&str> {
        let id = self.info.artifact_id.as_deref();
        id.ok_or_else(|| Error::artifact("the backend returned no id of the run's artifact"))
    }

    /// Returns the same handle without retries.
    pub(crate) fn with_calls_made_once(&self) -> Self {
        Self {
            transport: self.transport.once(),
            ..self.clone()
        }
    }

    pub(crate) fn call(&self, method: Method, route: &'static str) -> Call {
        Call::api(method, route, &[&self.experiment, &self.info.name])
    }

    /// Fetches the current status.
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
    /// If the call fails.
    pub async fn status(&self) -> Result<StatusInfo> {
        let route = "experiments/{experiment}/runs/{run}/status";
        self.transport.json(self.call(Method::GET, route)).await
    }

    /// Fetches the log so far.
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

    /// Fetches the metric points so far: steps, epochs and evaluations, in order.
    ///
    /// With `after`, points up to that number are skipped.
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
    /// [`Error::is_unsupported`] if the backend keeps no history.
    pub async fn metric_history(&self, after: Option<u64>) -> Result<Vec<MetricPoint>> {
        let route = "experiments/{experiment}/runs/{run}/history";
        let mut points: Vec<MetricPoint> = Vec::new();
        loop {
            let mut call = self.call(Method::GET, route);
            let before = points.last().map(|point| point.number).or(after);
            if let Some(number) = before {
                call = call.query("after", number);
            }
            let answer = self.transport.json(call).await;
            let more: Vec<MetricPoint> = self.optional(answer, "give a run's history").await?;
            let is_last = more.len() < MAX_POINTS;
            let count = points.len();
            // A backend that does not know `after` returns the same points again.
            let is_new = |point: &MetricPoint| before.is_none_or(|number| point.number > number);
            points.extend(more.into_iter().filter(is_new));
            if is_last || points.len() == count {
                return Ok(points);
            }
        }
    }

    /// Stops the run without a model; its status becomes `FAILED`.
    ///
    /// A run that has ended is not changed.
    ///
    /// # Errors
    /// [`Error::is_unsupported`] if the backend does not support this.
    pub async fn cancel(&self) -> Result<()> {
        let route = "experiments/{experiment}/runs/{run}/cancel";
        let call = self.call(Method::POST, route).repeatable();
        self.optional(self.transport.done(call).await, "cancel a run")
            .await
    }

    /// Handles the answer to a call that not every backend supports: distinguishes
    /// a missing call from a missing run.
    pub(super) async fn optional<T>(&self, answer: Result<T>, what: &'static str) -> Result<T> {
        match answer {
            Err(error) if matches!(error.status(), Some(404 | 405 | 501)) => {
                self.status().await?;
                Err(Error::unsupported(what))
            }
            answer => answer,
        }
    }

    /// Returns the name of the data that a synthesis run has created.
    ///
    /// # Errors
    /// The same as for [`Run::artifact_id`]; also if the run creates no data.
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

    /// Deletes the run and its model. A run in progress is stopped.
    ///
    /// # Errors
    /// If the call fails.
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
