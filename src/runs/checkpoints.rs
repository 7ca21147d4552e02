//! The states of a training that a backend keeps, and runs that go on from them.

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
    /// The states of the training that the backend has kept, oldest first: the
    /// last one while the run goes on or when it has failed, and as many as
    /// [`TrainingCheckpoint`](crate::TrainingCheckpoint) wants.
    ///
    /// # Errors
    /// [`Error::is_unsupported`](crate::Error::is_unsupported) if the backend keeps
    /// none.
    pub async fn checkpoints(&self) -> Result<Vec<CheckpointInfo>> {
        let route = "experiments/{experiment}/runs/{run}/checkpoints";
        let answer = self.transport.json(self.call(Method::GET, route)).await;
        self.optional(answer, "list a run's checkpoints").await
    }

    /// Describes a run that goes on from one of this run's checkpoints, by its
    /// number; awaiting it starts the run. See [`GoOnFrom`].
    ///
    /// ```no_run
    /// # async fn example(run: finetuner::Run) -> finetuner::Result<()> {
    /// // It was still getting better after its 5 epochs.
    /// if let Some(last) = run.checkpoints().await?.last() {
    ///     let longer = run.go_on_from(last.number, "longer").epochs(10).await?;
    ///     longer.wait().await?;
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn go_on_from(&self, checkpoint: u64, run_name: impl Into<String>) -> GoOnFrom {
        GoOnFrom {
            run: self.clone(),
            checkpoint,
            run_name: run_name.into(),
            epochs: None,
        }
    }
}

/// A run that goes on from a checkpoint of another run, from
/// [`Run::go_on_from`], with the configuration of that run. Awaiting it starts the
/// run.
///
/// # Errors
/// [`Error::is_unsupported`](crate::Error::is_unsupported) if the backend can't,
/// [`Error::is_conflict`](crate::Error::is_conflict) if the experiment has a run of
/// that name.
#[derive(Clone, Debug)]
#[must_use = "a run starts when it is awaited"]
pub struct GoOnFrom {
    run: Run,
    checkpoint: u64,
    run_name: String,
    epochs: Option<u64>,
}

impl GoOnFrom {
    /// Number of epochs in all, including those that are done; as many as the
    /// other run's by default.
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
            // A checkpoint that is not there is told from a backend without any.
            Err(error) if error.is_not_found() => {
                run.checkpoints().await?;
                Err(error)
            }
            answer => answer,
        };
        Ok(Run::new(run.transport.clone(), run.experiment(), answer?))
    }
}

impl IntoFuture for GoOnFrom {
    type Output = Result<Run>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.start())
    }
}
