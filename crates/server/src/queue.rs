//! The queue: the order of runs, and the supervision of their jobs.
//!
//! Users take turns, and each user's oldest run goes first. The queue stores
//! the name of a run's job in the database and then submits the job to an
//! engine. The worker's lease starts with its first call. In every round the
//! queue compares the engine's list of jobs with the runs in the database, so a
//! restarted server needs no other information:
//!
//! | engine | run |
//! | --- | --- |
//! | can't be asked | stays as it is; nothing is submitted |
//! | the job is pending | waits without a time limit |
//! | the job runs | continues while the worker keeps its lease |
//! | the job has ended | gets another job |
//! | the job is unknown | gets another job after a grace period, unless a lease is valid |
//!
//! Jobs that no run wants are stopped. A worker that is lost during its run
//! costs an attempt. A failed start costs none. A pause costs none either,
//! whether the server or the engine asked for it.

mod adoption;
mod engine;
mod fate;
mod orders;
mod pauses;
mod sightings;
mod stop;

use std::{
    collections::{HashMap, HashSet},
    panic::AssertUnwindSafe,
    sync::Arc,
    time::Duration,
};

use finetuner_protocol::Level;
use futures_util::FutureExt;

pub(crate) use engine::Engine;
pub(crate) use stop::end_all;

use self::{
    engine::is_over,
    fate::{Fate, fate},
    pauses::Pauses,
    sightings::Sightings,
};
use crate::{
    app::App,
    database::{Launched, Release},
    error::Result,
    launcher::JobState,
    queue_state,
};

/// Time between two rounds, unless a submission triggers one.
const TICK: Duration = Duration::from_millis(500);
/// Time between two rounds when each round asks another machine.
const REMOTE_TICK: Duration = Duration::from_secs(5);
/// Time for a worker without a run to stop by itself.
const STOPS_WITHIN: Duration = Duration::from_secs(10);
/// Time limit for the stops of one round. The next round follows at once, because
/// nobody checks the workers in the meantime.
const STOPS_FOR: Duration = Duration::from_secs(5);
/// Time after which a job that was told to stop is told again.
const TOLD_AGAIN: Duration = Duration::from_secs(60);
/// Time after which a job of another machine that was told to stop gives up its slot.
/// Its machine is probably dead, and the engine may wait for it forever.
const ABANDONED_AFTER: Duration = Duration::from_secs(600);
/// A gap between two rounds that is longer than this, and than half a lease,
/// means that the server stood still and could not receive signs of life.
const STOOD_STILL: Duration = Duration::from_secs(5);

/// Runs the queue until the server has stopped. Restarts the queue if it
/// panics.
pub(crate) async fn serve(app: Arc<App>, engine: Engine, has_moved: bool) {
    let mut has_moved = has_moved;
    loop {
        let queue = Queue::new(Arc::clone(&app), engine.clone());
        match AssertUnwindSafe(queue.serve(has_moved))
            .catch_unwind()
            .await
        {
            Ok(()) => return,
            Err(_) => {
                app.queue.failed("it panicked; this is a bug".to_owned());
                tracing::error!("The queue panicked and is restarted. This is a bug.");
            }
        }
        has_moved = false;
        tokio::time::sleep(TICK).await;
    }
}

/// State of the queue's task.
struct Queue {
    app: Arc<App>,
    engine: Engine,
    /// Jobs that no run wants.
    orphans: HashMap<String, Orphan>,
    sightings: Sightings,
    /// Run and launch of each job that has not ended, as far as known.
    running: HashMap<String, (i64, u64)>,
    pauses: Pauses,
    /// Time when the server was last known to be awake.
    awake_at: Duration,
    /// Whether the last round had no time to start or stop all jobs that it should.
    ran_out_of_time: bool,
    /// Reason why the engine could not be asked in the last round.
    engine_error: Option<String>,
}

/// A job that no run wants.
struct Orphan {
    since: Duration,
    /// Time when it was last told to stop.
    told: Option<Duration>,
    /// Whether it no longer occupies a slot.
    is_abandoned: bool,
}

