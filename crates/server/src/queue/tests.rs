//! The queue, look by look, on a clock that the tests move.

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use futures_util::future::BoxFuture;

use super::*;
use crate::{
    database::{Database, NewRunRow, Scope, in_memory},
    settings::Settings,
    space::Space,
    store::Store,
};

/// Workers that do nothing. Those in `failing` can't be started.
#[derive(Default)]
struct Fake {
    failing: AtomicUsize,
    panics: AtomicBool,
    started: AtomicUsize,
    running: Mutex<Vec<String>>,
}

impl Fake {
    fn jobs(&self) -> std::sync::MutexGuard<'_, Vec<String>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Launcher for Arc<Fake> {
    fn start(&self, _: WorkOrder) -> BoxFuture<'_, Result<String, String>> {
        let may_start = self
            .failing
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| {
                left.checked_sub(1)
            })
            .is_err();
        let number = self.started.fetch_add(1, Ordering::SeqCst);
        let started = match may_start {
            true => {
                self.jobs().push(format!("job-{number}"));
                Ok(format!("job-{number}"))
            }
            false => Err("the cluster is full".to_owned()),
        };
        Box::pin(std::future::ready(started))
    }

    fn kill<'a>(&'a self, job: &'a str) -> BoxFuture<'a, Result<(), String>> {
        self.jobs().retain(|running| running != job);
        Box::pin(std::future::ready(Ok(())))
    }

    fn running(&self) -> BoxFuture<'_, Result<Vec<String>, String>> {
        assert!(!self.panics.load(Ordering::SeqCst), "as this test wants it");
        let running = self.jobs().clone();
        Box::pin(std::future::ready(Ok(running)))
    }

    fn take_over<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<bool, String>> {
        Box::pin(std::future::ready(Ok(true)))
    }
}

struct Stage {
    app: Arc<App>,
    fake: Arc<Fake>,
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
    let app = App::new(
        db,
        store,
        settings,
        space,
        [0; 32],
        &crate::secret::new_id(),
    );
    let fake = Arc::new(Fake::default());
    let launcher: Arc<dyn Launcher> = Arc::new(Arc::clone(&fake));
    Stage {
        queue: Queue::new(Arc::clone(&app), launcher, "http://127.0.0.1:1".into()),
        app,
        fake,
        _folder: folder,
    }
}

impl Stage {
    async fn look(&mut self) {
        self.queue.look().await.unwrap();
    }

    async fn launched(&self) -> Vec<Launched> {
        self.app.database.launched().await.unwrap()
    }

    /// The worker of the only launched run asks for its job.
    async fn begin(&self) -> Launched {
        let [run] = self.launched().await.try_into().unwrap();
        self.app.leases.begin(run.held());
        run
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
    assert_eq!(*stage.fake.jobs(), ["job-1"]);
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
    let settings = Settings {
        attempts: 1,
        ..Settings::default()
    };
    let mut stage = stage(settings).await;
    stage.fake.failing.store(5, Ordering::SeqCst);
    stage.look().await;
    assert_eq!(stage.fake.started.load(Ordering::SeqCst), 1);
    // Not again before the pause is over: 1, 2, 4, 8 and 16 seconds.
    stage.look().await;
    assert_eq!(stage.fake.started.load(Ordering::SeqCst), 1);
    stage.awake_for(32).await;
    assert_eq!(stage.fake.started.load(Ordering::SeqCst), 6);
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
    let settings = Settings {
        attempts: 1,
        ..Settings::default()
    };
    let mut stage = stage(settings).await;
    for _ in 0..4 {
        stage.awake_for(20).await;
        stage.fake.jobs().clear();
    }
    stage.awake_for(30).await;
    let run = stage.begin().await;
    assert_eq!(run.attempts, 1);
    assert!(run.launches > 3, "{run:?}");
    // A run whose workers never get to work does not stop the others.
    add_run(&stage.app.database, "other").await;
    stage.fake.jobs().clear();
    stage.app.leases.grant(run.held(), false);
    stage.awake_for(12).await;
    let launched = stage.launched().await;
    assert_eq!(launched[0].id, 2, "{launched:?}");
}

#[tokio::test]
async fn what_ends_while_the_server_stops_costs_no_attempt() {
    let settings = Settings {
        attempts: 1,
        ..Settings::default()
    };
    let mut stage = stage(settings).await;
    stage.look().await;
    stage.begin().await;
    stage.app.begin_to_stop().await;
    stage.fake.jobs().clear();
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
    end_all(&stage.app, &stage.fake).await;
    assert!(stage.fake.jobs().is_empty());
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
    stage.fake.jobs().clear();
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
    stage.queue.take_over(false).await.unwrap();
    assert_eq!(stage.launched().await.len(), 1);
    stage.queue.take_over(true).await.unwrap();
    assert!(stage.launched().await.is_empty() && stage.fake.jobs().is_empty());
    stage.look().await;
    let [again] = stage.launched().await.try_into().unwrap();
    assert_eq!((again.attempts, again.launches), (run.attempts, 2));
}

#[tokio::test]
async fn a_queue_that_panics_is_reported_and_started_again() {
    let stage = stage(Settings::default()).await;
    let Stage { app, fake, .. } = &stage;
    fake.panics.store(true, Ordering::SeqCst);
    let launcher: Arc<dyn Launcher> = Arc::new(Arc::clone(fake));
    let queue = serve(
        Arc::clone(app),
        launcher,
        "http://127.0.0.1:1".into(),
        false,
    );
    let queue = tokio::spawn(queue);
    let until = async |is_so: &dyn Fn() -> bool| {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    until(&|| app.queue.problem().is_some()).await;
    let problem = app.queue.problem().unwrap();
    assert!(problem.contains("it panicked"), "{problem}");
    fake.panics.store(false, Ordering::SeqCst);
    until(&|| app.queue.problem().is_none()).await;
    until(&|| fake.started.load(Ordering::SeqCst) == 1).await;
    queue.abort();
}
