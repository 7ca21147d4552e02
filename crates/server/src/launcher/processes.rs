//! The launcher that runs workers as child processes, `finetuner-server
//! worker`.
//!
//! Each worker has its own process group, so Ctrl-C in the server's terminal
//! does not reach it; the server asks it to pause instead. It continues when
//! the server is killed. For each job, a file with the job's name holds the
//! process id and start time, so that the next server finds the process.

mod foreign;

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use documented::DocumentedFields;
use futures_util::future::{BoxFuture, ready};
use serde::{Deserialize, Serialize};
use tokio::process::{Child, Command};

use super::{
    Home, JobState, LaunchError, Launcher, WorkOrder,
    contract::NO_OUTCOME,
    environment::{self, Account},
};
use crate::{
    error::StartError,
    worker::{KEEP_MEMORY, WORKER_CA, WORKER_FOLDER, WORKER_TOKEN, WORKER_URL},
};
use foreign::{Foreign, Signal};

/// Time for a stopped worker to write its checkpoint before it is killed.
const KILLED_AFTER: Duration = Duration::from_secs(5);

/// Settings for child processes of the server.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, DocumentedFields)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct ProcessesSettings {
    /// Variables of the server's environment that workers get in addition to
    /// the usual ones. Workers get no keys and tokens that are not named here.
    /// (`--worker-env`)
    pub(crate) environment: Vec<String>,
    /// User of this machine, by name or number, that workers run as. The server
    /// must then run as root. (`--worker-user`)
    pub(crate) user: Option<String>,
}

/// Starts workers in child processes.
pub(crate) struct Processes {
    jobs: Arc<Jobs>,
    /// Variables that workers get in addition to the usual ones.
    more_environment: Vec<String>,
    /// Account that workers run as, if it is not the server's own.
    account: Option<Account>,
    /// File with the certificate authority that workers trust.
    ca: Option<PathBuf>,
}

/// The processes by their job names.
struct Jobs {
    /// Folder of the files with process ids.
    folder: PathBuf,
    all: Mutex<HashMap<String, Job>>,
}

struct Job {
    process: Process,
    is_stopping: bool,
    /// Whether a list has reported the end.
    is_told: bool,
}

enum Process {
    Running(Child),
    /// A process that an earlier server started.
    Foreign(Foreign),
    Ended(String),
}

impl Process {
    /// Checks whether the process has ended.
    fn look(&mut self) {
        let end = match self {
            Self::Ended(_) => return,
            Self::Foreign(process) if process.is_running() => return,
            Self::Foreign(_) => "it ended during or after a restart of the server".to_owned(),
            Self::Running(child) => match child.try_wait() {
                Ok(None) => return,
                Ok(Some(status)) => in_words(status),
                Err(error) => error.to_string(),
            },
        };
        *self = Self::Ended(end);
    }

    fn send(&mut self, signal: Signal) -> Result<(), String> {
        self.look();
        match self {
            Self::Ended(_) => Ok(()),
            Self::Foreign(process) => process.send(signal),
            Self::Running(child) => match child.id() {
                // The child was not waited for yet, so its id can't belong to
                // another process.
                Some(pid) => foreign::send_to_child(pid, signal).or_else(|error| match signal {
                    Signal::Terminate => Err(error),
                    Signal::Kill => child.start_kill().map_err(|e| e.to_string()),
                }),
                None => Ok(()),
            },
        }
    }
}

fn in_words(status: ExitStatus) -> String {
    if status.success() {
        return NO_OUTCOME.to_owned();
    }
    match signal(&status) {
        Some(9) => "it was killed (signal 9); if nobody killed it, the machine ran out of memory: \
                    a smaller `batch_size` needs less"
            .to_owned(),
        Some(6) => "it aborted (signal 6), usually because it ran out of memory: a smaller \
                    `batch_size` needs less"
            .to_owned(),
        _ => format!("it ended unexpectedly ({status})"),
    }
}

#[cfg(unix)]
fn signal(status: &ExitStatus) -> Option<i32> {
    std::os::unix::process::ExitStatusExt::signal(status)
}

#[cfg(not(unix))]
fn signal(_: &ExitStatus) -> Option<i32> {
    None
}

impl Jobs {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Job>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Finds the jobs of an earlier server by the files that it left.
    fn of_earlier_server(folder: &Path, prefix: &str) -> std::io::Result<HashMap<String, Job>> {
        let mut jobs = HashMap::new();
        for entry in std::fs::read_dir(folder)? {
            let entry = entry?;
            let name = entry.file_name();
            let Some(name) = name.to_str().filter(|name| name.starts_with(prefix)) else {
                continue;
            };
            let noted = std::fs::read_to_string(entry.path()).unwrap_or_default();
            // Without a start time, the process with this id may be another
            // one.
            if let Some(process) = Foreign::parse(&noted) {
                let process = match process.is_worker(name) {
                    true => Process::Foreign(process),
                    false => Process::Ended("it ended while the server was not running".to_owned()),
                };
                jobs.insert(name.to_owned(), Job::new(process));
            }
            remove(&entry.path(), &jobs, name);
        }
        Ok(jobs)
    }

    /// Writes the process id and start time of a job to its file.
    fn note(&self, name: &str, pid: u32) {
        let noted = Foreign::started(pid).map_or(String::new(), |process| process.to_string());
        if let Err(error) = std::fs::write(self.folder.join(name), noted) {
            tracing::warn!(
                "The file {}/{name} can't be written: {error}. The next server will not find \
                 this worker's process; the run then depends on the worker's lease alone.",
                self.folder.display()
            );
        }
    }

