//! Workers in child processes, `finetuner-server worker`.
//!
//! Each has a process group of its own, so Ctrl-C in the server's terminal does
//! not reach it: the server asks it to pause. It goes on when the server is
//! killed, and the next server takes it over.

use std::{
    collections::HashMap,
    path::PathBuf,
    process::Stdio,
    sync::{Mutex, PoisonError},
};

use futures_util::future::BoxFuture;
use tokio::process::{Child, Command};

use super::{Account, Launcher, WorkOrder, environment};
use crate::worker::{WORKER_FOLDER, WORKER_TOKEN, WORKER_URL};

/// Makes a worker's allocator keep what is freed: a step needs the same large
/// buffers as the one before, and the system would clear each of them anew.
const KEEP_MEMORY: (&str, &str) = ("MIMALLOC_PURGE_DELAY", "-1");

/// Starts workers in child processes.
#[derive(Default)]
pub(crate) struct Processes {
    jobs: Mutex<HashMap<String, Process>>,
    /// Variables that workers get beside the usual ones.
    more_environment: Vec<String>,
    /// Whose processes they are, if not the server's own user's.
    account: Option<Account>,
}

enum Process {
    Running(Child),
    /// Of an earlier server.
    TakenOver(Foreign),
    Ended(String),
}

impl Process {
    /// Looks whether it has ended.
    fn look(&mut self) {
        let end = match self {
            Self::Ended(_) => return,
            Self::TakenOver(process) if process.is_running() => return,
            Self::TakenOver(_) => "it ended while or after the server was away".to_owned(),
            Self::Running(child) => match child.try_wait() {
                Ok(None) => return,
                Ok(Some(status)) => in_words(status),
                Err(error) => error.to_string(),
            },
        };
        *self = Self::Ended(end);
    }
}

fn in_words(status: std::process::ExitStatus) -> String {
    if status.success() {
        return "it ended without saying how".to_owned();
    }
    match signal(&status) {
        Some(9) => "it was killed (signal 9); where nobody did that, the machine was short of \
                    memory: a smaller `batch_size` needs less"
            .to_owned(),
        Some(6) => "it aborted (signal 6), as it does where it gets no more memory: a smaller \
                    `batch_size` needs less"
            .to_owned(),
        _ => format!("it was lost ({status})"),
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
    /// Passes these variables on to workers too.
    pub(crate) fn pass_on(mut self, names: Vec<String>) -> Self {
        self.more_environment = names;
        self
    }

    /// Runs workers as another user.
    pub(crate) fn run_as(mut self, account: Option<Account>) -> Self {
        self.account = account;
        self
    }

    fn jobs(&self) -> std::sync::MutexGuard<'_, HashMap<String, Process>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn command(&self, order: &WorkOrder) -> Result<Command, String> {
        let mut command = Command::new(program()?);
        command
            .arg("worker")
            .env_clear()
            .envs(environment::of_workers(&self.more_environment))
            // Not as arguments, which others on the machine can see.
            .env(WORKER_URL, &order.url)
            .env(WORKER_TOKEN, &order.token)
            .env(WORKER_FOLDER, &order.folder)
            .stdin(Stdio::null());
        if std::env::var_os(KEEP_MEMORY.0).is_none() {
            command.env(KEEP_MEMORY.0, KEEP_MEMORY.1);
        }
        #[cfg(unix)]
        {
            command.process_group(0);
            if let Some(account) = &self.account {
                // Leaves all other groups of the server's user, too.
                command.uid(account.user).gid(account.group);
                command.env("HOME", &account.home);
            }
        }
        Ok(command)
    }
}

/// This program, also where its file was replaced by an upgrade since.
fn program() -> Result<PathBuf, String> {
    let program = std::env::current_exe().map_err(|e| format!("no program: {e}"))?;
    let same = PathBuf::from("/proc/self/exe");
    match !program.is_file() && cfg!(target_os = "linux") {
        true => Ok(same),
        false => Ok(program),
    }
}

impl Launcher for Processes {
    fn start(&self, order: WorkOrder) -> BoxFuture<'_, Result<String, String>> {
        let spawn = || -> Result<String, String> {
            let child = self
                .command(&order)?
                .spawn()
                .map_err(|e| format!("the worker can't be started: {e}"))?;
            let pid = child.id().unwrap_or_default();
            let job = match Foreign::started(pid) {
                Some(process) => format!("process-{pid}-{}", process.started),
                None => format!("process-{pid}"),
            };
            let mut jobs = self.jobs();
            // Nobody asks for workers that ended before the last ones.
            jobs.retain(|_, process| !matches!(process, Process::Ended(_)));
            jobs.insert(job.clone(), Process::Running(child));
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
            Some(Process::TakenOver(process)) => process.kill(),
            _ => Ok(()),
        };
        Box::pin(std::future::ready(killed))
    }

    fn running(&self) -> BoxFuture<'_, Result<Vec<String>, String>> {
        let mut running = Vec::new();
        for (job, process) in self.jobs().iter_mut() {
            process.look();
            if !matches!(process, Process::Ended(_)) {
                running.push(job.clone());
            }
        }
        Box::pin(std::future::ready(Ok(running)))
    }

    fn end_of(&self, job: &str) -> Option<String> {
        match self.jobs().get(job)? {
            Process::Ended(how) => Some(how.clone()),
            _ => None,
        }
    }

    fn take_over<'a>(&'a self, job: &'a str) -> BoxFuture<'a, Result<bool, String>> {
        let process = Foreign::parse(job);
        let known = process.is_some();
        if let Some(process) = process {
            // After a start of the machine, ids and times may be those of another.
            let process = match process.is_worker() {
                true => Process::TakenOver(process),
                false => Process::Ended("it ended while the server was away".to_owned()),
            };
            self.jobs().insert(job.to_owned(), process);
        }
        Box::pin(std::future::ready(Ok(known)))
    }

    fn outlives_the_server(&self) -> bool {
        true
    }
}

