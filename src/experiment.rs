//! A group of runs.

use finetuner_protocol::{ExperimentInfo, RunInfo, check_name};
use serde_json::Map;

use crate::{
    Result, Run,
    client::all_pages,
    transport::{Call, Transport},
};

/// A handle on an experiment.
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
    #[must_use]
    pub fn name(&self) -> &str {
        &self.info.name
    }

    /// When it was created, in UTC.
    #[must_use]
    pub fn created_at(&self) -> &str {
        &self.info.created_at
    }

    /// A run, by its name.
    ///
    /// # Errors
    /// [`Error::is_not_found`](crate::Error::is_not_found) where there is none.
    pub async fn get_run(&self, name: &str) -> Result<Run> {
        check_name("run_name", name)?;
        let parts = ["experiments", self.name(), "runs", name];
        let url = self.transport.addresses().api(&parts);
        let info = self.transport.json(Call::get(url)).await?;
        Ok(Run::new(self.transport.clone(), self.name(), info))
    }

    /// All its runs, oldest first.
    ///
    /// # Errors
    /// Where a call fails.
    pub async fn list_runs(&self) -> Result<Vec<Run>> {
        let parts = ["experiments", self.name(), "runs"];
        let url = self.transport.addresses().api(&parts);
        let infos: Vec<RunInfo> = all_pages(&self.transport, &url).await?;
        let run = |info| Run::new(self.transport.clone(), self.name(), info);
        Ok(infos.into_iter().map(run).collect())
    }
}

impl std::fmt::Debug for Experiment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Experiment")
            .field("info", &self.info)
            .finish_non_exhaustive()
    }
}
