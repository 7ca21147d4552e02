//! The worker: carries out one run, and speaks to the server over HTTP with a
//! token that is good for this run alone. It makes that token itself: the one that
//! it was started with is good for its first call only.
//!
//! Where it is a process of its own, it takes SIGINT and SIGTERM as the order to
//! make a checkpoint and pause, and closes itself off from the machine's other
//! files once it has its job.

mod cache;
mod calls;
mod contents;
mod events;
mod isolation;
mod limits;
mod start;
mod tls;
mod trackers;
mod variables;

use std::{
    io::BufReader,
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use finetuner_engine::{
    Error as EngineError,
    data::{DataName, Documents},
    job::{self, Interruption, Observer, Setting},
    source::{HubRules, hub_cache, open_artifact},
    synthesis::{SynthesisPlan, synthesize},
    train::Position,
};
use finetuner_protocol::{
    Config, Document, DocumentReader, Event, Job, LAST_CHECKPOINT, Level, MODEL_ARTIFACT, Outcome,
    RunConfig,
};
use serde::Deserialize;
use tempfile::NamedTempFile;
use tokio::{
    runtime::{Builder, Handle, Runtime},
    sync::{mpsc, oneshot},
};

use self::{
    cache::Cache,
    calls::{CallError, Server},
    contents::Contents,
    isolation::Closed,
    limits::Limits,
    tls::Authorities,
    trackers::{End, Environment, Tracked, Trackers},
};
use crate::pictures::Pictures;

pub(crate) use start::token as start_token;
pub(crate) use variables::*;

/// The start of that name where none is given.
pub(crate) const ANY_FOLDER: &str = "finetuner-run-";

/// How often a long transfer looks whether the run was interrupted.
const LOOK: Duration = Duration::from_millis(100);

/// Where a worker runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// In a thread of another program, which it leaves as it is.
    Thread,
    /// In a process of its own.
    Process,
}

/// Carries out the run that `start_token` is good for. The server is told how it
/// ended; an error is what could not be told. The name of its temporary folder
/// begins with `folder`. The run stops when `stop` is set.
pub(crate) fn run(
    url: &str,
    start_token: String,
    folder: &str,
    stop: Arc<AtomicBool>,
    place: Place,
) -> Result<(), String> {
    // A thread of another program is not what that program's environment is for.
    let (authorities, cache) = match place {
        Place::Process => (Authorities::of_this_process()?, Cache::of_this_process()),
        Place::Thread => (Authorities::default(), Ok(None)),
    };
    let server = start::exchange(url, start_token, &authorities)?;
    let signals = Arc::new(Signals {
        stop,
        ..Signals::default()
    });
    let folder = tempfile::Builder::new().prefix(folder).tempdir();
    let folder = folder.map_err(|e| format!("no temporary folder can be made: {e}"))?;
    let job = ask_for_job(&server)?;
    let mut notes = Vec::new();
    let cache = cache.unwrap_or_else(|reason| {
        let words = format!("This machine's cache can't be used, contents are fetched: {reason}");
        notes.push((Level::Warning, words));
        None
    });
    if place == Place::Process {
        limits::tell_the_system(&job.rules)?;
        let hub = hub_cache();
        // It must be there before it can be allowed.
        let _ = std::fs::create_dir_all(&hub);
        let mut caches = vec![hub.as_path()];
        caches.extend(cache.as_ref().map(Cache::folder));
        if let Closed::Not(reason) =
            isolation::close_in(&job.rules.local_models, folder.path(), &caches)
        {
            let words = format!(
                "The worker can read all files of its user, the server's data among them: {reason}"
            );
            notes.push((Level::Debug, words));
        }
    }
    // Its threads are closed in as well.
    let runtime = runtime()?;
    if place == Place::Process {
        runtime.spawn(pause_when_told(Arc::clone(&signals)));
    }
    let files = Files {
        folder: folder.path(),
        authorities,
        cache,
    };
    carry_out_and_tell(&job, files, &server, signals, &runtime, place, notes)
}

