//! The queue, look by look, on a clock that the tests move.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
};

use futures_util::future::{BoxFuture, ready};

use super::*;
use crate::{
    database::{Database, NewRunRow, Scope, in_memory},
    launcher::Launcher,
    settings::{Settings, Workers},
    space::Space,
    store::Store,
};

/// An engine that does what a test says.
#[derive(Default)]
struct Script(Mutex<Engineered>);

#[derive(Default)]
struct Engineered {
    jobs: HashMap<String, JobState>,
    /// Why it can't be asked, if so.
    away: Option<String>,
    /// What the next starts come to; they work where there is nothing.
    refusals: VecDeque<StartError>,
    /// The state of a new job, if it is not running.
    begins: Option<JobState>,
    orders: Vec<WorkOrder>,
    starts: usize,
    stopped: Vec<String>,
    is_remote: bool,
    panics: bool,
}

impl Script {
    fn state(&self) -> MutexGuard<'_, Engineered> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The names of jobs that have not ended.
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
        let full = || StartError::Retry("the cluster is full".to_owned());
        self.state().refusals.extend((0..count).map(|_| full()));
    }
}

impl Launcher for Arc<Script> {
    fn start<'a>(
        &'a self,
        order: &'a WorkOrder,
    ) -> BoxFuture<'a, std::result::Result<(), StartError>> {
        let mut state = self.state();
        state.starts += 1;
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
        state.jobs.remove(name);
        Box::pin(ready(Ok(())))
    }

    fn list(&self) -> BoxFuture<'_, std::result::Result<HashMap<String, JobState>, String>> {
        let state = self.state();
        assert!(!state.panics, "as this test wants it");
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

struct Stage {
    app: Arc<App>,
    script: Arc<Script>,
    queue: Queue,
    _folder: tempfile::TempDir,
}

async fn add_run(db: &Database, name: &str) {
    let token = db.create_token("u".into(), "t".into(), Scope::All);
    let hash = secret::hash(&token.await.unwrap());
    let owner = db.user_of_token(hash).await.unwrap().unwrap().id;
    let experiment = match db.experiment(owner.clone(), "e".into()).await.unwrap() {
        Some(experiment) => experiment.id,
        None => {
            let created = db.create_experiment(owner, "e".into(), String::new(), None);
            created.await.unwrap().id
        }
    };
    let row = NewRunRow {
        experiment_id: experiment,
        name: name.into(),
        description: String::new(),
        config: "{}".into(),
        device: "cpu".into(),
        cpus: None,
        gpus: None,
        task: "training".into(),
        details: "Run submitted".into(),
        artifact_id: secret::new_id(),
        idempotency_key: None,
        keep_checkpoints: 0,
        first_checkpoint: None,
        data: "{}".into(),
    };
    db.create_run(row, None).await.unwrap();
}

async fn stage(settings: Settings) -> Stage {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::in_folder(folder.path()).unwrap();
    let db = in_memory();
    add_run(&db, "r").await;
    let space = Space::new(folder.path().to_owned(), Some(0));
    let id = crate::secret::new_id();
    let app = App::new(db, store, settings, space, [0; 32], &id);
    let script = Arc::new(Script::default());
    Stage {
        queue: Queue::new(Arc::clone(&app), engine(&script)),
        app,
        script,
        _folder: folder,
    }
}

fn engine(script: &Arc<Script>) -> Engine {
    Engine {
        launcher: Arc::new(Arc::clone(script)),
        prefix: "ft-0a1b2c3d-".into(),
        url: "http://127.0.0.1:1".into(),
        ca: None,
    }
}

