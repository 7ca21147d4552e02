//! Tests of the queue, round by round, with a clock that the tests advance.

mod engines;

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
};

use futures_util::future::{BoxFuture, ready};

use super::*;
use crate::{
    clock::Clock,
    database::{in_memory, with_run},
    launcher::{LaunchError, Launcher, Resources, WorkOrder},
    secret,
    settings::{Settings, Workers},
    space::Space,
    store::Store,
};

/// A launcher that a test controls.
#[derive(Default)]
struct FakeLauncher(Mutex<FakeState>);

#[derive(Default)]
struct FakeState {
    jobs: HashMap<String, JobState>,
    /// Reason why the engine can't be asked, if it can't.
    away: Option<String>,
    /// Results of the next starts. Without an entry, a start succeeds.
    refusals: VecDeque<LaunchError>,
    /// State of new jobs, if it is not running.
    begins: Option<JobState>,
    orders: Vec<WorkOrder>,
    starts: usize,
    stopped: Vec<String>,
    /// Whether jobs stay listed although they were stopped.
    hangs: bool,
    is_remote: bool,
    panics: bool,
    /// A clock that each start and each stop advances by this time.
    slow: Option<(Clock, Duration)>,
}

impl FakeLauncher {
    fn state(&self) -> MutexGuard<'_, FakeState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Names of jobs that have not ended.
    fn jobs(&self) -> Vec<String> {
        let state = self.state();
        let jobs = state.jobs.iter().filter(|(_, state)| !is_over(state));
        let mut names: Vec<String> = jobs.map(|(name, _)| name.clone()).collect();
        names.sort();
        names
    }

    fn set(&self, job: &str, state: JobState) {
        self.state().jobs.insert(job.to_owned(), state);
    }

    fn forget(&self, job: &str) {
        self.state().jobs.remove(job);
    }

    fn fail_starts(&self, count: usize) {
        let full = || LaunchError::Retry("the cluster is full".to_owned());
        self.state().refusals.extend((0..count).map(|_| full()));
    }
}

impl Launcher for Arc<FakeLauncher> {
    fn start<'a>(
        &'a self,
        order: &'a WorkOrder,
    ) -> BoxFuture<'a, std::result::Result<(), LaunchError>> {
        let mut state = self.state();
        state.starts += 1;
        if let Some((clock, time)) = &state.slow {
            clock.advance(*time);
        }
        let started = match state.refusals.pop_front() {
            Some(refusal) => Err(refusal),
            None => {
                let begins = state.begins.clone().unwrap_or(JobState::Running);
                state.jobs.insert(order.name.clone(), begins);
                state.orders.push(order.clone());
                Ok(())
            }
        };
        Box::pin(ready(started))
    }

    fn stop<'a>(&'a self, name: &'a str) -> BoxFuture<'a, std::result::Result<(), String>> {
        let mut state = self.state();
        state.stopped.push(name.to_owned());
        if let Some((clock, time)) = &state.slow {
            clock.advance(*time);
        }
        if !state.hangs {
            state.jobs.remove(name);
        }
        Box::pin(ready(Ok(())))
    }

    fn list(&self) -> BoxFuture<'_, std::result::Result<HashMap<String, JobState>, String>> {
        let state = self.state();
        assert!(!state.panics, "requested by the test");
        let listed = match &state.away {
            Some(reason) => Err(reason.clone()),
            None => Ok(state.jobs.clone()),
        };
        Box::pin(ready(listed))
    }

    fn engine(&self) -> &'static str {
        "Slurm"
    }

    fn is_remote(&self) -> bool {
        self.state().is_remote
    }
}

struct Harness {
    app: Arc<App>,
    launcher: Arc<FakeLauncher>,
    queue: Queue,
    _folder: tempfile::TempDir,
}

async fn harness(settings: Settings) -> Harness {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::in_folder(folder.path()).unwrap();
    let db = in_memory();
    with_run(&db, "r").await;
    let space = Space::new(folder.path().to_owned(), Some(0));
    let id = crate::secret::new_id();
    let app = App::new(db, store, settings, space, None, [0; 32], &id);
    let launcher = Arc::new(FakeLauncher::default());
    Harness {
        queue: Queue::new(Arc::clone(&app), engine(&launcher)),
        app,
        launcher,
        _folder: folder,
    }
}

fn engine(launcher: &Arc<FakeLauncher>) -> Engine {
    Engine {
        launcher: Arc::new(Arc::clone(launcher)),
        prefix: "ft-0a1b2c3d-".into(),
        url: "http://127.0.0.1:1".into(),
        ca: None,
    }
}

