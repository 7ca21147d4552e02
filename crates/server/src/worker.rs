//! The worker: carries out one run and talks to the server over HTTP.
//!
//! Its token is valid for this run only. The worker generates it, because the
//! start token that it was launched with is valid for the first call only.
//!
//! A worker in its own process treats SIGINT and SIGTERM as a request to write
//! a checkpoint and pause, from its start on. Once it has its job, it gives up
//! access to the machine's other files.

mod cache;
mod calls;
mod contents;
mod documents;
mod events;
mod examples;
mod follower;
mod isolation;
mod limits;
mod place;
mod signals;
mod start;
mod tls;
mod trackers;
mod variables;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use finetuner_engine::{
    Error as EngineError,
    data::{DataName, Documents},
    job::{self, Observer, Setting},
    source::{HubRules, hub_cache, open_artifact},
    synthesis::{SynthesisPlan, synthesize},
};
use finetuner_protocol::{
    Config, Event, Level, RunConfig,
    worker::{Job, LAST_CHECKPOINT, MODEL_ARTIFACT, Outcome},
};
use serde::Deserialize;
use tempfile::NamedTempFile;
use tokio::{
    runtime::{Builder, Runtime},
    sync::mpsc,
};

use self::{
    cache::Cache,
    calls::{CallError, Server},
    contents::Contents,
    documents::FetchedDocuments,
    follower::Follower,
    limits::Limits,
    trackers::{End, Environment, Tracked, Trackers},
};
use crate::{images::Images, local_paths::LocalPaths, requests::Authorities};

pub(crate) use place::Place;
pub(crate) use signals::Signals;
pub(crate) use start::token as start_token;
pub(crate) use tls::authorities_of_this_process;
pub(crate) use variables::*;

/// Default prefix of the temporary folder's name.
pub(crate) const DEFAULT_FOLDER_PREFIX: &str = "finetuner-run-";

/// Carries out the run of `start_token` and reports its outcome to the server.
///
/// The name of its temporary folder begins with `folder`. `authorities` are
/// trusted in addition to those of the system.
///
/// # Errors
/// The reason why the outcome could not be reported.
pub(crate) fn run(
    url: &str,
    start_token: String,
    folder: &str,
    authorities: Authorities,
    signals: Signals,
    place: Place,
) -> Result<(), String> {
    // The environment of another program is not meant for this worker.
    let cache = match place {
        Place::Process => Cache::of_this_process(),
        Place::Thread => Ok(None),
    };
    let signals = Arc::new(signals);
    let server = start::exchange(url, start_token, &authorities, &signals)?;
    let folder = tempfile::Builder::new().prefix(folder).tempdir();
    let folder = folder.map_err(|e| format!("the temporary folder can't be created: {e}"))?;
    let Some(job) = fetch_job(&server, &signals)? else {
        return Ok(());
    };
    let mut notes = Vec::new();
    let cache = cache.unwrap_or_else(|reason| {
        let words =
            format!("This machine's cache can't be used; data is fetched instead: {reason}");
        notes.push((Level::Warning, words));
        None
    });
    if place == Place::Process {
        limits::set_process_limits(&job.rules)?;
        let hub = hub_cache();
        // The folder must exist before access to it can be allowed.
        let _ = std::fs::create_dir_all(&hub);
        let mut caches = vec![hub.as_path()];
        caches.extend(cache.as_ref().map(Cache::folder));
        if let Err(reason) =
            isolation::restrict_files(&job.rules.local_models, folder.path(), &caches)
        {
            let words = format!(
                "The worker can read all files of its user, including the server's data if they \
                 have the same owner: {reason}"
            );
            notes.push((Level::Debug, words));
        }
    }
    // Created after the restriction, so that it applies to the runtime's threads.
    let runtime = runtime()?;
    #[cfg(not(unix))]
    if place == Place::Process {
        runtime.spawn(pause_when_told(Arc::clone(&signals)));
    }
    let files = Files {
        folder: folder.path(),
        authorities,
        cache,
    };
    run_and_report(&job, files, &server, signals, &runtime, place, notes)
}

/// The files of a worker and their sources.
struct Files<'a> {
    /// Temporary folder of the run.
    folder: &'a Path,
    /// Authorities that are trusted for fetching contents.
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

/// Asks the server for the job. Returns `None` if the worker is told to stop
/// first.
///
/// Runs before this process has other threads, because file restrictions apply
/// only to threads that start later.
fn fetch_job(server: &Server, signals: &Signals) -> Result<Option<Job>, String> {
    let runtime = Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|e| e.to_string())?;
    runtime.block_on(async {
        match signals.unless_interrupted(server.json("job")).await {
            Ok(Err(refused @ CallError::Refused(..))) => {
                let reason = format!("the worker could not fetch its job: {refused}");
                report_outcome(server, &Outcome::Failed { reason }).await?;
                Err(refused.to_string())
            }
            Ok(job) => job.map(Some).map_err(|e: CallError| e.to_string()),
            Err(_) if signals.is_stopping() => Ok(None),
            Err(_) => report_outcome(server, &Outcome::Paused)
                .await
                .map(|()| None),
        }
    })
}