/// A stage whose engine is on other machines.
async fn remote(settings: Settings) -> Stage {
    let stage = stage(settings).await;
    stage.script.state().is_remote = true;
    stage
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

impl Stage {
    async fn look(&mut self) {
        self.queue.look().await.unwrap();
    }

    async fn launched(&self) -> Vec<Launched> {
        self.app.database.launched().await.unwrap()
    }

    /// The worker of the last job makes its first call.
    async fn call(&self) -> Launched {
        let order = self.script.state().orders.last().unwrap().clone();
        let start_token = secret::hash(&order.start_token);
        let token = secret::hash(&format!("the worker of {}", order.name));
        let exchanged = self.app.database.exchange(start_token, token);
        let held = exchanged.await.unwrap().expect("the run waits for it");
        self.app.leases.grant(held, false);
        let launched = self.launched().await;
        launched.into_iter().find(|run| run.held() == held).unwrap()
    }

    /// The worker of the last job calls and asks for its work.
    async fn begin(&self) -> Launched {
        let run = self.call().await;
        let token = secret::hash(&format!("the worker of {}", run.job));
        assert!(self.app.database.begin(run.id, token).await.unwrap());
        self.app.leases.begin(run.held());
        run
    }

    /// The server is started again: what it had in memory is gone.
    async fn restart(&mut self) {
        self.app.leases.retain(&HashSet::new());
        self.queue = Queue::new(Arc::clone(&self.app), engine(&self.script));
        self.queue.adopt(false).await.unwrap();
    }

    async fn run(&self) -> crate::database::RunRow {
        self.app.database.run_by_id(1).await.unwrap().unwrap()
    }

    async fn details(&self) -> String {
        let run = self.run().await;
        crate::api::status_of(&self.app, &run)
            .await
            .unwrap()
            .details
    }

    async fn log(&self) -> String {
        crate::api::log_text(&self.app, 1).await.unwrap()
    }

    /// Moves the clock, with looks on the way: the server was awake.
    async fn awake_for(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.app.clock.advance(Duration::from_secs(1));
            self.look().await;
        }
    }

    /// As [`Stage::awake_for`], while workers show that they live.
    async fn alive_for(&mut self, seconds: u64) {
        for _ in 0..seconds {
            for run in self.launched().await {
                self.app.leases.renew(run.held());
            }
            self.awake_for(1).await;
        }
    }
}

#[tokio::test]
async fn a_silent_worker_is_lost_after_its_lease_and_costs_an_attempt() {
    let mut stage = stage(Settings::default()).await;
    stage.look().await;
    stage.begin().await;
    stage.awake_for(29).await;
    assert_eq!(stage.launched().await[0].launches, 1);
    stage.awake_for(3).await;
    assert!(stage.launched().await.is_empty());
    // Its place is free once it was killed.
    stage.awake_for(12).await;
    let [run] = stage.launched().await.try_into().unwrap();
    assert_eq!((run.launches, run.attempts), (2, 2));
    assert_eq!(stage.script.jobs(), [job(1, 2)]);
    let log = stage.log().await;
    assert!(log.contains("no sign of life for 30 seconds"), "{log}");
}

#[tokio::test]
async fn a_clock_that_jumps_evicts_nobody() {
    let mut stage = stage(Settings::default()).await;
    stage.look().await;
    stage.begin().await;
    // The server itself stood still: nobody's signs of life could be heard.
    stage.app.clock.advance(Duration::from_secs(3600));
    stage.look().await;
    stage.awake_for(29).await;
    let [run] = stage.launched().await.try_into().unwrap();
    assert_eq!(run.launches, 1, "one full lease: {}", stage.log().await);
    stage.awake_for(3).await;
    assert!(stage.launched().await.is_empty());
}