/// Creates a harness whose engine is on other machines.
async fn remote(settings: Settings) -> Harness {
    let harness = harness(settings).await;
    harness.launcher.state().is_remote = true;
    harness
}

fn one_attempt() -> Settings {
    Settings {
        attempts: 1,
        ..Settings::default()
    }
}

fn job(run: i64, launch: u64) -> String {
    format!("ft-0a1b2c3d-{run}-{launch}")
}

fn pending(reason: &str) -> JobState {
    JobState::Pending(reason.to_owned())
}

impl Harness {
    async fn round(&mut self) {
        self.queue.round().await.unwrap();
    }

    async fn launched(&self) -> Vec<Launched> {
        self.app.database.launched().await.unwrap()
    }

    /// Makes the first call of the last job's worker.
    async fn call(&self) -> Launched {
        let order = self.launcher.state().orders.last().unwrap().clone();
        let start_token = secret::hash(&order.start_token);
        let token = secret::hash(&format!("the worker of {}", order.name));
        let exchanged = self.app.database.exchange(start_token, token);
        let held = exchanged.await.unwrap().expect("the run waits for it");
        self.app.leases.grant(held, false);
        let launched = self.launched().await;
        launched.into_iter().find(|run| run.held() == held).unwrap()
    }

    /// Makes the first call of the last job's worker, and fetches its job.
    async fn begin(&self) -> Launched {
        let run = self.call().await;
        let token = secret::hash(&format!("the worker of {}", run.job));
        assert!(self.app.database.begin(run.id, token).await.unwrap());
        self.app.leases.begin(run.held());
        run
    }

    /// Restarts the server, which loses everything in its memory.
    async fn restart(&mut self) {
        self.app.leases.retain(&HashSet::new());
        self.queue = Queue::new(Arc::clone(&self.app), engine(&self.launcher));
        self.queue.adopt(false).await.unwrap();
    }

    async fn run(&self) -> crate::database::RunRow {
        self.app.database.run_by_id(1).await.unwrap().unwrap()
    }

    async fn details(&self) -> String {
        let run = self.run().await;
        crate::runs::status_of(&self.app, &run)
            .await
            .unwrap()
            .details
    }

    async fn log(&self) -> String {
        crate::runs::log_text(&self.app, 1).await.unwrap()
    }

    /// Advances the clock with a round every second, as in a running server.
    async fn advance(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.app.clock.advance(Duration::from_secs(1));
            self.round().await;
        }
    }

    /// Like [`Harness::advance`], with heartbeats from every worker.
    async fn advance_with_heartbeats(&mut self, seconds: u64) {
        for _ in 0..seconds {
            for run in self.launched().await.iter().filter(|run| run.has_worker) {
                self.app.leases.renew(run.held());
            }
            self.advance(1).await;
        }
    }
}

/// Returns the default lease in seconds.
fn lease() -> u64 {
    Settings::default().lease.as_secs()
}

#[tokio::test]
async fn a_silent_worker_is_lost_after_its_lease_and_counts_as_an_attempt() {
    let mut harness = harness(Settings::default()).await;
    harness.round().await;
    harness.begin().await;
    harness.advance(lease() - 1).await;
    assert_eq!(harness.launched().await[0].launches, 1);
    harness.advance(3).await;
    assert!(harness.launched().await.is_empty());
    // The slot is free once the job was killed.
    harness.advance(12).await;
    let [run] = harness.launched().await.try_into().unwrap();
    assert_eq!((run.launches, run.attempts), (2, 2));
    assert_eq!(harness.launcher.jobs(), [job(1, 2)]);
    let log = harness.log().await;
    let told = format!("no sign of life for {} seconds", lease());
    assert!(log.contains(&told), "{log}");
}

#[tokio::test]
async fn a_clock_jump_loses_no_worker() {
    let mut harness = harness(Settings::default()).await;
    harness.round().await;
    harness.begin().await;
    // The server was suspended and could not receive heartbeats.
    harness.app.clock.advance(Duration::from_secs(3600));
    harness.round().await;
    harness.advance(lease() - 1).await;
    let [run] = harness.launched().await.try_into().unwrap();
    assert_eq!(run.launches, 1, "one full lease: {}", harness.log().await);
    harness.advance(3).await;
    assert!(harness.launched().await.is_empty());
}

#[tokio::test]
async fn a_launcher_outage_does_not_count_as_an_attempt() {
    let mut harness = harness(one_attempt()).await;
    harness.launcher.fail_starts(5);
    harness.round().await;
    assert_eq!(harness.launcher.state().starts, 1);
    // No start before the pause is over: 1, 2, 4, 8 and 16 seconds.
    harness.round().await;
    assert_eq!(harness.launcher.state().starts, 1);
    harness.advance(32).await;
    assert_eq!(harness.launcher.state().starts, 6);
    let run = harness.begin().await;
    assert_eq!(run.attempts, 1);
    let log = harness.log().await;
    assert!(
        log.contains("No worker could be started: the cluster is full"),
        "{log}"
    );
    assert_eq!(
        log.matches("No worker could be started").count(),
        3,
        "1, 2, 4: {log}"
    );
}

