//! Finds, lists, creates and deletes experiments and runs.

use std::{
    future::{Future, IntoFuture},
    pin::Pin,
};

use finetuner_protocol::{ExperimentInfo, Page};
use futures_util::TryStreamExt;
use reqwest::Method;
use serde_json::json;

use super::{experiment::Experiment, run::Run};
use crate::{
    client::Finetuner,
    error::Result,
    transport::{Call, List, ListStream},
};

/// Experiment of runs that name none.
pub(crate) const DEFAULT_EXPERIMENT: &str = "default";

impl Finetuner {
    /// Finds a run of the experiment `default`, by its name.
    ///
    /// ```no_run
    /// # async fn example(finetuner: finetuner::Finetuner) -> finetuner::Result<()> {
    /// let run = finetuner.get_run("clip-fashion-1").await?;
    /// println!("{}", run.status().await?);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::is_not_found`](crate::Error::is_not_found) if it does not exist.
    pub async fn get_run(&self, name: &str) -> Result<Run> {
        self.experiment(DEFAULT_EXPERIMENT).get_run(name).await
    }

    /// Lists the runs of all experiments, oldest first in each.
    ///
    /// [`Experiment::list_runs`] lists those of one experiment, also page by page.
    ///
    /// ```no_run
    /// # async fn example(finetuner: finetuner::Finetuner) -> finetuner::Result<()> {
    /// for run in finetuner.list_runs().await? {
    ///     println!("{}/{}", run.experiment(), run.name());
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn list_runs(&self) -> ListAllRuns {
        ListAllRuns(self.clone())
    }

    /// Deletes a run of the experiment `default`, and its model.
    ///
    /// # Errors
    /// [`Error::is_not_found`](crate::Error::is_not_found) if it does not exist.
    pub async fn delete_run(&self, name: &str) -> Result<()> {
        self.experiment(DEFAULT_EXPERIMENT).delete_run(name).await
    }

    /// Deletes all runs of the experiment `default`.
    ///
    /// # Errors
    /// If the call fails.
    pub async fn delete_runs(&self) -> Result<()> {
        self.experiment(DEFAULT_EXPERIMENT).delete_runs().await
    }

    /// Creates an experiment.
    ///
    /// # Errors
    /// [`Error::is_conflict`](crate::Error::is_conflict) if the name is taken,
    /// [`Error::is_invalid`](crate::Error::is_invalid) if it is not allowed.
    pub async fn create_experiment(&self, name: &str) -> Result<Experiment> {
        finetuner_protocol::check_name("name", name)?;
        let call = Call::api(Method::POST, "experiments/", &[])
            .json(json!({"name": name, "description": ""}))
            .keyed();
        let info = self.transport.json(call).await?;
        Ok(Experiment::new(self.transport.clone(), info))
    }

    /// Finds an experiment by its name.
    ///
    /// ```no_run
    /// # async fn example(finetuner: finetuner::Finetuner) -> finetuner::Result<()> {
    /// let experiment = finetuner.get_experiment("fashion").await?;
    /// println!("created {:?}", experiment.created_at());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::is_not_found`](crate::Error::is_not_found) if it does not exist.
    pub async fn get_experiment(&self, name: &str) -> Result<Experiment> {
        finetuner_protocol::check_name("name", name)?;
        let call = Call::api(Method::GET, "experiments/{experiment}", &[name]);
        let info = self.transport.json(call).await?;
        Ok(Experiment::new(self.transport.clone(), info))
    }

    /// Lists all experiments, oldest first.
    ///
    /// ```no_run
    /// # async fn example(finetuner: finetuner::Finetuner) -> finetuner::Result<()> {
    /// for experiment in finetuner.list_experiments().await? {
    ///     println!("{}", experiment.name());
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn list_experiments(&self) -> List<Experiment> {
        let transport = self.transport.clone();
        List::new(move |page, size| {
            let transport = transport.clone();
            async move {
                let call = Call::api(Method::GET, "experiments/", &[])
                    .query("page", page)
                    .query("size", size);
                let page: Page<ExperimentInfo> = transport.json(call).await?;
                Ok(page.map(|info| Experiment::new(transport.clone(), info)))
            }
        })
    }

    /// Deletes an experiment with all its runs, and returns its last state.
    ///
    /// # Errors
    /// [`Error::is_not_found`](crate::Error::is_not_found) if it does not exist.
    pub async fn delete_experiment(&self, name: &str) -> Result<Experiment> {
        finetuner_protocol::check_name("name", name)?;
        let call = Call::api(Method::DELETE, "experiments/{experiment}", &[name]);
        match self.transport.json(call).await {
            Ok(info) => Ok(Experiment::new(self.transport.clone(), info)),
            // An earlier attempt deleted it, but its answer was lost.
            Err(error) if error.is_not_found() && error.is_maybe_done() => {
                Ok(self.experiment(name))
            }
            Err(error) => Err(error),
        }
    }

    /// Deletes all experiments with all their runs, and returns their last state.
    ///
    /// ```no_run
    /// # async fn example(finetuner: finetuner::Finetuner) -> finetuner::Result<()> {
    /// let deleted = finetuner.delete_experiments().await?;
    /// println!("deleted {} experiments", deleted.len());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// If the call fails.
    pub async fn delete_experiments(&self) -> Result<Vec<Experiment>> {
        let call = Call::api(Method::DELETE, "experiments/", &[]);
        let infos: Vec<ExperimentInfo> = self.transport.json(call).await?;
        let experiment = |info| Experiment::new(self.transport.clone(), info);
        Ok(infos.into_iter().map(experiment).collect())
    }

    /// Returns a handle without asking whether the experiment exists.
    #[must_use]
    pub fn experiment(&self, name: &str) -> Experiment {
        Experiment::named(self.transport.clone(), name)
    }
}

/// List of the runs of all experiments, from [`Finetuner::list_runs`].
///
/// Awaiting it fetches all runs.
///
/// ```no_run
/// # async fn example(finetuner: finetuner::Finetuner) -> finetuner::Result<()> {
/// let runs = finetuner.list_runs().await?;
/// println!("{} runs", runs.len());
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
#[must_use = "a list is fetched when it is awaited"]
pub struct ListAllRuns(Finetuner);

impl ListAllRuns {
    /// Returns a stream that fetches the runs as they are needed.
    ///
    /// The first error ends the stream.
    ///
    /// ```no_run
    /// # async fn example(finetuner: finetuner::Finetuner) -> finetuner::Result<()> {
    /// let mut runs = finetuner.list_runs().stream();
    /// while let Some(run) = runs.next().await {
    ///     println!("{}", run?.name());
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn stream(self) -> ListStream<Run> {
        let experiments = self.0.list_experiments().stream();
        ListStream::new(
            experiments
                .map_ok(|experiment| experiment.list_runs().stream())
                .try_flatten(),
        )
    }
}

impl IntoFuture for ListAllRuns {
    type Output = Result<Vec<Run>>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.stream().try_collect())
    }
}