/// Reports the run's outcome. If the server refuses it, reports that as the
/// failure, so that the run's log shows the reason.
async fn report_outcome(server: &Server, outcome: &Outcome) -> Result<(), String> {
    let send = async |outcome: &Outcome| server.send(|| server.post("outcome").json(outcome)).await;
    match send(outcome).await {
        Ok(_) => Ok(()),
        Err(refused @ CallError::Refused(..)) => {
            let reason = format!("the server did not accept the run's outcome: {refused}");
            let told = send(&Outcome::Failed { reason }).await;
            told.map(drop).map_err(|e| e.to_string())
        }
        Err(error) => Err(error.to_string()),
    }
}

fn run_and_report(
    job: &Job,
    files: Files<'_>,
    server: &Server,
    signals: Arc<Signals>,
    runtime: &Runtime,
    place: Place,
    notes: Vec<(Level, String)>,
) -> Result<(), String> {
    let folder = files.folder;
    let cache = std::env::var_os(WORKER_CACHE).map(PathBuf::from);
    let paths = [Some(folder.to_owned()), Some(hub_cache()), cache];
    let paths = LocalPaths::of(paths.into_iter().flatten());
    let (events, received) = mpsc::unbounded_channel();
    let reports = runtime.spawn(events::report(
        server.clone(),
        received,
        Arc::clone(&signals),
        Limits::of(&job.rules, folder),
        Duration::from_secs_f64(job.rules.heartbeat_seconds.clamp(0.01, 60.0)),
        place,
        paths.clone(),
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
    let carried_out = run_job(job, folder, &contents, &mut follower);
    // The reporting task ends when all senders are dropped.
    drop(contents);
    let outcome = match carried_out {
        Ok(()) => Outcome::Finished,
        Err(EngineError::Interrupted) => match signals.failure() {
            Some(reason) => Outcome::Failed { reason },
            // The run resumes from the last stored checkpoint, or from the beginning.
            None if signals.is_pausing() && !signals.is_stopping() => Outcome::Paused,
            // The server or the embedding program that stopped this worker knows the
            // reason.
            None => {
                if signals.is_over() {
                    let trackers = std::mem::take(&mut follower.trackers);
                    runtime.block_on(trackers.end(End::Cancelled));
                }
                return Ok(());
            }
        },
        Err(error) => Outcome::Failed {
            reason: paths.hide(&error.to_string()),
        },
    };
    // Dropping the follower ends the reports. All of them must arrive before the
    // outcome.
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
        report_outcome(server, &outcome).await
    })
}

/// Treats Ctrl-C as a request to pause.
#[cfg(not(unix))]
async fn pause_when_told(signals: Arc<Signals>) {
    if tokio::signal::ctrl_c().await.is_ok() {
        signals.pause();
    }
}

fn run_job(
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
            fetched.map_err(|e| fetch_error("the checkpoint", &e))?;
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
            fetched.map_err(|e| fetch_error("the model to start from", &e))?;
            open_artifact(&zip, &opened)?;
            // Only the unpacked weights are needed from now on.
            let _ = std::fs::remove_file(&zip);
            Some(opened)
        }
    };
    let images = Images::new(job.rules.private_addresses).map_err(EngineError::Data)?;
    let signals = Arc::clone(&follower.signals);
    let read = |name: &str| {
        let shown = work.data_name(name).to_string();
        let file = NamedTempFile::new_in(folder).map_err(|source| EngineError::Io {
            path: folder.to_owned(),
            source,
        })?;
        let fetched = signals.unless_interrupted(contents.fetch(name, file.path()));
        let fetched = runtime.block_on(fetched)?;
        fetched.map_err(|e| fetch_error(&format!("the data set {shown}"), &e))?;
        let documents = FetchedDocuments::new(
            file,
            shown,
            images.clone(),
            runtime.handle().clone(),
            Arc::clone(&signals),
        )?;
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
    let pushed = signals.unless_stopped(server.upload("artifact", &[], &made));
    runtime.block_on(pushed)?.map_err(|reason| {
        let reason = format!("the artifact can't be uploaded: {reason}");
        // A worker that was replaced reports nothing more.
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
        // Parsed again as the concrete type, so that an error names the field.
        let config = RunConfig::deserialize(&job.config).map_err(bad)?;
        Ok(Self::Training(Box::new(config)))
    }

    /// Returns the name of a data set for messages.
    fn data_name<'a>(&self, name: &'a str) -> DataName<'a> {
        match self {
            Self::Training(config) => DataName::of_run(config, name),
            Self::Synthesis(plan) => plan.data_name(name),
        }
    }
}

fn fetch_error(what: &str, error: &CallError) -> EngineError {
    EngineError::Transfer(format!("{what} can't be fetched: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_not_reported_as_bad_data() {
        let full = CallError::File("/tmp/x: No space left on device".to_owned());
        assert_eq!(
            fetch_error("the data set `shoes`", &full).to_string(),
            "the data set `shoes` can't be fetched: /tmp/x: No space left on device"
        );
    }
}
