//! Measures the memory that this process uses and may still allocate.

mod step;

use std::{
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Duration,
};

pub(crate) use step::StepMemory;

/// Interval between samples of the memory in use.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(1);

/// Source of memory figures, with the run's limit.
pub(crate) struct Memory {
    root: PathBuf,
    limit: Option<u64>,
}

impl Memory {
    /// Reads the figures of this machine.
    ///
    /// `limit` is the limit in bytes that the parent process set for this one, if any.
    pub(crate) fn of_this_machine(limit: Option<u64>) -> Self {
        Self {
            root: PathBuf::from("/"),
            limit,
        }
    }

    /// Returns the bytes that this process uses, if the system reports them.
    pub(crate) fn held(&self) -> Option<u64> {
        field(&self.text("proc/self/status")?, "VmRSS:")
    }

    /// Returns the bytes that this process may still allocate.
    ///
    /// This is the machine's free memory, reduced by the limits of control groups,
    /// resources and the run.
    pub(crate) fn free(&self) -> Option<u64> {
        let machine = field(&self.text("proc/meminfo")?, "MemAvailable:")?;
        let status = self.text("proc/self/status")?;
        let limits = self.text("proc/self/limits").unwrap_or_default();
        let left =
            |limit: Option<u64>, held: &str| Some(limit?.saturating_sub(field(&status, held)?));
        let all = [
            self.left_in_groups(),
            left(resource(&limits, "Max address space"), "VmSize:"),
            left(resource(&limits, "Max data size"), "VmData:"),
            left(self.limit, "VmRSS:"),
        ];
        Some(all.into_iter().flatten().fold(machine, u64::min))
    }

    /// Returns the memory left in this process's control groups and their ancestors.
    fn left_in_groups(&self) -> Option<u64> {
        let groups = self.text("proc/self/cgroup")?;
        let own = groups.lines().filter_map(|line| {
            let mut parts = line.splitn(3, ':').skip(1);
            let (kinds, path) = (parts.next()?, parts.next()?);
            let path = path.trim_start_matches('/');
            match kinds {
                "" => Some((self.root.join("sys/fs/cgroup"), path)),
                kinds if kinds.split(',').any(|kind| kind == "memory") => {
                    Some((self.root.join("sys/fs/cgroup/memory"), path))
                }
                _ => None,
            }
        });
        let left = own.flat_map(|(top, path)| {
            // In a container, the path may be the host's. The group's files are then in
            // the root.
            let groups: Vec<PathBuf> = Path::new(path).ancestors().map(|at| top.join(at)).collect();
            groups.into_iter().filter_map(|group| left_in_group(&group))
        });
        left.min()
    }

    fn text(&self, file: &str) -> Option<String> {
        std::fs::read_to_string(self.root.join(file)).ok()
    }
}

/// Runs `work`. Returns the maximum of `held` meanwhile, and the result of `work`.
fn peak_of<T>(held: impl Fn() -> Option<u64> + Sync, work: impl FnOnce() -> T) -> (Option<u64>, T) {
    let (ended, most) = (AtomicBool::new(false), AtomicU64::new(0));
    let sample = || most.fetch_max(held().unwrap_or(0), Ordering::Relaxed);
    let watched = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !ended.load(Ordering::Relaxed) {
                sample();
                std::thread::sleep(SAMPLE_INTERVAL);
            }
            sample();
        });
        // Stops the thread even if `work` panics.
        let _guard = StopGuard(&ended);
        work()
    });
    let most = most.load(Ordering::Relaxed);
    ((most > 0).then_some(most), watched)
}

struct StopGuard<'a>(&'a AtomicBool);

