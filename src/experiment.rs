//! A group of runs.

use finetuner_protocol::{ExperimentInfo, Page, RunInfo, check_name};
use reqwest::Method;
use serde_json::Map;

use crate::{
    List, Result, Run,
    transport::{Call, Transport},
};

/// A handle on an experiment. Clones are cheap.
///
/// ```no_run
/// # async fn example(finetuner: finetuner::Finetuner) -> finetuner::Result<()> {
/// let experiment = finetuner.create_experiment("fashion").await?;
/// for run in experiment.list_runs().await? {
///     println!("{}", run.name());
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Experiment {
    transport: Transport,
    info: ExperimentInfo,
}

impl Experiment {
    pub(crate) fn new(transport: Transport, info: ExperimentInfo) -> Self {
        Self { transport, info }
    }

    pub(crate) fn named(transport: Transport, name: &str) -> Self {
        let info = ExperimentInfo {
            name: name.to_owned(),
            description: String::new(),
            status: String::new(),
            created_at: String::new(),
            extra: Map::new(),
        };
        Self { transport, info }
    }

    /// Its name.
    ///
    /// ```no_run
    /// # async fn example(experiment: finetuner::Experiment) -> finetuner::Result<()> {
    /// println!("{}", experiment.name());
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn name(&self) -> &str {
        &self.info.name
    }

    /// A text about it.
    ///
    /// ```no_run
    /// # async fn example(experiment: finetuner::Experiment) -> finetuner::Result<()> {
    /// println!("{}", experiment.description());
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn description(&self) -> &str {
        &self.info.description
    }

    /// `ACTIVE`.
    ///
    /// ```no_run
    /// # async fn example(experiment: finetuner::Experiment) -> finetuner::Result<()> {
    /// println!("{}", experiment.status());
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn status(&self) -> &str {
        &self.info.status
    }

    /// When it was created, in UTC.
    ///
    /// ```no_run
    /// # async fn example(experiment: finetuner::Experiment) -> finetuner::Result<()> {
    /// println!("{}", experiment.created_at());
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn created_at(&self) -> &str {
        &self.info.created_at
    }

    /// A run, by its name.
    ///
    /// ```no_run
    /// # async fn example(experiment: finetuner::Experiment) -> finetuner::Result<()> {
    /// let run = experiment.get_run("clip-fashion-1").await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::is_not_found`](crate::Error::is_not_found) where there is none.
    pub async fn get_run(&self, name: &str) -> Result<Run> {
        check_name("run_name", name)?;
        let call = Call::api(
            Method::GET,
            "experiments/{experiment}/runs/{run}",
            &[self.name(), name],
        );
        let info = self.transport.json(call).await?;
        Ok(Run::new(self.transport.clone(), self.name(), info))
    }

    /// All its runs, oldest first.
    ///
    /// ```no_run
    /// # async fn example(experiment: finetuner::Experiment) -> finetuner::Result<()> {
    /// for run in experiment.list_runs().await? {
    ///     println!("{}: {}", run.name(), run.status().await?);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn list_runs(&self) -> List<Run> {
        let (transport, experiment) = (self.transport.clone(), self.info.name.clone());
        List::new(move |page, size| {
            let (transport, experiment) = (transport.clone(), experiment.clone());
            async move {
                let call = Call::api(Method::GET, "experiments/{experiment}/runs", &[&experiment])
                    .query("page", page)
                    .query("size", size);
                let page: Page<RunInfo> = transport.json(call).await?;
                Ok(page.map(|info| Run::new(transport.clone(), &experiment, info)))
            }
        })
    }

    /// Deletes a run, and the model it has made. A run in progress ends.
    ///
    /// ```no_run
    /// # async fn example(experiment: finetuner::Experiment) -> finetuner::Result<()> {
    /// experiment.delete_run("clip-fashion-1").await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::is_not_found`](crate::Error::is_not_found) where there is none.
    pub async fn delete_run(&self, name: &str) -> Result<()> {
        check_name("run_name", name)?;
        let call = Call::api(
            Method::DELETE,
            "experiments/{experiment}/runs/{run}",
            &[self.name(), name],
        );
        self.transport.done(call).await
    }

    /// Deletes all its runs.
    ///
    /// ```no_run
    /// # async fn example(experiment: finetuner::Experiment) -> finetuner::Result<()> {
    /// experiment.delete_runs().await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Where the call fails.
    pub async fn delete_runs(&self) -> Result<()> {
        let call = Call::api(
            Method::DELETE,
            "experiments/{experiment}/runs",
            &[self.name()],
        );
        self.transport.done(call).await
    }
}

impl std::fmt::Debug for Experiment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Experiment")
            .field("info", &self.info)
            .finish_non_exhaustive()
    }
}
