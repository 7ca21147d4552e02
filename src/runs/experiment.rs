//! Experiments, which are groups of runs.

use std::sync::Arc;

use finetuner_protocol::{
    ExperimentInfo, Page, RunInfo, check_name,
    time::{self, Timestamp},
};
use reqwest::Method;

use super::run::Run;
use crate::{
    error::Result,
    transport::{Call, List, Transport},
};

/// Handle of an experiment. Cloning is cheap.
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
///
/// A handle from [`Finetuner::experiment`](crate::Finetuner::experiment) knows only
/// its name, because no request was made. Other handles have the backend's answer.
#[derive(Clone)]
pub struct Experiment {
    transport: Transport,
    name: Arc<str>,
    /// The backend's answer, unless no request was made.
    info: Option<Arc<ExperimentInfo>>,
}

impl Experiment {
    pub(crate) fn new(transport: Transport, info: ExperimentInfo) -> Self {
        Self {
            transport,
            name: info.name.as_str().into(),
            info: Some(Arc::new(info)),
        }
    }

    pub(crate) fn named(transport: Transport, name: &str) -> Self {
        Self {
            transport,
            name: name.into(),
            info: None,
        }
    }

    /// Returns the name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the description, if the backend has returned one.
    #[must_use]
    pub fn description(&self) -> Option<&str> {
        let text = self.info.as_ref()?.description.as_str();
        (!text.is_empty()).then_some(text)
    }

    /// Returns the status, such as `ACTIVE`, if the backend has returned it.
    #[must_use]
    pub fn status(&self) -> Option<&str> {
        let status = self.info.as_ref()?.status.as_str();
        (!status.is_empty()).then_some(status)
    }

    /// Returns the time of creation, if the backend has returned it.
    #[must_use]
    pub fn created_at(&self) -> Option<Timestamp> {
        time::parse(&self.info.as_ref()?.created_at)
    }

    /// Finds a run by its name.
    ///
    /// # Errors
    /// [`Error::is_not_found`](crate::Error::is_not_found) if it does not exist.
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

    /// Lists all runs, oldest first.
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
        let (transport, experiment) = (self.transport.clone(), Arc::clone(&self.name));
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

    /// Deletes a run and its model. A run in progress is stopped.
    ///
    /// # Errors
    /// [`Error::is_not_found`](crate::Error::is_not_found) if it does not exist.
    pub async fn delete_run(&self, name: &str) -> Result<()> {
        check_name("run_name", name)?;
        let call = Call::api(
            Method::DELETE,
            "experiments/{experiment}/runs/{run}",
            &[self.name(), name],
        );
        self.transport.done(call).await
    }

    /// Deletes all runs of the experiment.
    ///
    /// # Errors
    /// If the call fails.
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
            .field("name", &self.name)
            .field("info", &self.info)
            .finish_non_exhaustive()
    }
}