/// Where a worker's files are, and come from.
struct Files<'a> {
    /// Temporary ones.
    folder: &'a Path,
    /// Trusted where contents come from.
    authorities: Authorities,
    cache: Option<Cache>,
}

fn runtime() -> Result<Runtime, String> {
    let built = Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build();
    built.map_err(|e| e.to_string())
}

/// Asks for the job, before this process has any thread: what closes it in
/// holds for threads that are started later.
fn ask_for_job(server: &Server) -> Result<Job, String> {
    let runtime = Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|e| e.to_string())?;
    runtime.block_on(async {
        match server.json("job").await {
            Err(refused @ CallError::Refused(..)) => {
                let reason = format!("the worker could not get its job: {refused}");
                tell(server, &Outcome::Failed { reason }).await?;
                Err(refused.to_string())
            }
            other => other.map_err(|e: CallError| e.to_string()),
        }
    })
}

/// Tells how the run ended. Where the server does not take that, it is told
/// that, so that the run's log says it.
async fn tell(server: &Server, outcome: &Outcome) -> Result<(), String> {
    let send = async |outcome: &Outcome| server.send(|| server.post("outcome").json(outcome)).await;
    match send(outcome).await {
        Ok(_) => Ok(()),
        Err(refused @ CallError::Refused(..)) => {
            let reason = format!("the end of the run was not taken: {refused}");
            let told = send(&Outcome::Failed { reason }).await;
            told.map(drop).map_err(|e| e.to_string())
        }
        Err(error) => Err(error.to_string()),
    }
}

fn carry_out_and_tell(
    job: &Job,
    files: Files<'_>,
    server: &Server,
    signals: Arc<Signals>,
    runtime: &Runtime,
    place: Place,
    notes: Vec<(Level, String)>,
) -> Result<(), String> {
    let folder = files.folder;
    let (events, received) = mpsc::unbounded_channel();
    let reports = runtime.spawn(events::report(
        server.clone(),
        received,
        Arc::clone(&signals),
        Limits::of(&job.rules, folder),
        Duration::from_secs_f64(job.rules.heartbeat_seconds.clamp(0.01, 60.0)),
        place,
    ));
    let config: Result<RunConfig, _> = serde_json::from_value(job.config.clone());
    let trackers = config.as_ref().map(|config| {
        let tracked = Tracked {
            config,
            run: &job.run,
            private: job.rules.private_addresses,
        };
        let environment = Environment::of_this_process();
        Trackers::of_run(&tracked, &environment, runtime.handle(), || {
            let events = events.clone();
            Box::new(move |level, message| {
                let _ = events.send(events::Item::Event(Event::Log { level, message }));
            })
        })
    });
    let mut follower = Follower {
        trackers: trackers.unwrap_or_default(),
        events,
        signals: Arc::clone(&signals),
        runtime,
        server,
        every: Duration::from_secs_f64(job.rules.checkpoint_seconds.clamp(0.0, 1e9)),
        last: Instant::now(),
        memory_limit: job.rules.max_memory,
    };
    for (level, message) in notes {
        follower.event(Event::Log { level, message });
    }
    let log = follower.events.clone();
    let warn = move |message| {
        let level = Level::Warning;
        let _ = log.send(events::Item::Event(Event::Log { level, message }));
    };
    let contents = Contents::new(server.clone(), files.authorities, files.cache, warn);
    let carried_out = carry_out(job, folder, &contents, &mut follower);
    // The reports end when nobody can send any more.
    drop(contents);
    let outcome = match carried_out {
        Ok(()) => Outcome::Finished,
        Err(EngineError::Interrupted) => match signals.failure() {
            Some(reason) => Outcome::Failed { reason },
            // From the last checkpoint that was kept, or from the beginning.
            None if signals.is_pausing() && !signals.is_stopping() => Outcome::Paused,
            // Whoever has stopped us knows why.
            None => return Ok(()),
        },
        Err(error) => Outcome::Failed {
            reason: error.to_string(),
        },
    };
    // Ends the reports, all of which must be there before the outcome is.
    let trackers = std::mem::take(&mut follower.trackers);
    drop(follower);
    runtime.block_on(async {
        trackers
            .end(match outcome {
                Outcome::Finished => End::Finished,
                Outcome::Failed { .. } => End::Failed,
                _ => End::Left,
            })
            .await;
        reports.await.map_err(|e| e.to_string())??;
        tell(server, &outcome).await
    })
}

