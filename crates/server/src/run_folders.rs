//! Temporary folders of workers on this machine.
//!
//! A worker removes its folder, but a killed worker can't. A folder's name
//! contains the server, the run and the launch, so that a server finds those of
//! its ended workers and leaves all others alone.

use std::{
    io,
    path::{Path, PathBuf},
};

/// The temporary folders of one server's workers.
#[derive(Clone, Debug)]
pub(crate) struct RunFolders {
    /// Prefix of their names.
    prefix: String,
    /// Folder that contains them.
    parent: PathBuf,
}

impl RunFolders {
    /// Creates the description of the folders of the server with this id.
    pub(crate) fn of(server: &str) -> Self {
        Self {
            prefix: format!("finetuner-run-{server}-"),
            parent: std::env::temp_dir(),
        }
    }

    /// Returns the prefix of a launch's folder name. A random suffix follows.
    pub(crate) fn prefix_of(&self, (run, launch): (i64, u64)) -> String {
        format!("{}{run}-{launch}-", self.prefix)
    }

    /// Removes the folders of launches that are not `wanted`. Blocks.
    pub(crate) fn sweep(&self, wanted: impl Fn((i64, u64)) -> bool) {
        let found = match std::fs::read_dir(&self.parent) {
            Ok(found) => found,
            Err(error) => return self.warn(&self.parent, &error),
        };
        for entry in found.flatten() {
            let name = entry.file_name();
            let launch = name.to_str().and_then(|name| self.launch_of(name));
            if launch.is_none_or(&wanted) {
                continue;
            }
            match std::fs::remove_dir_all(entry.path()) {
                // Its worker may be removing it at the same time.
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    self.warn(&entry.path(), &error);
                }
                _ => tracing::info!(
                    "Removed {}, the temporary folder of an ended worker",
                    entry.path().display()
                ),
            }
        }
    }

    fn launch_of(&self, name: &str) -> Option<(i64, u64)> {
        let mut parts = name.strip_prefix(&self.prefix)?.splitn(3, '-');
        let launch = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        parts.next().is_some().then_some(launch)
    }

    fn warn(&self, path: &Path, error: &io::Error) {
        tracing::warn!(
            "Files that a killed worker may have left in {} can't be removed: {error}",
            path.display()
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_folders_of_this_servers_ended_workers_are_removed() {
        let parent = tempfile::tempdir().unwrap();
        let folders = RunFolders {
            parent: parent.path().to_owned(),
            ..RunFolders::of("0a1b")
        };
        let others = [
            "finetuner-run-0a1b-1-3-x",
            "finetuner-run-0a1c-1-2-x",
            "finetuner-run-0a1b-1",
            "finetuner-run-0a1b-1-2",
            "finetuner-run-0a1b-one-2-x",
            "finetuner-run-q8Zr1f",
            "finetuner-server-1",
        ];
        let ended = format!("{}x-y", folders.prefix_of((1, 2)));
        for name in others.into_iter().chain([ended.as_str()]) {
            std::fs::create_dir(parent.path().join(name)).unwrap();
            std::fs::write(parent.path().join(name).join("file"), "x").unwrap();
        }
        folders.sweep(|launch| launch == (1, 3));
        let left = std::fs::read_dir(parent.path()).unwrap();
        let mut left: Vec<String> = left
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        let mut wanted = others.map(str::to_owned);
        wanted.sort();
        assert_eq!(left, wanted);
    }
}
