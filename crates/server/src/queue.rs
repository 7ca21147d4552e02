//! The order in which runs are carried out, and who looks after their workers.
//!
//! Users take turns, and the oldest run of a user comes first. Workers that are
//! lost are replaced; workers without a run are ended. Only a run's own faults
//! count as attempts: a launcher that can't start anything, and whatever ends
//! because the server stops, cost none.

mod health;
mod leases;
mod pauses;

use std::{
    collections::{HashMap, HashSet},
    panic::AssertUnwindSafe,
    sync::Arc,
    time::Duration,
};

use finetuner_protocol::Level;
use futures_util::FutureExt;
use tokio::task::JoinHandle;

pub(crate) use health::Health;
pub(crate) use leases::Leases;

use self::pauses::Pauses;
use crate::{
    app::App,
    database::{Launched, Release},
    error::Result,
    launcher::{Launcher, WorkOrder},
    secret,
};

/// How often the queue looks after everything, unless it is called.
const TICK: Duration = Duration::from_millis(500);
/// How long a worker without a run may take to stop by itself.
const STOPS_WITHIN: Duration = Duration::from_secs(10);
/// A pause between two looks that is longer than this, and than half a lease,
/// means that the server stood still: no sign of life could be heard.
const STOOD_STILL: Duration = Duration::from_secs(5);

/// Runs the queue until the server has stopped. A queue that panics is started
/// again.
pub(crate) async fn serve(
    app: Arc<App>,
    launcher: Arc<dyn Launcher>,
    url: String,
    has_moved: bool,
) {
    let mut has_moved = has_moved;
    loop {
        let queue = Queue::new(Arc::clone(&app), Arc::clone(&launcher), url.clone());
        match AssertUnwindSafe(queue.serve(has_moved))
            .catch_unwind()
            .await
        {
            Ok(()) => return,
            Err(_) => {
                app.queue.failed("it panicked; this is a bug".to_owned());
                tracing::error!("The queue panicked and is started again. This is a bug.");
            }
        }
        has_moved = false;
        tokio::time::sleep(TICK).await;
    }
}

/// Ends all workers at once and takes their runs from them, at no cost: the
/// server stops.
pub(crate) async fn end_all(app: &App, launcher: &dyn Launcher) {
    let launched = app.database.launched().await.unwrap_or_else(|error| {
        tracing::error!("The queue can't be read: {error}");
        Vec::new()
    });
    let known = launched.iter().filter_map(|run| run.job.clone());
    let running = launcher.running().await.unwrap_or_default();
    for job in known.chain(running).collect::<HashSet<_>>() {
        if let Err(error) = launcher.kill(&job).await {
            tracing::error!("{job} can't be ended: {error}");
        }
    }
    for run in launched {
        let message = "The server stopped before the run had paused. The run goes on from its \
                       last checkpoint when the server is started again";
        let release = Release {
            counts: false,
            worked: app.leases.take_worked(run.held()),
            line: Some((Level::Warning, message.to_owned())),
        };
        let released = app.database.release(run.held(), release, || true).await;
        if let Err(error) = released {
            tracing::error!("run {}: it can't be paused: {error}", run.id);
        }
        app.changes.notify(run.id);
    }
}

/// Looks after runs and workers.
struct Queue {
    app: Arc<App>,
    launcher: Arc<dyn Launcher>,
    /// Where workers find the server.
    url: String,
    /// Workers without a run, and since when.
    over: HashMap<String, Duration>,
    /// Workers that this server has started or taken over.
    known: HashSet<String>,
    /// The run and the launch of workers that have not ended, as far as known.
    working: HashMap<String, (i64, u64)>,
    pauses: Pauses,
    looked_at: Duration,
}

impl Queue {
    fn new(app: Arc<App>, launcher: Arc<dyn Launcher>, url: String) -> Self {
        Self {
            looked_at: app.clock.now(),
            app,
            launcher,
            url,
            over: HashMap::new(),
            known: HashSet::new(),
            working: HashMap::new(),
            pauses: Pauses::default(),
        }
    }

    /// Looks after everything until the server stops and no worker is left.
    async fn serve(mut self, has_moved: bool) {
        let mut taken_over = false;
        loop {
            // Registered before the look, so that no submission is missed.
            let app = Arc::clone(&self.app);
            let called = app.submitted.notified();
            let looked = async {
                if !taken_over {
                    self.take_over(has_moved).await?;
                    taken_over = true;
                }
                self.look().await
            };
            match looked.await {
                Ok(busy) => {
                    app.queue.good();
                    if app.is_stopping() && !busy {
                        return;
                    }
                }
                Err(error) => {
                    if app.queue.failed(error.message().to_owned()) {
                        tracing::error!("The queue can't go on: {}", error.message());
                    }
                }
            }
            let _ = tokio::time::timeout(TICK, called).await;
        }
    }

