//! How much memory this process has, and how much it may still take.

mod room;

use std::{
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Duration,
};

pub(crate) use room::Room;

/// How often memory is looked at while something runs.
const LOOK: Duration = Duration::from_millis(1);

/// Where the system tells it, and the limit of this run.
pub(crate) struct Memory {
    root: PathBuf,
    limit: Option<u64>,
}

impl Memory {
    /// This machine's. `limit` is the most that this process may hold, where the
    /// one that started it has said so.
    pub(crate) fn of_this_machine(limit: Option<u64>) -> Self {
        Self {
            root: PathBuf::from("/"),
            limit,
        }
    }

    /// Bytes that this process holds, where the system says so.
    pub(crate) fn held(&self) -> Option<u64> {
        field(&self.text("proc/self/status")?, "VmRSS:")
    }

    /// Bytes that this process may still take: what is free on the machine, and
    /// no more than its control groups, the limits of its resources and the
    /// run's own limit leave.
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

    /// What the control groups of this process leave, each of them and those
    /// around it.
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
            // In a container the group's path may be that of the machine, and its
            // files lie at the top.
            let groups: Vec<PathBuf> = Path::new(path).ancestors().map(|at| top.join(at)).collect();
            groups.into_iter().filter_map(|group| left_in_group(&group))
        });
        left.min()
    }

    fn text(&self, file: &str) -> Option<String> {
        std::fs::read_to_string(self.root.join(file)).ok()
    }
}

/// The most bytes that `held` told while `work` ran, and what `work` gave.
fn peak_of<T>(held: impl Fn() -> Option<u64> + Sync, work: impl FnOnce() -> T) -> (Option<u64>, T) {
    let (ended, most) = (AtomicBool::new(false), AtomicU64::new(0));
    let look = || most.fetch_max(held().unwrap_or(0), Ordering::Relaxed);
    let watched = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !ended.load(Ordering::Relaxed) {
                look();
                std::thread::sleep(LOOK);
            }
            look();
        });
        // Also where `work` panics: the thread would never end.
        let _ends = Ends(&ended);
        work()
    });
    let most = most.load(Ordering::Relaxed);
    ((most > 0).then_some(most), watched)
}

struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// What one control group leaves, of either version.
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
    // Pages of files are given back when they are needed.
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

/// A field in kilobytes, as `/proc` has them, in bytes.
fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    let kilobytes: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kilobytes * 1024)
}

/// The soft limit of a resource; `None` for no limit.
fn resource(limits: &str, name: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MB: u64 = 1 << 20;

    /// A machine with 8,000 MB free, of which this process holds 100.
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
    fn each_limit_counts() {
        assert_eq!(free(&[], None), 8000);
        assert_eq!(free(&[], Some(1100 * MB)), 1000);
        let limits = "Limit Soft Hard Units\nMax data size 1048576000 unlimited bytes\n\
                      Max address space unlimited unlimited bytes\n";
        assert_eq!(free(&[("proc/self/limits", limits)], None), 800);
        // The group has no limit, the one around it has; pages of files count as free.
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
    fn a_limit_that_is_passed_leaves_nothing() {
        assert_eq!(free(&[], Some(50 * MB)), 0);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_peak_of_some_work_is_seen() {
        let before = Memory::of_this_machine(None).held().unwrap();
        // Its output is held while the memory is read the last time.
        let room = Room::Host(Memory::of_this_machine(None));
        let (peak, numbers) = room.peak_of(|| vec![1u8; 200 << 20]);
        assert_eq!(numbers.len(), 200 << 20);
        assert!(peak.unwrap() >= before + (150 << 20), "{peak:?} {before}");
    }
}