impl Queue {
    fn new(app: Arc<App>, engine: Engine) -> Self {
        Self {
            awake_at: app.clock.now(),
            ran_out_of_time: false,
            app,
            engine,
            orphans: HashMap::new(),
            sightings: Sightings::default(),
            running: HashMap::new(),
            pauses: Pauses::default(),
            engine_error: None,
        }
    }

    /// Runs rounds until the server stops and no worker is left.
    async fn serve(mut self, has_moved: bool) {
        let mut is_adopted = false;
        let tick = match self.engine.launcher.is_remote() {
            true => REMOTE_TICK,
            false => TICK,
        };
        loop {
            // Registered before the round, so that no submission is missed.
            let app = Arc::clone(&self.app);
            let called = app.submitted.notified();
            let round = async {
                if !is_adopted {
                    self.adopt(has_moved).await?;
                    is_adopted = true;
                }
                self.round().await
            };
            match round.await {
                Ok(busy) => {
                    app.queue.good();
                    if app.is_stopping() && !busy {
                        return;
                    }
                }
                Err(error) => {
                    if app.queue.failed(error.message().to_owned()) {
                        tracing::error!(
                            "The queue's round failed: {}. It is repeated",
                            error.message()
                        );
                    }
                }
            }
            let _ = tokio::time::timeout(self.pause_before_next(tick), called).await;
        }
    }

    /// Returns the pause before the next round. A lease that ends triggers the
    /// round, so a dead worker is noticed without waiting for the next tick.
    fn pause_before_next(&self, tick: Duration) -> Duration {
        if self.ran_out_of_time {
            return Duration::ZERO;
        }
        // A job whose run has just ended frees its slot soon.
        let now = self.app.clock.now();
        let mut orphans = self.orphans.values();
        let tick = match orphans.any(|orphan| now.saturating_sub(orphan.since) < STOPS_WITHIN) {
            true => tick.min(2 * TICK),
            false => tick,
        };
        // A lease ends just after its last moment.
        let end = self.app.leases.next_end().unwrap_or(tick) + Duration::from_millis(10);
        end.clamp(TICK.min(tick), tick)
    }

    /// Runs one round. Returns whether a worker is left.
    async fn round(&mut self) -> Result<bool> {
        self.ran_out_of_time = false;
        self.notice_standstill();
        let Some(jobs) = self.list().await else {
            let launched = self.app.database.launched().await?;
            for run in &launched {
                self.end_if_too_long(run).await?;
            }
            return Ok(!launched.is_empty());
        };
        self.sweep_after(&jobs);
        let launched = self.app.database.launched().await?;
        self.publish_waits(&launched, &jobs);
        for run in &launched {
            // A run that can't be checked must not block the others.
            if let Err(error) = self.check_run(run, jobs.get(&run.job)).await {
                tracing::error!("Run {} can't be checked: {}", run.id, error.message());
            }
        }
        let launched = self.app.database.launched().await?;
        let held = launched.iter().map(Launched::held).collect();
        self.app.leases.retain(&held);
        self.pauses.retain(&held);
        let wanted: HashSet<&str> = launched.iter().map(|run| run.job.as_str()).collect();
        self.sightings.retain(|job| wanted.contains(job));
        self.stop_orphans(&wanted, &jobs).await;
        let going_on = |job: &str| jobs.get(job).is_some_and(|state| !is_over(state));
        // Runs whose job is not listed also occupy a slot.
        let unlisted = launched.iter().filter(|run| !going_on(&run.job)).count();
        let mut abandoned = HashSet::new();
        for (job, orphan) in &self.orphans {
            if orphan.is_abandoned {
                abandoned.insert(job.clone());
            }
        }
        let occupies = |job: &str| going_on(job) && !abandoned.contains(job);
        let listed = jobs.keys().filter(|job| occupies(job)).count();
        let free = (self.app.settings.runs_at_once).saturating_sub(listed + unlisted);
        self.start(free).await?;
        if !self.app.is_stopping() || !self.engine.launcher.outlives_the_server() {
            return Ok(listed + launched.len() > 0);
        }
        // Jobs whose workers have not called yet may wait for the next server.
        let stay = launched.iter().filter(|run| !run.has_worker);
        let stay: HashSet<&str> = stay.map(|run| run.job.as_str()).collect();
        let ends = |job: &str| occupies(job) && !stay.contains(job);
        Ok(launched.iter().any(|run| run.has_worker) || jobs.keys().any(|job| ends(job)))
    }