#[tokio::test]
async fn workers_that_end_before_receiving_their_job_do_not_count() {
    let mut harness = harness(one_attempt()).await;
    for _ in 0..4 {
        harness.advance(20).await;
        harness.launcher.state().jobs.clear();
    }
    harness.advance(30).await;
    let run = harness.begin().await;
    assert_eq!(run.attempts, 1);
    assert!(run.launches > 3, "{run:?}");
    // A run whose workers never start does not block the other runs.
    with_run(&harness.app.database, "other").await;
    harness.launcher.state().jobs.clear();
    harness.app.leases.grant(run.held(), false);
    harness.advance(12).await;
    let launched = harness.launched().await;
    assert_eq!(launched[0].id, 2, "{launched:?}");
}

#[tokio::test]
async fn workers_that_end_during_shutdown_do_not_count() {
    let mut harness = harness(one_attempt()).await;
    harness.round().await;
    harness.begin().await;
    harness.app.begin_to_stop().await;
    harness.launcher.state().jobs.clear();
    assert!(!harness.queue.round().await.unwrap(), "nothing is left");
    let run = harness.app.database.run_by_id(1).await.unwrap().unwrap();
    assert_eq!((run.attempts, run.status.as_str()), (0, "STARTED"));
    let log = harness.log().await;
    assert!(log.contains("ended when the server stopped"), "{log}");
}

#[tokio::test]
async fn workers_that_hang_during_shutdown_are_killed_and_do_not_count() {
    let mut harness = harness(Settings::default()).await;
    harness.round().await;
    harness.begin().await;
    harness.app.begin_to_stop().await;
    end_all(&harness.app, &engine(&harness.launcher), false).await;
    assert!(harness.launcher.jobs().is_empty());
    assert!(harness.launched().await.is_empty());
    let run = harness.app.database.run_by_id(1).await.unwrap().unwrap();
    assert_eq!((run.attempts, run.has_worker), (0, false));
}

#[tokio::test]
async fn waiting_time_does_not_count_towards_the_time_limit() {
    let settings = Settings {
        max_run_time: Some(Duration::from_secs(60)),
        lease: Duration::from_secs(1000),
        ..Settings::default()
    };
    let mut harness = harness(settings).await;
    harness.round().await;
    harness.begin().await;
    harness.advance(50).await;
    let [run] = harness.launched().await.try_into().unwrap();
    harness.queue.release_for_free(&run, None).await.unwrap();
    harness.launcher.state().jobs.clear();
    harness.app.clock.advance(Duration::from_secs(5000));
    harness.round().await;
    harness.begin().await;
    harness.advance(8).await;
    assert_eq!(harness.launched().await.len(), 1, "58 seconds of work");
    harness.advance(4).await;
    assert!(harness.launched().await.is_empty());
    let log = harness.log().await;
    assert!(
        log.contains("longer than this server allows, 60 seconds"),
        "{log}"
    );
}

#[tokio::test]
async fn a_server_on_a_new_port_stops_workers_that_know_only_the_old_one() {
    let mut harness = harness(Settings::default()).await;
    harness.round().await;
    let run = harness.begin().await;
    harness.queue.adopt(false).await.unwrap();
    assert_eq!(harness.launched().await.len(), 1);
    harness.queue.adopt(true).await.unwrap();
    assert!(harness.launched().await.is_empty() && harness.launcher.jobs().is_empty());
    harness.round().await;
    let [again] = harness.launched().await.try_into().unwrap();
    assert_eq!((again.attempts, again.launches), (run.attempts, 2));
}

#[tokio::test]
async fn a_panicked_queue_is_reported_and_restarted() {
    let harness = harness(Settings::default()).await;
    let Harness { app, launcher, .. } = &harness;
    launcher.state().panics = true;
    let queue = tokio::spawn(serve(Arc::clone(app), engine(launcher), false));
    let until = async |is_so: &dyn Fn() -> bool| {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    until(&|| app.queue.problem().is_some()).await;
    let problem = app.queue.problem().unwrap();
    assert!(problem.contains("it panicked"), "{problem}");
    launcher.state().panics = false;
    until(&|| app.queue.problem().is_none()).await;
    until(&|| launcher.state().starts == 1).await;
    queue.abort();
}
