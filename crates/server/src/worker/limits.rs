//! What a worker's process may use.
//!
//! A limit that is passed ends the run with words that say what to do. Where
//! memory or a file grows faster than anybody looks, the system refuses it.

use std::path::{Path, PathBuf};

use finetuner_protocol::worker::WorkRules;

/// Limits of memory and of temporary files.
pub(super) struct Limits {
    memory: Option<u64>,
    disk: Option<u64>,
    folder: PathBuf,
}

impl Limits {
    /// The run's folder.
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

    /// Which limit is passed, and what to do.
    pub(super) fn passed(&self) -> Option<String> {
        let over = |limit: Option<u64>, used: Option<u64>| {
            let (limit, used) = (limit?, used?);
            (used > limit).then_some((used >> 20, limit >> 20))
        };
        if let Some((used, limit)) = over(self.memory, memory_used()) {
            return Some(format!(
                "the run uses {used} MiB of memory, this server allows {limit}: a smaller \
                 `batch_size` or model needs less"
            ));
        }
        let files = || folder_size(&self.folder);
        let (used, limit) = over(self.disk, self.disk.map(|_| files()))?;
        Some(format!(
            "the run's files take {used} MiB, this server allows {limit}: a smaller model, or fewer \
             pictures, take less"
        ))
    }
}

/// The memory of this process, where the system tells it.
fn memory_used() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes << 10)
}

/// The bytes of the files in a folder and in those inside.
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

/// What the system allows above the limit on memory, for buffers that are
/// asked for and never used, and for stacks.
#[cfg(target_os = "linux")]
const SLACK: u64 = 512 << 20;

/// Tells the system the limits of this process: memory, and the size of a
/// file. A program that gets no more memory aborts; a file that is too large
/// is an error.
#[cfg(target_os = "linux")]
pub(super) fn tell_the_system(rules: &WorkRules) -> Result<(), String> {
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
        setrlimit(resource, limit).map_err(|e| format!("a limit can't be set: {e}"))
    };
    // The contents of a worker's memory are nobody else's.
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
pub(super) fn tell_the_system(_: &WorkRules) -> Result<(), String> {
    Ok(())
}