/// Takes SIGINT and SIGTERM as the order to pause.
#[cfg(unix)]
async fn pause_when_told(signals: Arc<Signals>) {
    use tokio::signal::unix::{SignalKind, signal};

    // A file that is larger than allowed is an error, not the process's end.
    #[cfg(target_os = "linux")]
    let _too_large = signal(SignalKind::from_raw(rustix::process::Signal::XFSZ.as_raw()));
    let (interrupt, terminate) = (
        signal(SignalKind::interrupt()),
        signal(SignalKind::terminate()),
    );
    let (Ok(mut interrupt), Ok(mut terminate)) = (interrupt, terminate) else {
        return;
    };
    loop {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        signals.pause();
    }
}

#[cfg(not(unix))]
async fn pause_when_told(signals: Arc<Signals>) {
    if tokio::signal::ctrl_c().await.is_ok() {
        signals.pause();
    }
}

fn carry_out(
    job: &Job,
    folder: &Path,
    contents: &Contents,
    follower: &mut Follower<'_>,
) -> Result<(), EngineError> {
    let (runtime, server) = (follower.runtime, follower.server);
    let checkpoint = match job.has_checkpoint {
        true => {
            let path = folder.join("begin.zip");
            let fetched = follower.transfer(contents.fetch(LAST_CHECKPOINT, &path))?;
            fetched.map_err(|e| not_fetched("the checkpoint", &e))?;
            Some(path)
        }
        false => None,
    };
    let work = Work::of(job)?;
    let artifact = match &work {
        Work::Training(config) => config.model.artifact.as_ref(),
        Work::Synthesis(_) => None,
    };
    let earlier = match artifact {
        None => None,
        Some(_) => {
            let (zip, opened) = (folder.join("earlier.zip"), folder.join("earlier"));
            let fetched = follower.transfer(contents.fetch(MODEL_ARTIFACT, &zip))?;
            fetched.map_err(|e| not_fetched("the model to start from", &e))?;
            open_artifact(&zip, &opened)?;
            // Only its weights are needed any more.
            let _ = std::fs::remove_file(&zip);
            Some(opened)
        }
    };
    let pictures = Pictures::new(job.rules.private_addresses).map_err(EngineError::Data)?;
    let signals = Arc::clone(&follower.signals);
    let read = |name: &str| {
        let shown = work.data_name(name).to_string();
        let bad = |reason: String| EngineError::Data(format!("{shown}: {reason}"));
        let file = NamedTempFile::new_in(folder).map_err(|source| EngineError::Io {
            path: folder.to_owned(),
            source,
        })?;
        let fetched = signals.unless_interrupted(contents.fetch(name, file.path()));
        let fetched = runtime.block_on(fetched)?;
        fetched.map_err(|e| not_fetched(&format!("the data set {shown}"), &e))?;
        let documents = FetchedDocuments {
            reader: DocumentReader::new(BufReader::new(file)).map_err(|e| bad(e.to_string()))?,
            shown,
            pictures: pictures.clone(),
            runtime: runtime.handle().clone(),
            signals: Arc::clone(&signals),
            ready: Vec::new().into_iter(),
        };
        Ok(Box::new(documents) as Documents)
    };
    let setting = Setting {
        device: &job.device,
        local_models: &job.rules.local_models,
        hub: hub_rules(job),
        earlier: earlier.as_deref(),
        read_data: &read,
        folder,
        checkpoint: checkpoint.as_deref(),
    };
    let made = match &work {
        Work::Training(config) => job::run(config, &setting, follower)?.artifact,
        Work::Synthesis(plan) => synthesize(plan, &setting, follower)?.file,
    };
    follower.event(Event::Log {
        level: Level::Info,
        message: "Pushing artifact ...".to_owned(),
    });
    let pushed = runtime.block_on(server.upload("artifact", &[], &made));
    pushed.map_err(|reason| {
        let reason = format!("the artifact can't be pushed: {reason}");
        // A worker that was replaced has nothing to say any more.
        match follower.signals.is_stopping() {
            true => EngineError::Interrupted,
            false => EngineError::Transfer(reason),
        }
    })
}

