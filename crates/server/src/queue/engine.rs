//! The queue's access to the engine: each call has a time limit, and only this
//! server's jobs are listed.

use std::{collections::HashMap, sync::Arc, time::Duration};

use crate::launcher::{JobState, LaunchError, Launcher, WorkOrder};

/// Time limit for an answer of the engine.
const ANSWERS_WITHIN: Duration = Duration::from_secs(30);

/// The launcher of a server, and the server's parameters for its workers.
#[derive(Clone)]
pub(crate) struct Engine {
    pub(crate) launcher: Arc<dyn Launcher>,
    /// Prefix of this server's job names.
    pub(crate) prefix: String,
    /// Address at which workers reach the server.
    pub(crate) url: String,
    /// Certificate authority in PEM form that workers trust.
    pub(crate) ca: Option<String>,
}

impl Engine {
    /// Lists this server's jobs. Other servers may share the engine.
    pub(super) async fn list(&self) -> std::result::Result<HashMap<String, JobState>, String> {
        let listed = tokio::time::timeout(ANSWERS_WITHIN, self.launcher.list()).await;
        let mut jobs = listed.map_err(|_| no_answer())??;
        jobs.retain(|name, _| name.starts_with(&self.prefix));
        Ok(jobs)
    }

    pub(super) async fn start(&self, order: &WorkOrder) -> std::result::Result<(), LaunchError> {
        let started = tokio::time::timeout(ANSWERS_WITHIN, self.launcher.start(order)).await;
        started.unwrap_or_else(|_| Err(LaunchError::Retry(no_answer())))
    }

    pub(super) async fn stop(&self, job: &str) {
        let stopped = tokio::time::timeout(ANSWERS_WITHIN, self.launcher.stop(job)).await;
        if let Err(error) = stopped.unwrap_or_else(|_| Err(no_answer())) {
            tracing::error!("The job {job} can't be stopped: {error}");
        }
    }

    /// Parses the run and the launch from a job's name.
    pub(super) fn held(&self, job: &str) -> Option<(i64, u64)> {
        let (run, launch) = job.strip_prefix(&self.prefix)?.split_once('-')?;
        Some((run.parse().ok()?, launch.parse().ok()?))
    }
}

fn no_answer() -> String {
    format!("no answer within {} seconds", ANSWERS_WITHIN.as_secs())
}

/// Whether a job has ended.
pub(super) fn is_over(state: &JobState) -> bool {
    matches!(state, JobState::Ended(_))
}
