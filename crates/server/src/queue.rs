//! Runs wait here for their turn: oldest first, as many at once as allowed.
//! Workers that are lost are replaced, those that are over are ended.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use finetuner_protocol::Level;

use crate::{
    app::App,
    database::{Claim, Launched, now_ms},
    error::Result,
    launcher::{Launcher, WorkOrder},
    secret,
};

/// How often the queue looks around, where nothing calls it.
const TICK: Duration = Duration::from_millis(500);
/// How long a worker whose run is over may take to stop by itself.
const STOPS_WITHIN: Duration = Duration::from_secs(10);

/// Launches runs until the server ends.
pub(crate) struct Queue {
    app: Arc<App>,
    launcher: Arc<dyn Launcher>,
    /// Where workers find the server.
    url: String,
    /// Since when a worker's run is over.
    over: HashMap<String, Instant>,
    /// All that this server has started.
    started: HashSet<String>,
}

impl Queue {
    pub(crate) fn new(app: Arc<App>, launcher: Arc<dyn Launcher>, url: String) -> Self {
        Self {
            app,
            launcher,
            url,
            over: HashMap::new(),
            started: HashSet::new(),
        }
    }

    /// Serves the queue. When the server is about to stop, it ends once all
    /// workers have.
    pub(crate) async fn serve(mut self) {
        // Workers of an earlier server may still be alive.
        let lease = self.app.settings.lease;
        if let Err(error) = self.app.database.extend_leases(lease).await {
            tracing::error!("the queue can't be read: {error}");
        }
        loop {
            // Asked for before looking, so that no submission is missed.
            let app = Arc::clone(&self.app);
            let called = app.submitted.notified();
            match self.look().await {
                Ok(busy) if self.app.is_stopping() && !busy => return,
                Ok(_) => {}
                Err(error) => tracing::error!("the queue can't go on: {error:?}"),
            }
            let _ = tokio::time::timeout(TICK, called).await;
        }
    }

    /// Looks once after everything. Says whether any worker runs.
    async fn look(&mut self) -> Result<bool> {
        let running: HashSet<String> = match self.launcher.running().await {
            Ok(running) => running.into_iter().collect(),
            Err(error) => {
                tracing::warn!("the launcher can't say what runs: {error}");
                self.started.clone()
            }
        };
        let launched = self.app.database.launched().await?;
        for run in &launched {
            self.look_after(run, &running).await?;
        }
        let launched = self.app.database.launched().await?;
        self.end_those_that_are_over(&launched, &running).await;
        // A run whose worker is of an earlier server takes a place as well.
        let own = |run: &&Launched| run.job.as_ref().is_some_and(|job| running.contains(job));
        let foreign = launched.len() - launched.iter().filter(own).count();
        let mut free = (self.app.settings.runs_at_once).saturating_sub(running.len() + foreign);
        while free > 0 && !self.app.is_stopping() && self.launch().await? {
            free -= 1;
        }
        Ok(!running.is_empty())
    }

    /// Sees whether a run's worker is alive and within its limits.
    async fn look_after(&self, run: &Launched, running: &HashSet<String>) -> Result<()> {
        let now = now_ms();
        let limit = self.app.settings.max_run_time;
        if let (Some(limit), Some(started)) = (limit, run.started_at)
            && now - started > i64::try_from(limit.as_millis()).unwrap_or(i64::MAX)
        {
            let reason = format!(
                "the run has taken longer than this server allows, {} seconds: fewer `epochs` or \
                 less data need less",
                limit.as_secs()
            );
            self.app.fail(run.id, None, reason).await?;
            return Ok(());
        }
        let job = run.job.as_ref().filter(|job| self.started.contains(*job));
        let gone = job.filter(|job| !running.contains(*job));
        let reason = match gone {
            Some(job) => self
                .launcher
                .end_of(job)
                .unwrap_or_else(|| "it is gone".to_owned()),
            None if now > run.lease_until => format!(
                "it has given no sign of life for {} seconds",
                self.app.settings.lease.as_secs_f64()
            ),
            None => return Ok(()),
        };
        self.lost(run, reason).await
    }

    /// A worker is lost: the run gets another, or has had enough of them.
    async fn lost(&self, run: &Launched, reason: String) -> Result<()> {
        let attempts = self.app.settings.attempts;
        if run.attempts >= attempts {
            let reason = format!("the worker was lost, attempt {attempts} of {attempts}: {reason}");
            self.app.fail(run.id, None, reason).await?;
            return Ok(());
        }
        let from = match self.app.database.last_checkpoint(run.id).await? {
            Some(_) => "goes on from its last checkpoint",
            None => "begins anew",
        };
        let message = format!(
            "The worker was lost: {reason}. The run {from}, attempt {} of {attempts}",
            run.attempts + 1
        );
        tracing::warn!("run {}: {message}", run.id);
        self.app.counters.worker_lost();
        let released =
            self.app
                .database
                .release(run.id, run.attempts, true, Level::Warning, message);
        released.await?;
        self.app.changes.notify(run.id);
        Ok(())
    }

    /// Ends workers that have nothing to do any more and don't stop.
    async fn end_those_that_are_over(&mut self, launched: &[Launched], running: &HashSet<String>) {
        let wanted: HashSet<&String> = launched.iter().filter_map(|run| run.job.as_ref()).collect();
        self.over.retain(|job, _| running.contains(job));
        self.started
            .retain(|job| running.contains(job) || wanted.contains(job));
        for job in running.iter().filter(|job| !wanted.contains(job)) {
            let since = *self.over.entry(job.clone()).or_insert_with(Instant::now);
            if since.elapsed() > STOPS_WITHIN
                && let Err(error) = self.launcher.kill(job).await
            {
                tracing::error!("{job} can't be ended: {error}");
            }
        }
    }

    /// Starts a worker for the oldest run that waits. Says whether there was
    /// one.
    async fn launch(&mut self) -> Result<bool> {
        let token = secret::new_token();
        let lease = self.app.settings.lease;
        let claim = self.app.database.claim(secret::hash(&token), lease).await?;
        let Some(claim) = claim else {
            return Ok(false);
        };
        let order = WorkOrder {
            url: self.url.clone(),
            token,
        };
        match self.launcher.start(order).await {
            Ok(job) => {
                self.started.insert(job.clone());
                self.app.database.set_job(claim, job).await?;
            }
            Err(reason) => {
                let Claim { id, attempt } = claim;
                let run = Launched {
                    id,
                    attempts: attempt,
                    job: None,
                    lease_until: 0,
                    started_at: None,
                };
                self.lost(&run, reason).await?;
            }
        }
        Ok(true)
    }

    /// Ends all workers at once.
    pub(crate) async fn kill_all(launcher: &dyn Launcher) {
        for job in launcher.running().await.unwrap_or_default() {
            if let Err(error) = launcher.kill(&job).await {
                tracing::error!("{job} can't be ended: {error}");
            }
        }
    }
}
