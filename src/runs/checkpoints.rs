//! Checkpoints of a run, and runs that continue from them.

use std::{
    future::{Future, IntoFuture},
    pin::Pin,
};

use finetuner_protocol::{CheckpointInfo, check_name};
use reqwest::Method;
use serde_json::json;

use super::run::Run;
use crate::{error::Result, transport::Call};

impl Run {
    /// Lists the checkpoints that the backend has kept, oldest first.
    ///
    /// These are the last one while the run is in progress or if it has failed, and
    /// as many as [`TrainingCheckpoint`](crate::TrainingCheckpoint) asks for.
    ///
    /// # Errors
    /// [`Error::is_unsupported`](crate::Error::is_unsupported) if the backend keeps
    /// no checkpoints.
    pub async fn checkpoints(&self) -> Result<Vec<CheckpointInfo>> {
        let route = "experiments/{experiment}/runs/{run}/checkpoints";
        let answer = self.transport.json(self.call(Method::GET, route)).await;
        self.optional(answer, "list a run's checkpoints").await
    }

    /// Describes a run that continues from a checkpoint, by its number.
    ///
    /// Awaiting the returned value starts the run. See [`ResumeFrom`].
    ///
    /// ```no_run
    /// # async fn example(run: finetuner::Run) -> finetuner::Result<()> {
    /// // The metrics were still improving after 5 epochs.
    /// if let Some(last) = run.checkpoints().await?.last() {
    ///     let longer = run.resume_from(last.number, "longer").epochs(10).await?;
    ///     longer.wait().await?;
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn resume_from(&self, checkpoint: u64, run_name: impl Into<String>) -> ResumeFrom {
        ResumeFrom {
            run: self.clone(),
            checkpoint,
            run_name: run_name.into(),
            epochs: None,
        }
    }
}

/// A run that continues from a checkpoint of another run, from [`Run::resume_from`].
///
/// It has the configuration of that run. Awaiting it starts the run.
///
/// # Errors
/// [`Error::is_unsupported`](crate::Error::is_unsupported) if the backend does not
/// support this, [`Error::is_conflict`](crate::Error::is_conflict) if the experiment
/// already has a run of that name.
#[derive(Clone, Debug)]
#[must_use = "a run starts when it is awaited"]
pub struct ResumeFrom {
    run: Run,
    checkpoint: u64,
    run_name: String,
    epochs: Option<u64>,
}

impl ResumeFrom {
    /// Sets the total number of epochs, including those that are done.
    ///
    /// By default, it is that of the other run.
    pub fn epochs(mut self, epochs: u64) -> Self {
        self.epochs = Some(epochs);
        self
    }

    async fn start(self) -> Result<Run> {
        check_name("run_name", &self.run_name)?;
        let mut body = json!({"name": self.run_name});
        if let Some(epochs) = self.epochs {
            body["epochs"] = epochs.into();
        }
        let (run, number) = (&self.run, self.checkpoint.to_string());
        let call = Call::api(
            Method::POST,
            "experiments/{experiment}/runs/{run}/checkpoints/{number}/runs",
            &[run.experiment(), run.name(), &number],
        )
        .json(body)
        .keyed()
        .repeatable();
        let answer = match run.transport.json(call).await {
            // Distinguishes a missing checkpoint from a backend without checkpoints.
            Err(error) if error.is_not_found() => {
                run.checkpoints().await?;
                Err(error)
            }
            answer => answer,
        };
        Ok(Run::new(run.transport.clone(), run.experiment(), answer?))
    }
}

impl IntoFuture for ResumeFrom {
    type Output = Result<Run>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.start())
    }
}
