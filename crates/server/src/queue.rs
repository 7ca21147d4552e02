//! The order in which runs are carried out, and who looks after their jobs.
//!
//! Users take turns, and the oldest run of a user comes first. A run's job is
//! submitted to an engine under a name that is in the database before; its worker
//! has a lease from its first call on. What the engine lists and what the
//! database wants are compared at every look, so a server that is started again
//! needs no other knowledge:
//!
//! | the engine says | the run |
//! | --- | --- |
//! | nothing: it can't be asked | stays as it is, and nothing is submitted |
//! | the job waits | waits, for as long as it takes |
//! | the job runs | goes on while the worker keeps its lease |
//! | the job has ended | gets another one |
//! | it knows no such job | gets another one after a grace, if no lease holds |
//!
//! Jobs that no run wants are stopped. A worker that is lost while it works on its
//! run costs an attempt. A start that fails costs none, and neither does a pause,
//! whoever asked for it: the server or the engine.

mod adoption;
mod engine;
mod fate;
mod health;
mod leases;
mod orders;
mod pauses;
mod sightings;
mod stop;
mod waits;

use std::{
    collections::{HashMap, HashSet},
    panic::AssertUnwindSafe,
    sync::Arc,
    time::Duration,
};

use finetuner_protocol::Level;
use futures_util::FutureExt;

pub(crate) use engine::Engine;
pub(crate) use health::Health;
pub(crate) use leases::Leases;
pub(crate) use stop::end_all;
pub(crate) use waits::Waits;

use self::{engine::is_over, fate::Fate, pauses::Pauses, sightings::Sightings};
use crate::{
    app::App,
    database::{Launched, Release},
    error::Result,
    launcher::JobState,
};

/// How often the queue looks after everything, unless it is called.
const TICK: Duration = Duration::from_millis(500);
/// The same where each look asks another machine.
const REMOTE_TICK: Duration = Duration::from_secs(5);
/// How long a worker without a run may take to stop by itself.
const STOPS_WITHIN: Duration = Duration::from_secs(10);
/// How long after a job was told to stop it is told again.
const TOLD_AGAIN: Duration = Duration::from_secs(60);
/// A pause between two looks that is longer than this, and than half a lease,
/// means that the server stood still: no sign of life could be heard.
const STOOD_STILL: Duration = Duration::from_secs(5);

/// Runs the queue until the server has stopped. A queue that panics is started
/// again.
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
                tracing::error!("The queue panicked and is started again. This is a bug.");
            }
        }
        has_moved = false;
        tokio::time::sleep(TICK).await;
    }
}

/// Looks after runs and workers.
struct Queue {
    app: Arc<App>,
    engine: Engine,
    /// Jobs without a run.
    over: HashMap<String, Over>,
    sightings: Sightings,
    /// The run and the launch of jobs that have not ended, as far as known.
    working: HashMap<String, (i64, u64)>,
    pauses: Pauses,
    looked_at: Duration,
    /// Whether the last look had no time to start all jobs that could be.
    is_short_of_time: bool,
    /// Why the engine could not be asked, if so.
    away: Option<String>,
}

/// A job without a run.
struct Over {
    since: Duration,
    /// When it was last told to stop.
    told: Option<Duration>,
}

impl Queue {
    fn new(app: Arc<App>, engine: Engine) -> Self {
        Self {
            looked_at: app.clock.now(),
            is_short_of_time: false,
            app,
            engine,
            over: HashMap::new(),
            sightings: Sightings::default(),
            working: HashMap::new(),
            pauses: Pauses::default(),
            away: None,
        }
    }

