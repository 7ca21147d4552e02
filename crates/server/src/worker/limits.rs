//! Limits on the memory and disk space of a worker.
//!
//! A run that exceeds a limit fails with an error that names the remedy. The
//! operating system enforces limits as well, in case memory or a file grows
//! faster than the worker checks.

use std::path::{Path, PathBuf};

use finetuner_protocol::worker::WorkRules;

/// Limits of memory and of temporary files, in bytes.
pub(super) struct Limits {
    memory: Option<u64>,
    disk: Option<u64>,
    folder: PathBuf,
}

impl Limits {
    /// Returns the run's folder.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(super) fn of(rules: &WorkRules, folder: &Path) -> Self {
        Self {
            memory: rules.max_memory,
            disk: rules.max_disk,
            folder: folder.to_owned(),
        }
    }

    #[cfg(test)]
    pub(super) fn none() -> Self {
        Self {
            memory: None,
            disk: None,
            folder: PathBuf::new(),
        }
    }

    /// Returns an error with the remedy if a limit is exceeded.
    pub(super) fn passed(&self) -> Option<String> {
        let over = |limit: Option<u64>, used: Option<u64>| {
            let (limit, used) = (limit?, used?);
            (used > limit).then_some((used >> 20, limit >> 20))
        };
        if let Some((used, limit)) = over(self.memory, memory_used()) {
            return Some(format!(
                "the run uses {used} MiB of memory and this server allows {limit} MiB: a smaller \
                 `batch_size` or model needs less"
            ));
        }
        let files = || folder_size(&self.folder);
        let (used, limit) = over(self.disk, self.disk.map(|_| files()))?;
        Some(format!(
            "the run's files take {used} MiB and this server allows {limit} MiB: a smaller model \
             or fewer images take less"
        ))
    }
}

/// Returns the resident memory of this process, if the system reports it.
fn memory_used() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes << 10)
}

/// Returns the size of all files in a folder and its subfolders, in bytes.
fn folder_size(folder: &Path) -> u64 {
    let files = std::fs::read_dir(folder).into_iter().flatten().flatten();
    files
        .filter_map(|file| {
            let about = file.metadata().ok()?;
            Some(match about.is_dir() {
                true => folder_size(&file.path()),
                false => about.len(),
            })
        })
        .sum()
}

/// Allowance of the system's limit above the run's memory limit, for stacks and
/// for buffers that are allocated but never used.
#[cfg(target_os = "linux")]
const SLACK: u64 = 512 << 20;

/// Sets the operating system's limits for this process: memory and file size.
/// The program aborts when an allocation fails. Writing beyond the file size is
/// an error.
#[cfg(target_os = "linux")]
pub(super) fn set_process_limits(rules: &WorkRules) -> Result<(), String> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

    let set = |resource, limit: u64| {
        // Only root may raise a limit that the service manager has set.
        let limit = getrlimit(resource)
            .maximum
            .map_or(limit, |most| most.min(limit));
        let limit = Rlimit {
            current: Some(limit),
            maximum: Some(limit),
        };
        setrlimit(resource, limit)
            .map_err(|e| format!("a limit of the worker's process can't be set: {e}"))
    };
    // No core dumps, because they would expose the worker's memory.
    set(Resource::Core, 0)?;
    if let Some(memory) = rules.max_memory {
        let slack = SLACK.max(memory / 4);
        set(Resource::Data, memory.saturating_add(slack))?;
    }
    if let Some(disk) = rules.max_disk {
        set(Resource::Fsize, disk)?;
    }
    Ok(())
}

#[cfg(not(target_os = "linux"))]
pub(super) fn set_process_limits(_: &WorkRules) -> Result<(), String> {
    Ok(())
}