fn hub_rules(job: &Job) -> HubRules {
    HubRules {
        max_bytes: job.rules.max_hub_download,
        token: None,
    }
}

/// The work of a run.
enum Work {
    Training(Box<RunConfig>),
    Synthesis(Box<SynthesisPlan>),
}

impl Work {
    fn of(job: &Job) -> Result<Self, EngineError> {
        let bad = |e: serde_json::Error| {
            EngineError::Data(format!("the configuration can't be read: {e}"))
        };
        let config = Config::deserialize(&job.config).map_err(bad)?;
        if let Some(config) = config.synthesis() {
            let plan = SynthesisPlan::new(config, &job.rules.local_models, &hub_rules(job))?;
            return Ok(Self::Synthesis(Box::new(plan)));
        }
        // Read again, so that an error says which field is at fault.
        let config = RunConfig::deserialize(&job.config).map_err(bad)?;
        Ok(Self::Training(Box::new(config)))
    }

    /// A data set, as messages name it.
    fn data_name<'a>(&self, name: &'a str) -> DataName<'a> {
        match self {
            Self::Training(config) => DataName::of_run(config, name),
            Self::Synthesis(plan) => plan.data_name(name),
        }
    }
}

fn not_fetched(what: &str, error: &CallError) -> EngineError {
    EngineError::Transfer(format!("{what} can't be fetched: {error}"))
}

/// Documents whose pictures are fetched together, and are then in memory.
const TOGETHER: usize = 32;

/// A data set that lies in a file, its pictures fetched where it names them.
struct FetchedDocuments {
    /// The data set, as messages name it.
    shown: String,
    reader: DocumentReader<BufReader<NamedTempFile>>,
    pictures: Pictures,
    runtime: Handle,
    signals: Arc<Signals>,
    ready: std::vec::IntoIter<Document>,
}

impl FetchedDocuments {
    fn read_some(&mut self) -> Result<Vec<Document>, EngineError> {
        let bad = |reason: String| EngineError::Data(format!("{}: {reason}", self.shown));
        let some: Result<Vec<_>, _> = self.reader.by_ref().take(TOGETHER).collect();
        let mut some = some.map_err(|e| bad(e.to_string()))?;
        let fetched = self.pictures.fetch_all(&mut some);
        let fetched = self.signals.unless_interrupted(fetched);
        self.runtime.block_on(fetched)?.map_err(bad)?;
        Ok(some)
    }
}

impl Iterator for FetchedDocuments {
    type Item = Result<Document, EngineError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ready.len() == 0 {
            match self.read_some() {
                Ok(some) => self.ready = some.into_iter(),
                Err(error) => return Some(Err(error)),
            }
        }
        self.ready.next().map(Ok)
    }
}

/// What tells a run to stop.
#[derive(Default)]
struct Signals {
    /// For good.
    stop: Arc<AtomicBool>,
    /// To go on later.
    pause: AtomicBool,
    /// With a failure, such as a limit that was passed.
    failure: Mutex<Option<String>>,
}

impl Signals {
    fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    fn is_stopping(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn pause(&self) {
        self.pause.store(true, Ordering::Relaxed);
    }

    fn is_pausing(&self) -> bool {
        self.pause.load(Ordering::Relaxed)
    }

    fn fail(&self, reason: String) {
        let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        failure.get_or_insert(reason);
    }

    fn failure(&self) -> Option<String> {
        let failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        failure.clone()
    }

    fn interruption(&self) -> Option<Interruption> {
        if self.is_stopping() || self.failure().is_some() {
            return Some(Interruption::Stop);
        }
        self.is_pausing().then_some(Interruption::Pause)
    }

    /// Carries out something long, unless the run is interrupted first.
    async fn unless_interrupted<T>(&self, work: impl Future<Output = T>) -> Result<T, EngineError> {
        let interrupted = async {
            while self.interruption().is_none() {
                tokio::time::sleep(LOOK).await;
            }
        };
        tokio::select! {
            biased;
            () = interrupted => Err(EngineError::Interrupted),
            done = work => Ok(done),
        }
    }
}

/// Follows the run: takes its events and keeps its checkpoints.
struct Follower<'a> {
    trackers: Trackers,
    events: mpsc::UnboundedSender<events::Item>,
    signals: Arc<Signals>,
    runtime: &'a Runtime,
    server: &'a Server,
    /// Between two checkpoints.
    every: Duration,
    /// When the last one was done.
    last: Instant,
    /// The most bytes of memory that the worker may hold.
    memory_limit: Option<u64>,
}