impl Drop for StopGuard<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Returns the memory left in one control group (version 1 or 2).
fn left_in_group(group: &Path) -> Option<u64> {
    let number = |file: &str| -> Option<u64> {
        let text = std::fs::read_to_string(group.join(file)).ok()?;
        text.trim().parse().ok()
    };
    let (limits, used) = match number("memory.current") {
        Some(used) => ([number("memory.max"), number("memory.high")], used),
        None => (
            [number("memory.limit_in_bytes"), None],
            number("memory.usage_in_bytes")?,
        ),
    };
    let limit = limits.into_iter().flatten().min()?;
    // The page cache can be reclaimed.
    let stat = std::fs::read_to_string(group.join("memory.stat")).unwrap_or_default();
    let files = stat.lines().find_map(|line| {
        let name = line.strip_prefix("inactive_file ");
        name.or_else(|| line.strip_prefix("total_inactive_file "))?
            .trim()
            .parse()
            .ok()
    });
    Some(limit.saturating_sub(used.saturating_sub(files.unwrap_or(0))))
}

/// Returns a field of `/proc` in bytes; the files have kilobytes.
fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    let kilobytes: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kilobytes * 1024)
}

/// Returns the soft limit of a resource; `None` if unlimited.
fn resource(limits: &str, name: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MB: u64 = 1 << 20;

    /// Returns a machine with 8,000 MB free, and a process that uses 100 MB.
    fn machine(files: &[(&str, &str)], limit: Option<u64>) -> (tempfile::TempDir, Memory) {
        let root = tempfile::tempdir().unwrap();
        let usual = [
            (
                "proc/meminfo",
                "MemTotal: 16384000 kB\nMemAvailable: 8192000 kB\n",
            ),
            (
                "proc/self/status",
                "VmSize: 512000 kB\nVmRSS: 102400 kB\nVmData: 204800 kB\n",
            ),
        ];
        for (name, text) in usual.iter().chain(files) {
            let path = root.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let memory = Memory {
            root: root.path().to_owned(),
            limit,
        };
        (root, memory)
    }

    fn free(files: &[(&str, &str)], limit: Option<u64>) -> u64 {
        let (_root, memory) = machine(files, limit);
        memory.free().unwrap() / MB
    }

    #[test]
    fn the_smallest_limit_counts() {
        assert_eq!(free(&[], None), 8000);
        assert_eq!(free(&[], Some(1100 * MB)), 1000);
        let limits = "Limit Soft Hard Units\nMax data size 1048576000 unlimited bytes\n\
                      Max address space unlimited unlimited bytes\n";
        assert_eq!(free(&[("proc/self/limits", limits)], None), 800);
        // Only the outer group has a limit. The page cache counts as free.
        let groups = [
            ("proc/self/cgroup", "0::/outer/inner\n"),
            ("sys/fs/cgroup/outer/inner/memory.max", "max\n"),
            ("sys/fs/cgroup/outer/inner/memory.current", "5\n"),
            ("sys/fs/cgroup/outer/memory.max", "2097152000\n"),
            ("sys/fs/cgroup/outer/memory.current", "1048576000\n"),
            (
                "sys/fs/cgroup/outer/memory.stat",
                "anon 1\ninactive_file 104857600\n",
            ),
        ];
        assert_eq!(free(&groups, None), 1100);
        let old = [
            ("proc/self/cgroup", "4:cpu:/\n9:memory:/docker/x\n"),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "524288000\n"),
            ("sys/fs/cgroup/memory/memory.usage_in_bytes", "104857600\n"),
        ];
        assert_eq!(free(&old, None), 400);
    }

    #[test]
    fn an_exceeded_limit_leaves_nothing() {
        assert_eq!(free(&[], Some(50 * MB)), 0);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_peak_memory_of_work_is_measured() {
        let before = Memory::of_this_machine(None).held().unwrap();
        // The result is still allocated when the last sample is taken.
        let memory = StepMemory::Host(Memory::of_this_machine(None));
        let (peak, numbers) = memory.peak_of(|| vec![1u8; 200 << 20]);
        assert_eq!(numbers.len(), 200 << 20);
        assert!(peak.unwrap() >= before + (150 << 20), "{peak:?} {before}");
    }
}