    /// Lists this server's jobs. Returns `None` if the engine can't be asked.
    async fn list(&mut self) -> Option<HashMap<String, JobState>> {
        let engine = self.engine.launcher.engine();
        let listed = self.engine.list().await;
        // A slow answer does not mean that the server stood still.
        self.awake_at = self.app.clock.now();
        match listed {
            Ok(jobs) => {
                self.app.queue.engine(engine, true);
                if self.engine_error.take().is_some() {
                    tracing::info!("The jobs on {engine} can be listed again");
                }
                for job in jobs.keys() {
                    self.sightings.seen(job);
                }
                Some(jobs)
            }
            Err(reason) => {
                self.app.queue.engine(engine, false);
                if self.engine_error.as_ref() != Some(&reason) {
                    tracing::warn!(
                        "The jobs on {engine} can't be listed: {reason}. Runs continue, but none \
                         is started until the list works again"
                    );
                }
                self.engine_error = Some(reason);
                self.sightings.begin_anew();
                None
            }
        }
    }

    /// Gives every worker a full lease if the server stood still, because it was
    /// suspended or had no processor for too long.
    fn notice_standstill(&mut self) {
        let now = self.app.clock.now();
        let pause = now.saturating_sub(self.awake_at);
        self.awake_at = now;
        let usual = match self.engine.launcher.is_remote() {
            true => 2 * REMOTE_TICK,
            false => STOOD_STILL,
        };
        if pause > usual.max(self.app.settings.lease / 2) {
            tracing::warn!(
                "The server stood still for {} seconds. All workers get a new lease.",
                pause.as_secs()
            );
            self.app.leases.grant_all();
            self.sightings.begin_anew();
        }
    }

    /// Publishes where the runs' jobs wait, and notifies the followers of runs
    /// whose reason changed.
    fn publish_waits(&self, launched: &[Launched], jobs: &HashMap<String, JobState>) {
        let engine = self.engine.launcher.engine();
        let waits = launched.iter().filter(|run| !run.has_worker);
        let waits = waits.filter_map(|run| match jobs.get(&run.job)? {
            JobState::Pending(reason) => Some((run.id, queue_state::waiting(engine, reason))),
            _ => None,
        });
        for run_id in self.app.waits.replace(waits.collect()) {
            self.app.changes.notify(run_id);
        }
    }

    /// Fails a run that has exceeded the server's time limit. Returns whether it
    /// has.
    async fn end_if_too_long(&self, run: &Launched) -> Result<bool> {
        let Some(limit) = self.app.settings.max_run_time else {
            return Ok(false);
        };
        if run.worked + self.app.leases.worked(run.held()) <= limit {
            return Ok(false);
        }
        let reason = format!(
            "the run has taken longer than this server allows, {} seconds; use fewer `epochs` or \
             less data",
            limit.as_secs()
        );
        self.app.fail(run.id, None, reason).await?;
        Ok(true)
    }

    /// Checks that a run's worker is alive and within its limits.
    async fn check_run(&mut self, run: &Launched, state: Option<&JobState>) -> Result<()> {
        let is_at_work = self.app.leases.is_at_work(run.held());
        if is_at_work {
            self.pauses.worked(run.held());
        }
        if self.end_if_too_long(run).await? {
            return Ok(());
        }
        let Fate::Lost {
            reason,
            is_silent,
            counts,
        } = fate(&self.app, &self.engine, &mut self.sightings, run, state)
        else {
            return Ok(());
        };
        if state.is_none() {
            // The job may appear late, or may have left something behind.
            self.engine.stop(&run.job).await;
            self.awake_at = self.app.clock.now();
        }
        if run.stopped || self.app.is_stopping() {
            let message = format!(
                "The worker ended when the server stopped: {reason}. The run continues from its \
                 last checkpoint"
            );
            return self
                .release_for_free(run, Some((Level::Info, message)))
                .await;
        }
        match (is_at_work, counts) {
            (true, true) => self.lost(run, reason, is_silent).await,
            (true, false) => {
                let message = format!(
                    "The worker was lost: {reason}. The run continues in another worker; this \
                     does not count as an attempt"
                );
                tracing::warn!("Run {}: {message}", run.id);
                self.release_for_free(run, Some((Level::Warning, message)))
                    .await
            }
            (false, _) => self.not_started(run, reason).await,
        }
    }