    /// Looks after everything until the server stops and no worker is left.
    async fn serve(mut self, has_moved: bool) {
        let mut is_adopted = false;
        let tick = match self.engine.launcher.is_remote() {
            true => REMOTE_TICK,
            false => TICK,
        };
        loop {
            // Registered before the look, so that no submission is missed.
            let app = Arc::clone(&self.app);
            let called = app.submitted.notified();
            let looked = async {
                if !is_adopted {
                    self.adopt(has_moved).await?;
                    is_adopted = true;
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
            let _ = tokio::time::timeout(self.pause(tick), called).await;
        }
    }

    /// The pause before the next look. A worker that dies is noticed when its lease
    /// ends, not a tick later.
    fn pause(&self, tick: Duration) -> Duration {
        if self.is_short_of_time {
            return Duration::ZERO;
        }
        // A job whose run has just ended makes room soon.
        let now = self.app.clock.now();
        let mut over = self.over.values();
        let tick = match over.any(|over| now.saturating_sub(over.since) < STOPS_WITHIN) {
            true => tick.min(2 * TICK),
            false => tick,
        };
        // A lease has ended once its last moment has passed.
        let end = self.app.leases.next_end().unwrap_or(tick) + Duration::from_millis(10);
        end.clamp(TICK.min(tick), tick)
    }

    /// Looks once after everything. Returns whether a worker is left.
    async fn look(&mut self) -> Result<bool> {
        self.is_short_of_time = false;
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
        self.tell_where_they_wait(&launched, &jobs);
        for run in &launched {
            // One run that can't be looked after must not stop the others.
            if let Err(error) = self.look_after(run, jobs.get(&run.job)).await {
                tracing::error!("run {}: {}", run.id, error.message());
            }
        }
        let launched = self.app.database.launched().await?;
        let held = launched.iter().map(Launched::held).collect();
        self.app.leases.retain(&held);
        let wanted: HashSet<&str> = launched.iter().map(|run| run.job.as_str()).collect();
        self.sightings.retain(|job| wanted.contains(job));
        self.stop_those_without_a_run(&wanted, &jobs).await;
        let going_on = |job: &str| jobs.get(job).is_some_and(|state| !is_over(state));
        // Runs whose job is not listed take a place as well.
        let unlisted = launched.iter().filter(|run| !going_on(&run.job)).count();
        let listed = jobs.values().filter(|state| !is_over(state)).count();
        let free = (self.app.settings.runs_at_once).saturating_sub(listed + unlisted);
        self.start(free).await?;
        if !self.app.is_stopping() || !self.engine.launcher.outlives_the_server() {
            return Ok(listed + launched.len() > 0);
        }
        // Jobs whose workers have not called may wait for the next server.
        let stay = launched.iter().filter(|run| !run.has_worker);
        let stay: HashSet<&str> = stay.map(|run| run.job.as_str()).collect();
        let ends = |job: &str| going_on(job) && !stay.contains(job);
        Ok(launched.iter().any(|run| run.has_worker) || jobs.keys().any(|job| ends(job)))
    }

    /// Lists this server's jobs. Returns `None` where the engine can't be asked.
    async fn list(&mut self) -> Option<HashMap<String, JobState>> {
        let engine = self.engine.launcher.engine();
        let listed = self.engine.list().await;
        // A slow answer does not mean that the server stood still.
        self.looked_at = self.app.clock.now();
        match listed {
            Ok(jobs) => {
                self.app.queue.engine(engine, true);
                if self.away.take().is_some() {
                    tracing::info!("The jobs on {engine} can be listed again");
                }
                for job in jobs.keys() {
                    self.sightings.seen(job);
                }
                Some(jobs)
            }
            Err(reason) => {
                self.app.queue.engine(engine, false);
                if self.away.as_ref() != Some(&reason) {
                    tracing::warn!(
                        "The jobs on {engine} can't be listed: {reason}. Runs go on, and none is \
                         started until they can be"
                    );
                }
                self.away = Some(reason);
                self.sightings.begin_anew();
                None
            }
        }
    }

    /// Gives every worker a full lease where the server itself stood still: it
    /// was suspended, or had no processor for too long.
    fn notice_standstill(&mut self) {
        let now = self.app.clock.now();
        let pause = now.saturating_sub(self.looked_at);
        self.looked_at = now;
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

    /// Tells those who follow a run where its job waits.
    fn tell_where_they_wait(&self, launched: &[Launched], jobs: &HashMap<String, JobState>) {
        let engine = self.engine.launcher.engine();
        let waits = launched.iter().filter(|run| !run.has_worker);
        let waits = waits.filter_map(|run| match jobs.get(&run.job)? {
            JobState::Pending(reason) => Some((run.id, waits::told(engine, reason))),
            _ => None,
        });
        for run_id in self.app.waits.replace(waits.collect()) {
            self.app.changes.notify(run_id);
        }
    }

    /// Ends a run that has taken longer than is allowed. Returns whether it has.
    async fn end_if_too_long(&self, run: &Launched) -> Result<bool> {
        let Some(limit) = self.app.settings.max_run_time else {
            return Ok(false);
        };
        if run.worked + self.app.leases.worked(run.held()) <= limit {
            return Ok(false);
        }
        let reason = format!(
            "the run has taken longer than this server allows, {} seconds: fewer `epochs` or \
             less data need less",
            limit.as_secs()
        );
        self.app.fail(run.id, None, reason).await?;
        Ok(true)
    }

    /// Checks that a run's worker is alive and within its limits.
    async fn look_after(&mut self, run: &Launched, state: Option<&JobState>) -> Result<()> {
        let is_at_work = self.app.leases.is_at_work(run.held());
        if is_at_work {
            self.pauses.worked(run.id);
        }
        if self.end_if_too_long(run).await? {
            return Ok(());
        }
        let Fate::Lost {
            reason,
            is_silent,
            counts,
        } = self.fate(run, state)
        else {
            return Ok(());
        };
        if state.is_none() {
            // It may come to be known late, or have left something behind.
            self.engine.stop(&run.job).await;
            self.looked_at = self.app.clock.now();
        }
        if run.stopped || self.app.is_stopping() {
            let message = format!(
                "The worker ended as the server stopped: {reason}. The run goes on from its last \
                 checkpoint"
            );
            return self
                .release_for_free(run, Some((Level::Info, message)))
                .await;
        }
        match (is_at_work, counts) {
            (true, true) => self.lost(run, reason, is_silent).await,
            (true, false) => {
                let message = format!(
                    "The worker was lost: {reason}. The run goes on in another one, which costs \
                     no attempt"
                );
                tracing::warn!("run {}: {message}", run.id);
                self.release_for_free(run, Some((Level::Warning, message)))
                    .await
            }
            (false, _) => self.not_started(run, reason).await,
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

    /// Stops jobs that have no run any more and don't end by themselves.
    async fn stop_those_without_a_run(
        &mut self,
        wanted: &HashSet<&str>,
        jobs: &HashMap<String, JobState>,
    ) {
        let is_left = |job: &str| {
            let goes_on = jobs.get(job).is_some_and(|state| !is_over(state));
            goes_on && !wanted.contains(job)
        };
        self.over.retain(|job, _| is_left(job));
        let now = self.app.clock.now();
        for (job, state) in jobs.iter().filter(|(job, _)| is_left(job)) {
            let over = self.over.entry(job.clone()).or_insert(Over {
                since: now,
                told: None,
            });
            // One that waits can't stop by itself.
            let waits = matches!(state, JobState::Pending(_));
            let is_due = match over.told {
                None => waits || now.saturating_sub(over.since) > STOPS_WITHIN,
                Some(told) => now.saturating_sub(told) > TOLD_AGAIN,
            };
            if is_due {
                over.told = Some(now);
                self.engine.stop(job).await;
                // A slow answer does not mean that the server stood still.
                self.looked_at = self.app.clock.now();
            }
        }
    }
}

#[cfg(test)]
mod tests;