    /// Takes over the workers of an earlier server. Where this one `has_moved`
    /// to another port, they can't find it and are ended.
    async fn take_over(&mut self, has_moved: bool) -> Result<()> {
        for run in self.app.database.launched().await? {
            self.app.leases.grant(run.held(), run.is_started);
            let Some(job) = &run.job else {
                // The server ended between the claim and the start.
                self.release_for_free(&run, None).await?;
                continue;
            };
            match self.launcher.take_over(job).await {
                Ok(true) => {
                    self.known.insert(job.clone());
                    self.working.insert(job.clone(), run.held());
                }
                Ok(false) => {}
                Err(error) => tracing::warn!("{job} can't be taken over: {error}"),
            }
            if has_moved {
                if let Err(error) = self.launcher.kill(job).await {
                    tracing::warn!("{job} can't be ended: {error}");
                }
                let message = "The server has another port now, where the worker can't find it. \
                               The run goes on from its last checkpoint";
                let line = (Level::Warning, message.to_owned());
                self.release_for_free(&run, Some(line)).await?;
            }
        }
        // Workers may have been killed while no server was there.
        let launched = self.app.database.launched().await?;
        let mut wanted: HashSet<_> = launched.iter().map(Launched::held).collect();
        wanted.extend(self.working.values());
        // None may be started meanwhile.
        let swept = self.sweep(move |launch| wanted.contains(&launch));
        let _ = swept.await;
        Ok(())
    }

    /// Removes the files of workers that have ended.
    fn sweep_after(&mut self, running: &HashSet<String>) {
        let mut ended = HashSet::new();
        self.working.retain(|job, launch| {
            let runs = running.contains(job);
            if !runs {
                ended.insert(*launch);
            }
            runs
        });
        if !ended.is_empty() {
            drop(self.sweep(move |launch| !ended.contains(&launch)));
        }
    }

    /// Removes the files of launches that are not `wanted`, in the background.
    fn sweep(&self, wanted: impl Fn((i64, u64)) -> bool + Send + 'static) -> JoinHandle<()> {
        let folders = self.app.run_folders.clone();
        tokio::task::spawn_blocking(move || folders.sweep(wanted))
    }

    /// Looks once after everything. Returns whether a worker is left.
    async fn look(&mut self) -> Result<bool> {
        self.notice_standstill();
        let running: HashSet<String> = match self.launcher.running().await {
            Ok(running) => running.into_iter().collect(),
            Err(error) => {
                tracing::warn!("The launcher can't list its workers: {error}");
                self.known.clone()
            }
        };
        self.sweep_after(&running);
        for run in self.app.database.launched().await? {
            // One run that can't be looked after must not stop the others.
            if let Err(error) = self.look_after(&run, &running).await {
                tracing::error!("run {}: {}", run.id, error.message());
            }
        }
        let launched = self.app.database.launched().await?;
        let held = launched.iter().map(Launched::held).collect();
        self.app.leases.retain(&held);
        self.end_those_without_a_run(&launched, &running).await;
        // Runs whose worker the launcher does not list take a place as well.
        let is_listed = |run: &&Launched| run.job.as_ref().is_some_and(|job| running.contains(job));
        let others = launched.len() - launched.iter().filter(is_listed).count();
        let mut free = (self.app.settings.runs_at_once).saturating_sub(running.len() + others);
        while free > 0
            && !self.app.is_stopping()
            && self.pauses.may_start(self.app.clock.now())
            && self.launch().await?
        {
            free -= 1;
        }
        Ok(!running.is_empty() || !launched.is_empty())
    }

    /// Gives every worker a full lease where the server itself stood still: it
    /// was suspended, or had no processor for too long.
    fn notice_standstill(&mut self) {
        let now = self.app.clock.now();
        let pause = now.saturating_sub(self.looked_at);
        self.looked_at = now;
        if pause > STOOD_STILL.max(self.app.settings.lease / 2) {
            tracing::warn!(
                "The server stood still for {} seconds. All workers get a new lease.",
                pause.as_secs()
            );
            self.app.leases.grant_all();
        }
    }