impl Follower<'_> {
    /// Waits for a transfer, unless the run is interrupted first.
    fn transfer<T>(&self, work: impl Future<Output = T>) -> Result<T, EngineError> {
        self.runtime.block_on(self.signals.unless_interrupted(work))
    }
}

impl Observer for Follower<'_> {
    fn event(&mut self, event: Event) {
        self.trackers.event(&event);
        // The receiver is gone only where the server is, which also stops us.
        let _ = self.events.send(events::Item::Event(event));
    }

    fn memory_limit(&self) -> Option<u64> {
        self.memory_limit
    }

    fn interrupted(&self) -> Option<Interruption> {
        self.signals.interruption()
    }

    fn wants_checkpoint(&self) -> bool {
        self.last.elapsed() >= self.every
    }

    fn checkpoint(&mut self, file: &Path, at: Position) -> Result<(), String> {
        let position = [("epoch", at.epoch), ("step", at.step)];
        let begun = Instant::now();
        let (told, delivered) = oneshot::channel();
        let sent = self.runtime.block_on(async {
            // A run that goes on from here does not report these steps again.
            let asked = self.events.send(events::Item::Delivered(told)).is_ok();
            if !asked || delivered.await.is_err() {
                return Err("what came before it can't be reported".to_owned());
            }
            let sent = self.server.upload("checkpoint", &position, file).await;
            sent.map_err(|e| e.to_string())
        });
        // A large model must not spend its time on checkpoints.
        self.every = self.every.max(begun.elapsed() * 10);
        self.last = Instant::now();
        sent
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Seek, Write};

    use finetuner_protocol::DocumentArray;

    use super::*;

    fn fetched(bytes: &[u8], runtime: &Runtime) -> FetchedDocuments {
        let mut file = NamedTempFile::new().unwrap();
        file.write_all(bytes).unwrap();
        file.rewind().unwrap();
        FetchedDocuments {
            shown: "`train_data` (`shoes`)".to_owned(),
            reader: DocumentReader::new(BufReader::new(file)).unwrap(),
            pictures: Pictures::new(false).unwrap(),
            runtime: runtime.handle().clone(),
            signals: Arc::default(),
            ready: Vec::new().into_iter(),
        }
    }

    #[test]
    fn documents_come_in_their_order_and_a_cut_is_said_once() {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let all: Vec<Document> = (0..2 * TOGETHER + 3)
            .map(|n| Document::text(n.to_string()))
            .collect();
        let bytes = DocumentArray::from(all.clone()).to_bytes().unwrap();
        let read: Result<Vec<_>, _> = fetched(&bytes, &runtime).collect();
        assert_eq!(read.unwrap(), all);

        let cut = fetched(&bytes[..bytes.len() - 1], &runtime);
        let (good, bad): (Vec<_>, Vec<_>) = cut.partition(Result::is_ok);
        assert_eq!((good.len(), bad.len()), (2 * TOGETHER, 1));
        let reason = bad[0].as_ref().unwrap_err().to_string();
        assert!(
            reason.contains("`train_data` (`shoes`): the stream of documents ends early"),
            "{reason}"
        );
    }

    #[test]
    fn a_full_disk_is_not_taken_for_bad_data() {
        let full = CallError::File("/tmp/x: No space left on device".to_owned());
        assert_eq!(
            not_fetched("the data set `shoes`", &full).to_string(),
            "the data set `shoes` can't be fetched: /tmp/x: No space left on device"
        );
    }
}