    fn send(&self, name: &str, signal: Signal) -> Result<(), String> {
        match self.lock().get_mut(name) {
            Some(job) => job.process.send(signal),
            None => Ok(()),
        }
    }
}

/// Removes the file of a job that is not running.
fn remove(path: &Path, jobs: &HashMap<String, Job>, name: &str) {
    let runs = jobs
        .get(name)
        .is_some_and(|job| !matches!(job.process, Process::Ended(_)));
    if !runs && let Err(error) = std::fs::remove_file(path) {
        tracing::debug!("{}: {error}", path.display());
    }
}

impl Job {
    fn new(process: Process) -> Self {
        Self {
            process,
            is_stopping: false,
            is_told: false,
        }
    }
}

impl Processes {
    /// Creates the launcher and finds the processes that an earlier server
    /// started.
    pub(super) fn new(settings: &ProcessesSettings, home: &Home<'_>) -> Result<Self, StartError> {
        let account = settings.user.as_deref().map(Account::find).transpose();
        let account = account.map_err(|e| StartError::setting("launcher.processes.user", e))?;
        let folder = home.folder.join("jobs");
        let found = std::fs::create_dir_all(&folder)
            .and_then(|()| Jobs::of_earlier_server(&folder, &home.prefix));
        let found = found.map_err(|e| {
            let reason = format!("{}: {e}", folder.display());
            StartError::setting("server.data", reason)
        })?;
        Ok(Self {
            jobs: Arc::new(Jobs {
                folder,
                all: Mutex::new(found),
            }),
            more_environment: settings.environment.clone(),
            account,
            ca: home.ca.clone(),
        })
    }

    fn command(&self, order: &WorkOrder) -> Result<Command, String> {
        let mut command = Command::new(program()?);
        command
            // The name is for people who list processes, and for the next
            // server.
            .args(["worker", &order.name])
            .env_clear()
            .envs(environment::worker_variables(&self.more_environment))
            // Other users of the machine can see arguments.
            .env(WORKER_URL, &order.url)
            .env(WORKER_TOKEN, &order.start_token)
            .env(WORKER_FOLDER, &order.folder)
            .stdin(Stdio::null());
        if let Some(path) = &self.ca {
            command.env(WORKER_CA, path);
        }
        if std::env::var_os(KEEP_MEMORY.0).is_none() {
            command.env(KEEP_MEMORY.0, KEEP_MEMORY.1);
        }
        #[cfg(unix)]
        {
            command.process_group(0);
            if let Some(account) = &self.account {
                // This also drops the supplementary groups of the server's
                // user.
                command.uid(account.user).gid(account.group);
                command.env("HOME", &account.home);
            }
        }
        Ok(command)
    }

    fn spawn(&self, order: &WorkOrder) -> Result<(), String> {
        let mut jobs = self.jobs.lock();
        if jobs.contains_key(&order.name) {
            return Ok(());
        }
        let child = self
            .command(order)?
            .spawn()
            .map_err(|e| format!("the worker can't be started: {e}"))?;
        if let Some(pid) = child.id() {
            self.jobs.note(&order.name, pid);
        }
        jobs.retain(|_, job| !job.is_told);
        jobs.insert(order.name.clone(), Job::new(Process::Running(child)));
        Ok(())
    }
}

/// Returns the path of this program, even if an upgrade has replaced its file.
fn program() -> Result<PathBuf, String> {
    let program =
        std::env::current_exe().map_err(|e| format!("the path of this program is unknown: {e}"))?;
    let same = PathBuf::from("/proc/self/exe");
    match !program.is_file() && cfg!(target_os = "linux") {
        true => Ok(same),
        false => Ok(program),
    }
}

impl Launcher for Processes {
    fn start<'a>(&'a self, order: &'a WorkOrder) -> BoxFuture<'a, Result<(), LaunchError>> {
        Box::pin(ready(self.spawn(order).map_err(LaunchError::Retry)))
    }

    fn stop<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(async move {
            match self.jobs.lock().get_mut(name) {
                Some(job) if !job.is_stopping => job.is_stopping = true,
                _ => return Ok(()),
            }
            // Where SIGTERM can't be sent, the process is killed at once.
            let told = self.jobs.send(name, Signal::Terminate);
            let after = if told.is_ok() {
                KILLED_AFTER
            } else {
                Duration::ZERO
            };
            let (jobs, name) = (Arc::clone(&self.jobs), name.to_owned());
            tokio::spawn(async move {
                tokio::time::sleep(after).await;
                if let Err(error) = jobs.send(&name, Signal::Kill) {
                    tracing::error!("The worker {name} can't be killed: {error}");
                }
            });
            Ok(())
        })
    }

    fn list(&self) -> BoxFuture<'_, Result<HashMap<String, JobState>, String>> {
        let mut listed = HashMap::new();
        let mut jobs = self.jobs.lock();
        for (name, job) in jobs.iter_mut() {
            job.process.look();
            let state = match &job.process {
                Process::Ended(how) => JobState::Ended(how.clone()),
                _ => JobState::Running,
            };
            listed.insert(name.clone(), state);
        }
        let ended: Vec<String> = jobs
            .iter_mut()
            .filter(|(_, job)| matches!(job.process, Process::Ended(_)) && !job.is_told)
            .map(|(name, job)| {
                job.is_told = true;
                name.clone()
            })
            .collect();
        for name in ended {
            remove(&self.jobs.folder.join(&name), &jobs, &name);
        }
        drop(jobs);
        Box::pin(ready(Ok(listed)))
    }

    fn engine(&self) -> &'static str {
        "this machine"
    }
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests;