/// A process that is not our child. Process ids are used again, so it is known
/// by its start time as well.
struct Foreign {
    pid: u32,
    /// In clock ticks since the machine was started.
    started: u64,
}

impl Foreign {
    fn parse(job: &str) -> Option<Self> {
        let (pid, started) = job.strip_prefix("process-")?.split_once('-')?;
        Some(Self {
            pid: pid.parse().ok()?,
            started: started.parse().ok()?,
        })
    }

    /// The process that has this id now, where the system tells when it began.
    fn started(pid: u32) -> Option<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The program's name, in parentheses, may hold anything.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let is_dead = matches!(*fields.first()?, "Z" | "X");
        let started = fields.get(19)?.parse().ok()?;
        (!is_dead).then_some(Self { pid, started })
    }

    fn is_running(&self) -> bool {
        let now = Self::started(self.pid);
        now.is_some_and(|now| now.started == self.started)
    }

    fn is_worker(&self) -> bool {
        let line = std::fs::read(format!("/proc/{}/cmdline", self.pid)).unwrap_or_default();
        line.split(|byte| *byte == 0).any(|part| part == b"worker")
    }

    #[cfg(target_os = "linux")]
    fn kill(&self) -> Result<(), String> {
        use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

        let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw);
        // Opened before the look: the descriptor never means another process.
        let Some(Ok(process)) = pid.map(|pid| pidfd_open(pid, PidfdFlags::empty())) else {
            return Ok(());
        };
        match self.is_running() {
            true => pidfd_send_signal(process, Signal::KILL).map_err(|e| e.to_string()),
            false => Ok(()),
        }
    }

    #[cfg(not(target_os = "linux"))]
    fn kill(&self) -> Result<(), String> {
        Err("a worker of an earlier server can't be ended on this system".to_owned())
    }
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use super::*;

    /// A process that waits, and is called a worker.
    fn sleeper() -> Child {
        Command::new("sh")
            .args(["-c", "read line", "worker"])
            .stdin(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap()
    }

    #[tokio::test]
    async fn a_worker_of_an_earlier_server_is_listed_and_can_be_killed() {
        let mut child = sleeper();
        let process = Foreign::started(child.id().unwrap()).unwrap();
        // Its command line is there a moment after its process.
        while !process.is_worker() {
            tokio::task::yield_now().await;
        }
        let job = format!("process-{}-{}", process.pid, process.started);
        let other = format!("process-{}-{}", process.pid, process.started + 1);
        let processes = Processes::default();
        assert!(processes.take_over(&job).await.unwrap());
        assert!(processes.take_over(&other).await.unwrap());
        assert!(!processes.take_over("thread-1").await.unwrap());
        // Another process with the same id is not the worker.
        assert_eq!(processes.running().await.unwrap(), [job.as_str()]);
        assert!(processes.end_of(&other).is_some());
        processes.kill(&other).await.unwrap();
        assert_eq!(processes.running().await.unwrap(), [job.as_str()]);
        processes.kill(&job).await.unwrap();
        assert_eq!(signal(&child.wait().await.unwrap()), Some(9));
        assert!(processes.running().await.unwrap().is_empty());
        let end = processes.end_of(&job).unwrap();
        assert!(end.contains("ended"), "{end}");
    }

    #[tokio::test]
    async fn a_worker_knows_nothing_of_the_servers_secrets() {
        let order = WorkOrder {
            url: "http://127.0.0.1:1".into(),
            token: "t".into(),
            folder: "f".into(),
        };
        let processes = Processes::default().pass_on(vec!["CARGO_MANIFEST_DIR".into()]);
        let command = processes.command(&order).unwrap();
        let names: Vec<String> = command
            .as_std()
            .get_envs()
            .filter(|(_, value)| value.is_some())
            .map(|(name, _)| name.to_string_lossy().into_owned())
            .collect();
        let has = |name: &str| names.iter().any(|has| has == name);
        assert!(has("PATH") && has(WORKER_TOKEN) && has("CARGO_MANIFEST_DIR"));
        assert!(!has("CARGO_PKG_NAME"), "{names:?}");
    }
}
