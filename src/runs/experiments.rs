//! Experiments and runs by their names.

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

/// The experiment of runs that were given none.
pub(crate) const DEFAULT_EXPERIMENT: &str = "default";

impl Finetuner {
    /// A run of the default experiment, by its name.
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
    /// [`Error::is_not_found`](crate::Error::is_not_found) where there is none.
    pub async fn get_run(&self, name: &str) -> Result<Run> {
        self.experiment(DEFAULT_EXPERIMENT).get_run(name).await
    }

    /// All runs of all experiments, oldest first in each. A page is one of the
    /// default experiment's; [`Experiment::list_runs`] has those of others.
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

    /// Deletes a run of the default experiment, and the model it has made.
    ///
    /// # Errors
    /// [`Error::is_not_found`](crate::Error::is_not_found) where there is none.
    pub async fn delete_run(&self, name: &str) -> Result<()> {
        self.experiment(DEFAULT_EXPERIMENT).delete_run(name).await
    }

    /// Deletes all runs of the default experiment.
    ///
    /// # Errors
    /// Where the call fails.
    pub async fn delete_runs(&self) -> Result<()> {
        self.experiment(DEFAULT_EXPERIMENT).delete_runs().await
    }

    /// Creates an experiment.
    ///
    /// # Errors
    /// [`Error::is_conflict`](crate::Error::is_conflict) where there is one of
    /// that name, [`Error::is_invalid`](crate::Error::is_invalid) where it can't
    /// be a name.
    pub async fn create_experiment(&self, name: &str) -> Result<Experiment> {
        finetuner_protocol::check_name("name", name)?;
        let call = Call::api(Method::POST, "experiments/", &[])
            .json(json!({"name": name, "description": ""}))
            .keyed();
        let info = self.transport.json(call).await?;
        Ok(Experiment::new(self.transport.clone(), info))
    }

    /// An experiment, by its name.
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
    /// [`Error::is_not_found`](crate::Error::is_not_found) where there is none.
    pub async fn get_experiment(&self, name: &str) -> Result<Experiment> {
        finetuner_protocol::check_name("name", name)?;
        let call = Call::api(Method::GET, "experiments/{experiment}", &[name]);
        let info = self.transport.json(call).await?;
        Ok(Experiment::new(self.transport.clone(), info))
    }

    /// All experiments, oldest first.
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

    /// Deletes an experiment with all its runs, and returns what it was.
    ///
    /// # Errors
    /// [`Error::is_not_found`](crate::Error::is_not_found) where there is none.
    pub async fn delete_experiment(&self, name: &str) -> Result<Experiment> {
        finetuner_protocol::check_name("name", name)?;
        let call = Call::api(Method::DELETE, "experiments/{experiment}", &[name]);
        match self.transport.json(call).await {
            Ok(info) => Ok(Experiment::new(self.transport.clone(), info)),
            // An earlier try deleted it, and its answer was lost.
            Err(error) if error.is_not_found() && error.is_maybe_done() => {
                Ok(self.experiment(name))
            }
            Err(error) => Err(error),
        }
    }

    /// Deletes all experiments with all their runs, and returns what they were.
    ///
    /// ```no_run
    /// # async fn example(finetuner: finetuner::Finetuner) -> finetuner::Result<()> {
    /// let deleted = finetuner.delete_experiments().await?;
    /// println!("{} experiments are gone", deleted.len());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Where the call fails.
    pub async fn delete_experiments(&self) -> Result<Vec<Experiment>> {
        let call = Call::api(Method::DELETE, "experiments/", &[]);
        let infos: Vec<ExperimentInfo> = self.transport.json(call).await?;
        let experiment = |info| Experiment::new(self.transport.clone(), info);
        Ok(infos.into_iter().map(experiment).collect())
    }

    /// A handle without looking whether the experiment is there.
    #[must_use]
    pub fn experiment(&self, name: &str) -> Experiment {
        Experiment::named(self.transport.clone(), name)
    }
}

/// All runs of all experiments, from [`Finetuner::list_runs`]. Awaiting it
/// reads them all.
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
    /// The runs, fetched as they are needed. The first error ends the stream.
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