#[tokio::test]
async fn a_launcher_outage_is_waited_for_and_costs_no_attempt() {
    let mut stage = stage(one_attempt()).await;
    stage.script.fail_starts(5);
    stage.look().await;
    assert_eq!(stage.script.state().starts, 1);
    // Not again before the pause is over: 1, 2, 4, 8 and 16 seconds.
    stage.look().await;
    assert_eq!(stage.script.state().starts, 1);
    stage.awake_for(32).await;
    assert_eq!(stage.script.state().starts, 6);
    let run = stage.begin().await;
    assert_eq!(run.attempts, 1);
    let log = stage.log().await;
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
async fn workers_that_end_before_they_have_their_job_cost_no_attempt() {
    let mut stage = stage(one_attempt()).await;
    for _ in 0..4 {
        stage.awake_for(20).await;
        stage.script.state().jobs.clear();
    }
    stage.awake_for(30).await;
    let run = stage.begin().await;
    assert_eq!(run.attempts, 1);
    assert!(run.launches > 3, "{run:?}");
    // A run whose workers never get to work does not stop the others.
    add_run(&stage.app.database, "other").await;
    stage.script.state().jobs.clear();
    stage.app.leases.grant(run.held(), false);
    stage.awake_for(12).await;
    let launched = stage.launched().await;
    assert_eq!(launched[0].id, 2, "{launched:?}");
}

#[tokio::test]
async fn what_ends_while_the_server_stops_costs_no_attempt() {
    let mut stage = stage(one_attempt()).await;
    stage.look().await;
    stage.begin().await;
    stage.app.begin_to_stop().await;
    stage.script.state().jobs.clear();
    assert!(!stage.queue.look().await.unwrap(), "nothing is left");
    let run = stage.app.database.run_by_id(1).await.unwrap().unwrap();
    assert_eq!((run.attempts, run.status.as_str()), (0, "CREATED"));
    let log = stage.log().await;
    assert!(log.contains("ended as the server stopped"), "{log}");
}

#[tokio::test]
async fn workers_that_hang_when_the_server_stops_are_killed_at_no_cost() {
    let mut stage = stage(Settings::default()).await;
    stage.look().await;
    stage.begin().await;
    stage.app.begin_to_stop().await;
    end_all(&stage.app, &engine(&stage.script), false).await;
    assert!(stage.script.jobs().is_empty());
    assert!(stage.launched().await.is_empty());
    let run = stage.app.database.run_by_id(1).await.unwrap().unwrap();
    assert_eq!((run.attempts, run.has_worker), (0, false));
}

#[tokio::test]
async fn time_that_a_run_waits_does_not_count_towards_its_limit() {
    let settings = Settings {
        max_run_time: Some(Duration::from_secs(60)),
        lease: Duration::from_secs(1000),
        ..Settings::default()
    };
    let mut stage = stage(settings).await;
    stage.look().await;
    stage.begin().await;
    stage.awake_for(50).await;
    let [run] = stage.launched().await.try_into().unwrap();
    stage.queue.release_for_free(&run, None).await.unwrap();
    stage.script.state().jobs.clear();
    stage.app.clock.advance(Duration::from_secs(5000));
    stage.look().await;
    stage.begin().await;
    stage.awake_for(8).await;
    assert_eq!(stage.launched().await.len(), 1, "58 seconds of work");
    stage.awake_for(4).await;
    assert!(stage.launched().await.is_empty());
    let log = stage.log().await;
    assert!(
        log.contains("longer than this server allows, 60 seconds"),
        "{log}"
    );
}

#[tokio::test]
async fn a_server_with_another_port_ends_the_workers_that_cannot_find_it() {
    let mut stage = stage(Settings::default()).await;
    stage.look().await;
    let run = stage.begin().await;
    stage.queue.adopt(false).await.unwrap();
    assert_eq!(stage.launched().await.len(), 1);
    stage.queue.adopt(true).await.unwrap();
    assert!(stage.launched().await.is_empty() && stage.script.jobs().is_empty());
    stage.look().await;
    let [again] = stage.launched().await.try_into().unwrap();
    assert_eq!((again.attempts, again.launches), (run.attempts, 2));
}

#[tokio::test]
async fn a_queue_that_panics_is_reported_and_started_again() {
    let stage = stage(Settings::default()).await;
    let Stage { app, script, .. } = &stage;
    script.state().panics = true;
    let queue = tokio::spawn(serve(Arc::clone(app), engine(script), false));
    let until = async |is_so: &dyn Fn() -> bool| {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    until(&|| app.queue.problem().is_some()).await;
    let problem = app.queue.problem().unwrap();
    assert!(problem.contains("it panicked"), "{problem}");
    script.state().panics = false;
    until(&|| app.queue.problem().is_none()).await;
    until(&|| script.state().starts == 1).await;
    queue.abort();
}

#[tokio::test]
async fn a_job_that_waits_for_hours_never_expires_and_the_status_says_where() {
    let mut stage = remote(one_attempt()).await;
    stage.script.state().begins = Some(pending("job 812"));
    stage.look().await;
    for hour in 0..3 {
        stage.app.clock.advance(Duration::from_secs(3600));
        stage.look().await;
        stage.awake_for(2).await;
        assert_eq!(stage.script.jobs(), [job(1, 1)], "hour {hour}");
    }
    let told = "Run submitted: waiting in Slurm's queue, job 812";
    assert_eq!(stage.details().await, told);
    stage.script.set(&job(1, 1), JobState::Running);
    stage.look().await;
    assert_eq!(stage.details().await, "Run submitted");
    let run = stage.begin().await;
    assert_eq!((run.launches, run.attempts), (1, 1));
    assert!(stage.script.state().stopped.is_empty());
}

#[tokio::test]
async fn a_job_that_is_not_listed_counts_as_lost_after_a_grace_and_without_a_lease() {
    let mut stage = remote(Settings::default()).await;
    stage.look().await;
    stage.begin().await;
    stage.script.forget(&job(1, 1));
    // The engine has forgotten it, and the worker calls on.
    stage.alive_for(600).await;
    assert_eq!(stage.launched().await[0].launches, 1);
    // The last lease.
    stage.awake_for(29).await;
    assert_eq!(stage.launched().await[0].launches, 1);
    stage.awake_for(4).await;
    let [run] = stage.launched().await.try_into().unwrap();
    assert_eq!((run.launches, run.attempts), (2, 2));
    let log = stage.log().await;
    assert!(
        log.contains("Slurm knows no job of the name ft-0a1b2c3d-1-1"),
        "{log}"
    );

    // Without a worker there is no lease, and a grace all the same.
    stage.script.forget(&job(1, 2));
    stage.awake_for(28).await;
    assert_eq!(stage.launched().await[0].launches, 2);
    stage.script.set(&job(1, 2), JobState::Running);
    stage.awake_for(1).await;
    stage.script.forget(&job(1, 2));
    stage.awake_for(29).await;
    assert_eq!(
        stage.launched().await[0].launches,
        2,
        "the grace began anew"
    );
    stage.awake_for(5).await;
    let [run] = stage.launched().await.try_into().unwrap();
    assert_eq!((run.launches, run.attempts), (3, 2), "at no cost");
}

#[tokio::test]
async fn an_engine_that_is_away_for_minutes_changes_nothing() {
    let settings = Settings {
        runs_at_once: 3,
        attempts: 1,
        ..Settings::default()
    };
    let mut stage = remote(settings).await;
    stage.look().await;
    stage.begin().await;
    add_run(&stage.app.database, "pending").await;
    stage.script.state().begins = Some(pending("job 813"));
    stage.look().await;
    stage.script.state().away = Some("no route to the controller".into());
    add_run(&stage.app.database, "new").await;
    stage.alive_for(60).await;
    // Not even a silent worker is given up as long as nothing is known.
    stage.awake_for(120).await;
    let launched = stage.launched().await;
    let held: Vec<_> = launched.iter().map(Launched::held).collect();
    assert_eq!(held, [(1, 1), (2, 1)]);
    assert_eq!(stage.script.state().starts, 2, "nothing is started");
    assert!(stage.script.state().stopped.is_empty());
    let failed = stage.app.database.run_by_id(3).await.unwrap().unwrap();
    assert_eq!(failed.status, "CREATED");
    // It comes back, and the worker too.
    stage.script.state().away = None;
    stage.app.leases.renew((1, 1));
    stage.look().await;
    assert_eq!(stage.launched().await.len(), 3);
    let log = stage.log().await;
    assert!(!log.contains("lost"), "{log}");
}

#[tokio::test]
async fn a_server_that_is_started_again_finds_its_jobs_by_their_names() {
    let settings = Settings {
        runs_at_once: 3,
        attempts: 1,
        ..Settings::default()
    };
    let mut stage = remote(settings).await;
    add_run(&stage.app.database, "pending").await;
    add_run(&stage.app.database, "unknown").await;
    stage.look().await;
    let orders: Vec<String> = {
        let state = stage.script.state();
        state
            .orders
            .iter()
            .map(|order| order.name.clone())
            .collect()
    };
    assert_eq!(orders, [job(1, 1), job(2, 1), job(3, 1)]);
    // The first job's worker has called, the second waits, and of the third the
    // engine has never heard. One is left of a run that nobody knows any more.
    let state = std::mem::take(&mut *stage.script.state());
    stage.script.state().is_remote = true;
    stage.script.state().orders = vec![state.orders[0].clone()];
    stage.begin().await;
    stage.script.set(&job(1, 1), JobState::Running);
    stage.script.set(&job(2, 1), pending("job 813"));
    stage.script.set(&job(9, 4), pending("job 7"));
    stage.restart().await;
    stage.alive_for(3).await;
    assert_eq!(stage.script.state().stopped, [job(9, 4)]);
    let held = async |stage: &Stage| {
        let launched = stage.launched().await;
        launched.iter().map(Launched::held).collect::<Vec<_>>()
    };
    assert_eq!(held(&stage).await, [(1, 1), (2, 1), (3, 1)]);
    stage.alive_for(20).await;
    assert_eq!(
        stage.script.state().starts,
        0,
        "its submission may be under way"
    );
    stage.alive_for(12).await;
    assert_eq!(held(&stage).await, [(1, 1), (2, 1), (3, 2)]);
    let run = stage.app.database.run_by_id(3).await.unwrap().unwrap();
    assert_eq!(run.attempts, 1, "it cost none");
    // The worker that was adopted and is lost while no server looked costs none.
    stage.script.forget(&job(1, 1));
    stage.restart().await;
    stage.awake_for(35).await;
    let run = stage.run().await;
    assert_eq!(
        (run.launches, run.attempts, run.status.as_str()),
        (2, 1, "STARTED")
    );
}

#[tokio::test]
async fn an_order_that_is_refused_fails_the_run_and_says_why() {
    let mut stage = remote(Settings::default()).await;
    let reason = "no machine has 64 graphics processors".to_owned();
    stage
        .script
        .state()
        .refusals
        .push_back(StartError::Refused(reason));
    stage.look().await;
    let run = stage.run().await;
    assert_eq!(run.status, "FAILED");
    assert_eq!(
        run.noted,
        "Slurm refuses the job: no machine has 64 graphics processors"
    );
    stage.awake_for(5).await;
    assert_eq!(stage.script.state().starts, 1);
}

#[tokio::test]
async fn a_start_that_failed_and_worked_all_the_same_leaves_no_job() {
    let mut stage = remote(one_attempt()).await;
    stage.script.fail_starts(1);
    stage.look().await;
    assert!(stage.launched().await.is_empty());
    // The answer was lost, and the job is there: its worker gets nothing.
    stage.script.set(&job(1, 1), JobState::Running);
    stage.awake_for(13).await;
    assert_eq!(stage.script.state().stopped, [job(1, 1)]);
    assert_eq!(stage.script.jobs(), [job(1, 2)]);
    assert_eq!(stage.begin().await.attempts, 1);
}

#[tokio::test]
async fn a_worker_that_the_engine_ends_pauses_and_costs_no_attempt() {
    let mut stage = remote(one_attempt()).await;
    for launch in 1..=4 {
        stage.look().await;
        let run = stage.begin().await;
        assert_eq!((run.launches, run.attempts), (launch, 1));
        // What the worker tells when it got SIGTERM and has made its checkpoint.
        let paused = Release {
            counts: false,
            worked: Duration::ZERO,
            line: None,
        };
        let released = stage.app.database.release(run.held(), paused, || true);
        assert!(released.await.unwrap());
        let ended = JobState::Ended("preempted".into());
        stage.script.set(&run.job, ended);
    }
    // An engine that puts the job back itself: its start token is spent.
    stage.look().await;
    let run = stage.begin().await;
    stage.script.set(&run.job, pending("requeued"));
    stage.awake_for(29).await;
    assert_eq!(stage.launched().await[0].launches, 5);
    stage.awake_for(5).await;
    let run = stage.run().await;
    assert_eq!(
        (run.launches, run.attempts),
        (6, 1),
        "{}",
        stage.log().await
    );
    assert!(stage.script.state().stopped.contains(&job(1, 5)));
}

#[tokio::test]
async fn a_job_that_runs_and_never_calls_is_given_up_at_no_cost() {
    let mut stage = remote(one_attempt()).await;
    stage.look().await;
    stage.awake_for(15 * 60 - 2).await;
    assert_eq!(stage.launched().await[0].launches, 1);
    stage.awake_for(16).await;
    let run = stage.run().await;
    assert_eq!((run.launches, run.attempts), (2, 1));
    let log = stage.log().await;
    assert!(
        log.contains("has not called http://127.0.0.1:1 for 900 seconds"),
        "{log}"
    );
}

#[tokio::test]
async fn two_servers_on_one_cluster_leave_each_others_jobs_alone() {
    let mut stage = remote(Settings::default()).await;
    let others = ["ft-99999999-1-1", "ft-0a1b2c3-1-1", "training"];
    for other in others {
        stage.script.set(other, JobState::Running);
    }
    stage.look().await;
    stage.begin().await;
    stage.alive_for(60).await;
    assert!(stage.script.state().stopped.is_empty());
    assert_eq!(stage.script.jobs().len(), 4, "and they take no place");
    stage.app.begin_to_stop().await;
    end_all(&stage.app, &engine(&stage.script), true).await;
    assert_eq!(stage.script.state().stopped, [job(1, 1)]);
}

#[tokio::test]
async fn a_job_that_waits_is_left_for_the_next_server() {
    let mut stage = remote(Settings::default()).await;
    stage.script.state().begins = Some(pending("job 812"));
    stage.look().await;
    stage.app.begin_to_stop().await;
    assert!(!stage.queue.look().await.unwrap(), "nothing is waited for");
    end_all(&stage.app, &engine(&stage.script), false).await;
    assert_eq!(stage.script.jobs(), [job(1, 1)]);
    let [run] = stage.launched().await.try_into().unwrap();
    assert!(!run.stopped);
    // A folder that goes away has no next server.
    end_all(&stage.app, &engine(&stage.script), true).await;
    assert!(stage.script.jobs().is_empty());
}

#[tokio::test]
async fn an_order_says_what_the_run_asks_for() {
    let settings = Settings {
        max_run_memory: Some(1 << 30),
        workers: Workers {
            cpus: Some(2),
            gpus: Some(1),
            max_cpus: Some(4),
            ..Workers::default()
        },
        ..Settings::default()
    };
    let mut stage = remote(settings).await;
    let disturb = "UPDATE runs SET device = 'gpu', cpus = 8 WHERE id = 1";
    stage.app.database.disturb(disturb).await;
    stage.look().await;
    let order = stage.script.state().orders[0].clone();
    let wanted = Resources {
        cpus: Some(4),
        gpus: Some(1),
        memory: Some(1 << 30),
    };
    assert_eq!(order.resources, wanted);
    assert_eq!(order.name, job(1, 1));
    let labels: Vec<&str> = order.labels.values().map(String::as_str).collect();
    assert_eq!(labels, ["e", "r", "u"], "experiment, run, user");
    // A run on the main processor asks for no other.
    let disturb = "UPDATE runs SET device = 'cpu', cpus = NULL, job = NULL WHERE id = 1";
    stage.app.database.disturb(disturb).await;
    stage.script.state().jobs.clear();
    stage.look().await;
    let order = stage.script.state().orders[1].clone();
    assert_eq!(
        (order.resources.cpus, order.resources.gpus),
        (Some(2), None)
    );
}
