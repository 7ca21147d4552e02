//! Submission of jobs for waiting runs.

use std::time::Duration;

use finetuner_protocol::Device;

use super::Queue;
use crate::{
    database::{Claim, Launched},
    error::{ApiError, Result},
    launcher::{LaunchError, Resources, WorkOrder},
    secret,
};

/// Time limit for the starts of one round. The next round follows at once,
/// because nobody checks the workers in the meantime.
const STARTS_FOR: Duration = Duration::from_secs(5);

impl Queue {
    /// Submits up to `free` jobs, as far as the round's time allows.
    pub(super) async fn start(&mut self, mut free: usize) -> Result<()> {
        let begun = self.app.clock.now();
        while free > 0
            && !self.app.is_stopping()
            && self.pauses.may_start(self.app.clock.now())
            && self.launch().await?
        {
            free -= 1;
            if self.app.clock.now().saturating_sub(begun) > STARTS_FOR {
                self.ran_out_of_time |= free > 0;
                break;
            }
        }
        Ok(())
    }

    /// Submits a job for the next waiting run. Returns whether there was one.
    async fn launch(&mut self) -> Result<bool> {
        let token = secret::new_token();
        let claim = Claim {
            prefix: self.engine.prefix.clone(),
            start_token: secret::hash(&token),
            delayed: self.pauses.waiting(self.app.clock.now()),
        };
        let Some(run) = self.app.database.claim(claim).await? else {
            return Ok(false);
        };
        let order = match self.order(&run, token).await {
            Ok(order) => order,
            Err(error) => {
                self.release_for_free(&run, None).await?;
                return Err(error);
            }
        };
        self.sightings.seen(&run.job);
        let started = self.engine.start(&order).await;
        // A slow answer does not mean that the server stood still.
        self.awake_at = self.app.clock.now();
        match started {
            Ok(()) => {
                if !self.engine.launcher.is_remote() {
                    self.running.insert(run.job.clone(), run.held());
                }
            }
            // The job may have been submitted nevertheless. It is stopped when it is
            // listed.
            Err(LaunchError::Retry(reason)) => self.not_started(&run, reason).await?,
            Err(LaunchError::Refused(reason)) => {
                let engine = self.engine.launcher.engine();
                let reason = format!("{engine} refused the job: {reason}");
                self.app.fail(run.id, None, reason).await?;
            }
        }
        Ok(true)
    }

    async fn order(&self, launched: &Launched, start_token: String) -> Result<WorkOrder> {
        let run = self.app.database.run_by_id(launched.id).await?;
        let run = run.ok_or_else(|| ApiError::internal(&"a run was deleted as it was claimed"))?;
        let user = self.app.database.owner_of(run.id).await?;
        let settings = &self.app.settings;
        let labels = [
            ("run", run.name),
            ("user", user),
            ("experiment", run.experiment),
        ];
        Ok(WorkOrder {
            name: launched.job.clone(),
            url: self.engine.url.clone(),
            start_token,
            folder: self.app.run_folders.prefix_of(launched.held()),
            ca: self.engine.ca.clone(),
            resources: Resources {
                cpus: settings.workers.cpus(run.cpus),
                gpus: match Device::from(run.device) {
                    Device::Cpu => None,
                    _ => settings.workers.gpus(run.gpus),
                },
                memory: settings.max_run_memory,
            },
            labels: labels.map(|(key, value)| (key.to_owned(), value)).into(),
        })
    }
}
