//! Restricts which files of the machine a worker's process may see.
//!
//! On Linux the kernel (Landlock) lets it read programs, libraries and settings
//! of the system and the folders of local models. It may write its own temporary
//! folder and the caches of the model hub and of the node. Everything else, the
//! server's data included, is out of reach, also for code that a broken file
//! might make it run.

#[cfg(target_os = "linux")]
pub(super) use linux::close_in;

/// How a process was closed in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Closed {
    /// As far as this kernel can.
    In,
    /// Not at all, and why.
    #[cfg_attr(not(target_os = "linux"), allow(dead_code))]
    Not(String),
}

#[cfg(not(target_os = "linux"))]
pub(super) fn close_in(
    _: &finetuner_protocol::worker::LocalModels,
    _: &std::path::Path,
    _: &[&std::path::Path],
) -> Closed {
    Closed::Not("this system has no Landlock".to_owned())
}

#[cfg(target_os = "linux")]
mod linux {
    use std::path::{Path, PathBuf};

    use finetuner_protocol::worker::LocalModels;
    use landlock::{
        ABI, Access, AccessFs, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetError,
        RulesetStatus, path_beneath_rules,
    };

    use super::Closed;

    /// What programs need of the system.
    const SYSTEM: [&str; 12] = [
        "/bin", "/etc", "/lib", "/lib32", "/lib64", "/nix", "/opt", "/proc", "/run", "/sbin",
        "/sys", "/usr",
    ];
    /// Processors and sources of chance are devices.
    const DEVICES: &str = "/dev";
    const VERSION: ABI = ABI::V5;

    /// Closes this thread, and all that it starts, off from the other files of
    /// the machine. `temporary` is the run's folder, `caches` are those of the
    /// model hub and of the node.
    pub(in super::super) fn close_in(
        models: &LocalModels,
        temporary: &Path,
        caches: &[&Path],
    ) -> Closed {
        match restrict(models, temporary, caches) {
            Ok(RulesetStatus::NotEnforced) => Closed::Not("this kernel has no Landlock".to_owned()),
            Ok(_) => Closed::In,
            Err(error) => Closed::Not(error.to_string()),
        }
    }

    fn restrict(
        models: &LocalModels,
        temporary: &Path,
        caches: &[&Path],
    ) -> Result<RulesetStatus, RulesetError> {
        let mut readable: Vec<PathBuf> = SYSTEM.iter().map(PathBuf::from).collect();
        match models {
            LocalModels::Nowhere => {}
            LocalModels::In(folders) => readable.extend(folders.iter().cloned()),
            LocalModels::Anywhere => readable.push("/".into()),
        }
        readable.extend(std::env::current_exe());
        // Certificates of the operator's own, and libraries of processors.
        for name in ["SSL_CERT_FILE", "SSL_CERT_DIR", "LD_LIBRARY_PATH"] {
            let paths = std::env::var_os(name).unwrap_or_default();
            readable.extend(std::env::split_paths(&paths).filter(|path| path.is_absolute()));
        }
        let writable = [temporary, Path::new(DEVICES)].into_iter();
        let writable = writable.chain(caches.iter().copied());
        let status = Ruleset::default()
            .handle_access(AccessFs::from_all(VERSION))?
            .create()?
            .add_rules(path_beneath_rules(readable, AccessFs::from_read(VERSION)))?
            .add_rules(path_beneath_rules(writable, AccessFs::from_all(VERSION)))?
            // The folder itself is removed at the end.
            .add_rules(path_beneath_rules(temporary.parent(), AccessFs::RemoveDir))?
            .restrict_self()?;
        Ok(status.ruleset)
    }
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use finetuner_protocol::worker::LocalModels;

    use super::*;

    /// What a thread that was closed in may do with files: read its models,
    /// write its folder, and nothing of the server's data.
    #[test]
    fn the_servers_data_is_out_of_reach() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| {
            let folder = root.path().join(name);
            std::fs::create_dir(&folder).unwrap();
            std::fs::write(folder.join("file"), "x").unwrap();
            folder
        };
        let (data, models, own) = (at("data"), at("models"), at("own"));
        let (cache, contents) = (at("cache"), at("contents"));
        let allowed = LocalModels::In(vec![models.clone()]);
        let read = |folder: &std::path::Path| std::fs::read(folder.join("file")).is_ok();
        let write = |folder: &std::path::Path| std::fs::write(folder.join("new"), "x").is_ok();
        let closed_in = || {
            let closed = close_in(&allowed, &own, &[&cache, &contents]);
            let seen = [&data, &models, &own, &cache, &contents]
                .map(|folder| (read(folder), write(folder)));
            std::fs::remove_dir_all(&own).unwrap();
            (closed, seen)
        };
        // A thread of its own: it can't be opened again.
        let (closed, seen) = std::thread::scope(|scope| scope.spawn(closed_in).join().unwrap());
        let expected = match closed {
            Closed::In => [
                (false, false),
                (true, false),
                (true, true),
                (true, true),
                (true, true),
            ],
            Closed::Not(reason) => {
                assert!(reason.contains("Landlock"), "{reason}");
                [(true, true); 5]
            }
        };
        assert_eq!(seen, expected);
        assert!(read(&data), "other threads are not closed in");
    }
}
