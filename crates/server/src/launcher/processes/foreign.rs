//! Processes that are not children of this server.

use std::fmt;

/// Signal that ends a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Signal {
    /// Asks for a checkpoint and a pause (SIGTERM).
    Terminate,
    /// Ends the process at once (SIGKILL).
    Kill,
}

#[cfg(unix)]
impl Signal {
    fn number(self) -> rustix::process::Signal {
        match self {
            Self::Terminate => rustix::process::Signal::TERM,
            Self::Kill => rustix::process::Signal::KILL,
        }
    }
}

/// Sends a signal to a child that was not waited for yet.
#[cfg(unix)]
pub(super) fn send_to_child(pid: u32, signal: Signal) -> Result<(), String> {
    let pid = i32::try_from(pid).ok();
    let Some(pid) = pid.and_then(rustix::process::Pid::from_raw) else {
        return Ok(());
    };
    rustix::process::kill_process(pid, signal.number()).map_err(|e| e.to_string())
}

#[cfg(not(unix))]
pub(super) fn send_to_child(_: u32, _: Signal) -> Result<(), String> {
    Err("this system has no SIGTERM".to_owned())
}

/// A process that is not a child of this server. It is identified by its id and
/// its start time, because the system reuses ids.
pub(super) struct Foreign {
    pub(super) pid: u32,
    /// In clock ticks since the machine started.
    pub(super) started: u64,
}

impl fmt::Display for Foreign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.pid, self.started)
    }
}

impl Foreign {
    /// Parses the output of `Display`.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (pid, started) = text.trim().split_once(' ')?;
        Some(Self {
            pid: pid.parse().ok()?,
            started: started.parse().ok()?,
        })
    }

    /// Returns the process that has this id now. `None` where the system has no
    /// `/proc`.
    pub(super) fn started(pid: u32) -> Option<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The program's name, in parentheses, may contain any character.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let is_dead = matches!(*fields.first()?, "Z" | "X");
        let started = fields.get(19)?.parse().ok()?;
        (!is_dead).then_some(Self { pid, started })
    }

    pub(super) fn is_running(&self) -> bool {
        let now = Self::started(self.pid);
        now.is_some_and(|now| now.started == self.started)
    }

    /// Whether the process runs and is the worker of this job. After a reboot,
    /// the id and the start time may match another process.
    pub(super) fn is_worker(&self, job: &str) -> bool {
        let line = std::fs::read(format!("/proc/{}/cmdline", self.pid)).unwrap_or_default();
        let mut parts = line.split(|byte| *byte == 0);
        parts.any(|part| part == job.as_bytes()) && self.is_running()
    }

    #[cfg(target_os = "linux")]
    pub(super) fn send(&self, signal: Signal) -> Result<(), String> {
        use rustix::process::{Pid, PidfdFlags, pidfd_open, pidfd_send_signal};

        let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw);
        // The descriptor is opened before the check, so it can't refer to a
        // later process with the same id.
        let Some(Ok(process)) = pid.map(|pid| pidfd_open(pid, PidfdFlags::empty())) else {
            return Ok(());
        };
        match self.is_running() {
            true => pidfd_send_signal(process, signal.number()).map_err(|e| e.to_string()),
            false => Ok(()),
        }
    }

    #[cfg(not(target_os = "linux"))]
    pub(super) fn send(&self, _: Signal) -> Result<(), String> {
        Err("a worker of an earlier server can't be stopped on this system".to_owned())
    }
}
