//! How a worker is started. Every launcher starts the same worker;
//! the contract is no more than what a batch system such as Slurm or Ray Jobs
//! can do: start, kill, list what runs. Who has which run, how often it is
//! tried and how it ends is the server's own business.

use std::{
    collections::HashMap,
    process::Stdio,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use futures_util::future::BoxFuture;
use tokio::process::{Child, Command};

use crate::worker::{self, WORKER_TOKEN, WORKER_URL};

/// Makes a worker's allocator keep what is freed: a step needs the same large
/// buffers as the one before, and the system would clear each of them anew.
const KEEP_MEMORY: (&str, &str) = ("MIMALLOC_PURGE_DELAY", "-1");

/// What a worker must be told.
#[derive(Clone)]
pub struct WorkOrder {
    /// Where it finds the server, for `FINETUNER_WORKER_URL`.
    pub url: String,
    /// What it shows to the server, for `FINETUNER_WORKER_TOKEN`. Good for one
    /// run, until that run is given to another worker.
    pub token: String,
}

impl std::fmt::Debug for WorkOrder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WorkOrder")
            .field("url", &self.url)
            .finish_non_exhaustive()
    }
}

/// Starts workers, somewhere.
///
/// A launcher for a batch system runs `finetuner-server worker` there with the
/// two environment variables of the order, and gives back what the system calls
/// the job.
pub trait Launcher: Send + Sync {
    /// Starts a worker. Returns what it is called from now on.
    ///
    /// An error says why there can be none.
    fn start(&self, order: WorkOrder) -> BoxFuture<'_, Result<String, String>>;

    /// Ends a worker at once. One that has ended is no error.
    fn kill<'a>(&'a self, job: &'a str) -> BoxFuture<'a, Result<(), String>>;

    /// The workers that run, of those that this launcher has started since it
    /// was made.
    fn running(&self) -> BoxFuture<'_, Result<Vec<String>, String>>;

    /// How a worker that runs no more has ended, where that is known.
    fn end_of(&self, job: &str) -> Option<String> {
        let _ = job;
        None
    }
}

/// Workers in threads of this process.
#[derive(Default)]
pub(crate) struct Threads {
    started: AtomicU64,
    jobs: Mutex<HashMap<String, Arc<Thread>>>,
}

#[derive(Default)]
struct Thread {
    stop: Arc<AtomicBool>,
    /// How it has ended.
    ended: Mutex<Option<String>>,
}

impl Thread {
    fn ended(&self) -> Option<String> {
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        ended.clone()
    }
}

impl Threads {
    fn jobs(&self) -> std::sync::MutexGuard<'_, HashMap<String, Arc<Thread>>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Launcher for Threads {
    fn start(&self, order: WorkOrder) -> BoxFuture<'_, Result<String, String>> {
        let number = self.started.fetch_add(1, Ordering::Relaxed);
        let job = format!("thread-{number}");
        let thread = Arc::new(Thread::default());
        let work = Arc::clone(&thread);
        let spawned = std::thread::Builder::new()
            .name("finetuner-worker".to_owned())
            .spawn(move || {
                let stop = Arc::clone(&work.stop);
                let run = || worker::run(&order.url, order.token, stop);
                let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run));
                let end = match result {
                    Ok(Ok(())) => "it ended without saying how".to_owned(),
                    Ok(Err(reason)) => reason,
                    Err(_) => "it has panicked; this is a bug".to_owned(),
                };
                *work.ended.lock().unwrap_or_else(PoisonError::into_inner) = Some(end);
            });
        let started = spawned
            .map_err(|e| format!("no thread for the worker: {e}"))
            .map(|_| {
                self.jobs().insert(job.clone(), thread);
                job
            });
        Box::pin(std::future::ready(started))
    }

    /// A thread can't be ended from outside: it stops at its next step.
    fn kill<'a>(&'a self, job: &'a str) -> BoxFuture<'a, Result<(), String>> {
        if let Some(thread) = self.jobs().get(job) {
            thread.stop.store(true, Ordering::Relaxed);
        }
        Box::pin(std::future::ready(Ok(())))
    }

    fn running(&self) -> BoxFuture<'_, Result<Vec<String>, String>> {
        let jobs = self.jobs();
        let running = jobs.iter().filter(|(_, thread)| thread.ended().is_none());
        let running = running.map(|(job, _)| job.clone()).collect();
        Box::pin(std::future::ready(Ok(running)))
    }

    fn end_of(&self, job: &str) -> Option<String> {
        self.jobs().get(job)?.ended()
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        for thread in self.jobs().values() {
            thread.stop.store(true, Ordering::Relaxed);
        }
    }
}