    /// Checks that a run's worker is alive and within its limits.
    async fn look_after(&mut self, run: &Launched, running: &HashSet<String>) -> Result<()> {
        let held = run.held();
        let is_at_work = self.app.leases.is_at_work(held);
        if is_at_work {
            self.pauses.worked(run.id);
        }
        let limit = self.app.settings.max_run_time;
        if let Some(limit) = limit
            && run.worked + self.app.leases.worked(held) > limit
        {
            let reason = format!(
                "the run has taken longer than this server allows, {} seconds: fewer `epochs` or \
                 less data need less",
                limit.as_secs()
            );
            self.app.fail(run.id, None, reason).await?;
            return Ok(());
        }
        let job = run.job.as_ref().filter(|job| self.known.contains(*job));
        let gone = job.filter(|job| !running.contains(*job));
        let (reason, is_silent) = match gone {
            Some(job) => {
                let end = self.launcher.end_of(job);
                (end.unwrap_or_else(|| "it is gone".to_owned()), false)
            }
            None if self.app.leases.is_over(held) => {
                let seconds = self.app.settings.lease.as_secs_f64();
                let reason = format!("it has given no sign of life for {seconds} seconds");
                (reason, true)
            }
            None => return Ok(()),
        };
        if run.stopped || self.app.is_stopping() {
            let message = format!(
                "The worker ended as the server stopped: {reason}. The run goes on from its last \
                 checkpoint"
            );
            return self
                .release_for_free(run, Some((Level::Info, message)))
                .await;
        }
        match is_at_work {
            true => self.lost(run, reason, is_silent).await,
            false => self.not_started(run, reason).await,
        }
    }

    /// A worker is lost: the run gets another one, or has had enough of them.
    async fn lost(&mut self, run: &Launched, reason: String, is_silent: bool) -> Result<()> {
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
        let release = Release {
            counts: true,
            worked: self.app.leases.take_worked(run.held()),
            line: Some((Level::Warning, message.clone())),
        };
        // A sign of life may have come since: the transaction looks once more.
        let (app, held) = (Arc::clone(&self.app), run.held());
        let still = move || !is_silent || app.leases.is_over(held);
        if self.app.database.release(held, release, still).await? {
            tracing::warn!("run {}: {message}", run.id);
            self.app.counters.worker_lost();
            self.app.changes.notify(run.id);
        }
        Ok(())
    }

    /// The worker of a run did not get to work: starting another one waits.
    async fn not_started(&mut self, run: &Launched, reason: String) -> Result<()> {
        let failed = self.pauses.failed(run.id, self.app.clock.now());
        let message = format!(
            "No worker could be started: {reason}. Trying again in {} seconds",
            failed.pause.as_secs()
        );
        tracing::warn!("run {}: {message}", run.id);
        let line = failed.is_news.then_some((Level::Warning, message));
        self.release_for_free(run, line).await
    }

    /// Takes a run from its worker, at no cost.
    async fn release_for_free(&self, run: &Launched, line: Option<(Level, String)>) -> Result<()> {
        let release = Release {
            counts: false,
            worked: self.app.leases.take_worked(run.held()),
            line,
        };
        let released = self.app.database.release(run.held(), release, || true);
        released.await?;
        self.app.changes.notify(run.id);
        Ok(())
    }

    /// Ends workers that have no run any more and don't stop by themselves.
    async fn end_those_without_a_run(&mut self, launched: &[Launched], running: &HashSet<String>) {
        let wanted: HashSet<&String> = launched.iter().filter_map(|run| run.job.as_ref()).collect();
        self.over.retain(|job, _| running.contains(job));
        self.known
            .retain(|job| running.contains(job) || wanted.contains(job));
        let now = self.app.clock.now();
        for job in running.iter().filter(|job| !wanted.contains(job)) {
            let since = *self.over.entry(job.clone()).or_insert(now);
            if now.saturating_sub(since) > STOPS_WITHIN
                && let Err(error) = self.launcher.kill(job).await
            {
                tracing::error!("{job} can't be ended: {error}");
            }
        }
    }

    /// Starts a worker for the next run that waits. Returns whether there was
    /// one.
    async fn launch(&mut self) -> Result<bool> {
        let token = secret::new_token();
        let waiting = self.pauses.waiting(self.app.clock.now());
        let claim = self
            .app
            .database
            .claim(secret::hash(&token), waiting)
            .await?;
        let Some(run) = claim else {
            return Ok(false);
        };
        self.app.leases.grant(run.held(), false);
        let order = WorkOrder {
            url: self.url.clone(),
            token,
            folder: self.app.run_folders.prefix_of(run.held()),
        };
        match self.launcher.start(order).await {
            Ok(job) => {
                self.known.insert(job.clone());
                self.working.insert(job.clone(), run.held());
                self.app.database.set_job(run.held(), job).await?;
            }
            Err(reason) => self.not_started(&run, reason).await?,
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests;
