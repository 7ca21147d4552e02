//! Adoption of an earlier server's jobs, and removal of ended workers' files.

use std::collections::{HashMap, HashSet};

use finetuner_protocol::Level;
use tokio::task::JoinHandle;

use super::{Queue, engine::is_over};
use crate::{
    database::Launched,
    error::{ApiError, Result},
    launcher::JobState,
};

impl Queue {
    /// Gives the workers of an earlier server a full lease. If this server
    /// `has_moved` to another port, its workers can't reach it and are stopped.
    pub(super) async fn adopt(&mut self, has_moved: bool) -> Result<()> {
        for run in self.app.database.launched().await? {
            if run.has_worker {
                self.app.leases.grant(run.held(), run.is_started);
            }
            if has_moved {
                self.engine.stop(&run.job).await;
                let message = "The server has a new port, where the worker can't reach it. The \
                               run continues from its last checkpoint";
                let line = (Level::Warning, message.to_owned());
                self.release_for_free(&run, Some(line)).await?;
            }
        }
        if self.engine.launcher.is_remote() {
            return Ok(());
        }
        // Workers may have been killed while no server was running. The next list
        // reports the end of those that still have a run.
        let launched = self.app.database.launched().await?;
        let jobs = launched.iter().map(|run| (run.job.clone(), run.held()));
        self.running.extend(jobs);
        let mut wanted: HashSet<_> = launched.iter().map(Launched::held).collect();
        let listed = self
            .engine
            .list()
            .await
            .map_err(|e| ApiError::internal(&e))?;
        let going_on = listed.iter().filter(|(_, state)| !is_over(state));
        wanted.extend(going_on.filter_map(|(job, _)| self.engine.held(job)));
        // Awaited, so that no worker starts during the removal.
        let swept = self.sweep(move |launch| wanted.contains(&launch));
        let _ = swept.await;
        Ok(())
    }

    /// Removes the files of ended workers on this machine.
    pub(super) fn sweep_after(&mut self, jobs: &HashMap<String, JobState>) {
        if self.engine.launcher.is_remote() {
            return;
        }
        let mut ended = HashSet::new();
        self.running.retain(|job, launch| {
            let goes_on = jobs.get(job).is_some_and(|state| !is_over(state));
            if !goes_on {
                ended.insert(*launch);
            }
            goes_on
        });
        for job in jobs
            .iter()
            .filter(|(_, state)| !is_over(state))
            .map(|job| job.0)
        {
            if let Some(held) = self.engine.held(job) {
                self.running.insert(job.clone(), held);
            }
        }
        if !ended.is_empty() {
            drop(self.sweep(move |launch| !ended.contains(&launch)));
        }
    }

    /// Removes the files of launches that are not `wanted`, in the background.
    fn sweep(&self, wanted: impl Fn((i64, u64)) -> bool + Send + 'static) -> JoinHandle<()> {
        let folders = self.app.run_folders.clone();
        tokio::task::spawn_blocking(move || folders.sweep(wanted))
    }
}