/// Workers in child processes, `finetuner-server worker`. They live on where
/// this process is killed, and find the next server at the same address.
#[derive(Default)]
pub(crate) struct Processes(Mutex<HashMap<String, Process>>);

enum Process {
    Running(Child),
    Ended(String),
}

impl Process {
    /// Looks whether it has ended.
    fn look(&mut self) {
        let Self::Running(child) = self else { return };
        let end = match child.try_wait() {
            Ok(None) => return,
            Ok(Some(status)) if status.success() => "it ended without saying how".to_owned(),
            Ok(Some(status)) => match signal(&status) {
                Some(9) => "it was killed (signal 9); where nobody did that, the machine was \
                            short of memory: a smaller `batch_size` needs less"
                    .to_owned(),
                _ => format!("it was lost ({status})"),
            },
            Err(error) => error.to_string(),
        };
        *self = Self::Ended(end);
    }
}

#[cfg(unix)]
fn signal(status: &std::process::ExitStatus) -> Option<i32> {
    std::os::unix::process::ExitStatusExt::signal(status)
}

#[cfg(not(unix))]
fn signal(_: &std::process::ExitStatus) -> Option<i32> {
    None
}

impl Processes {
    fn jobs(&self) -> std::sync::MutexGuard<'_, HashMap<String, Process>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Launcher for Processes {
    fn start(&self, order: WorkOrder) -> BoxFuture<'_, Result<String, String>> {
        let spawn = || -> Result<String, String> {
            let program = std::env::current_exe().map_err(|e| format!("no program: {e}"))?;
            let mut command = Command::new(program);
            if std::env::var_os(KEEP_MEMORY.0).is_none() {
                command.env(KEEP_MEMORY.0, KEEP_MEMORY.1);
            }
            let child = command
                .arg("worker")
                // Not as arguments, which others on the machine can see.
                .env(WORKER_URL, &order.url)
                .env(WORKER_TOKEN, &order.token)
                .stdin(Stdio::null())
                .spawn()
                .map_err(|e| format!("the worker can't be started: {e}"))?;
            let job = format!("process-{}", child.id().unwrap_or_default());
            self.jobs().insert(job.clone(), Process::Running(child));
            Ok(job)
        };
        Box::pin(std::future::ready(spawn()))
    }

    fn kill<'a>(&'a self, job: &'a str) -> BoxFuture<'a, Result<(), String>> {
        let killed = match self.jobs().get_mut(job) {
            Some(Process::Running(child)) => match child.start_kill() {
                // It has ended in between.
                Err(error) if error.kind() == std::io::ErrorKind::InvalidInput => Ok(()),
                other => other.map_err(|e| e.to_string()),
            },
            _ => Ok(()),
        };
        Box::pin(std::future::ready(killed))
    }

    fn running(&self) -> BoxFuture<'_, Result<Vec<String>, String>> {
        let mut running = Vec::new();
        for (job, process) in self.jobs().iter_mut() {
            process.look();
            if matches!(process, Process::Running(_)) {
                running.push(job.clone());
            }
        }
        Box::pin(std::future::ready(Ok(running)))
    }

    fn end_of(&self, job: &str) -> Option<String> {
        match self.jobs().get(job)? {
            Process::Running(_) => None,
            Process::Ended(how) => Some(how.clone()),
        }
    }
}