    /// Handles a lost worker: the run gets another one, or fails after its last
    /// attempt.
    async fn lost(&mut self, run: &Launched, reason: String, is_silent: bool) -> Result<()> {
        let attempts = self.app.settings.attempts;
        if run.attempts >= attempts {
            let reason =
                format!("the worker was lost in attempt {attempts} of {attempts}: {reason}");
            self.app.fail(run.id, None, reason).await?;
            return Ok(());
        }
        let from = match self.app.database.last_checkpoint(run.id).await? {
            Some(_) => "continues from its last checkpoint",
            None => "starts from the beginning",
        };
        let message = format!(
            "The worker was lost: {reason}. The run {from}: attempt {} of {attempts}",
            run.attempts + 1
        );
        let release = Release {
            counts: true,
            worked: self.app.leases.take_worked(run.held()),
            line: Some((Level::Warning, message.clone())),
        };
        // A sign of life may have arrived since, so the transaction checks again.
        let (app, held) = (Arc::clone(&self.app), run.held());
        let still = move || !is_silent || app.leases.is_over(held);
        if self.app.database.release(held, release, still).await? {
            tracing::warn!("Run {}: {message}", run.id);
            self.app.counters.worker_lost();
            self.app.changes.notify(run.id);
        }
        Ok(())
    }

    /// Handles a worker that did not start its run: the next start waits.
    async fn not_started(&mut self, run: &Launched, reason: String) -> Result<()> {
        let failed = self.pauses.failed(run.id, self.app.clock.now());
        let message = format!(
            "No worker could be started: {reason}. Trying again in {} seconds",
            failed.pause.as_secs()
        );
        tracing::warn!("Run {}: {message}", run.id);
        let line = failed.is_news.then_some((Level::Warning, message));
        self.release_for_free(run, line).await
    }

    /// Takes a run from its worker without counting an attempt.
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

    /// Stops jobs that no run wants and that don't end by themselves.
    async fn stop_orphans(&mut self, wanted: &HashSet<&str>, jobs: &HashMap<String, JobState>) {
        let is_left = |job: &str| {
            let goes_on = jobs.get(job).is_some_and(|state| !is_over(state));
            goes_on && !wanted.contains(job)
        };
        self.orphans.retain(|job, _| is_left(job));
        let now = self.app.clock.now();
        let is_remote = self.engine.launcher.is_remote();
        for (job, state) in jobs.iter().filter(|(job, _)| is_left(job)) {
            let orphan = self.orphans.entry(job.clone()).or_insert(Orphan {
                since: now,
                told: None,
                is_abandoned: false,
            });
            let lasts = now.saturating_sub(orphan.since);
            if is_remote && !orphan.is_abandoned && lasts > ABANDONED_AFTER {
                orphan.is_abandoned = true;
                tracing::warn!(
                    "The job {job} was told to stop and has not ended for {} seconds. It no longer \
                     occupies a slot; check its machine",
                    lasts.as_secs()
                );
            }
            // A pending job has no worker that could stop by itself.
            let waits = matches!(state, JobState::Pending(_));
            let is_due = match orphan.told {
                None => waits || lasts > STOPS_WITHIN,
                Some(told) => now.saturating_sub(told) > TOLD_AGAIN,
            };
            if is_due {
                if self.app.clock.now().saturating_sub(now) > STOPS_FOR {
                    self.ran_out_of_time = true;
                    break;
                }
                orphan.told = Some(now);
                self.engine.stop(job).await;
                // A slow answer does not mean that the server stood still.
                self.awake_at = self.app.clock.now();
            }
        }
    }
}

#[cfg(test)]
mod tests;
