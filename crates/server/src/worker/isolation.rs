//! Restriction of the files that a worker's process can access.
//!
//! On Linux, the kernel (Landlock) limits reading to programs, libraries and
//! settings of the system and to the folders of local models. Writing is
//! limited to the run's temporary folder and to the caches of the model hub and
//! the machine. Everything else, including the server's data, is inaccessible,
//! even for code that a malicious file might execute.

#[cfg(target_os = "linux")]
pub(super) use linux::restrict_files;

#[cfg(not(target_os = "linux"))]
pub(super) fn restrict_files(
    _: &finetuner_protocol::worker::LocalModels,
    _: &std::path::Path,
    _: &[&std::path::Path],
) -> Result<(), String> {
    Err("this system has no Landlock".to_owned())
}

#[cfg(target_os = "linux")]
mod linux {
    use std::path::{Path, PathBuf};

    use finetuner_protocol::worker::LocalModels;
    use landlock::{
        ABI, Access, AccessFs, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetError,
        RulesetStatus, path_beneath_rules,
    };

    /// Folders of the system that programs need.
    const SYSTEM: [&str; 12] = [
        "/bin", "/etc", "/lib", "/lib32", "/lib64", "/nix", "/opt", "/proc", "/run", "/sbin",
        "/sys", "/usr",
    ];
    /// GPUs and random number generators are devices.
    const DEVICES: &str = "/dev";
    const VERSION: ABI = ABI::V5;

    /// Restricts this thread, and everything it starts, to the allowed files.
    /// `temporary` is the run's folder. `caches` are those of the model hub and the
    /// machine. Fails with the reason why nothing is enforced.
    pub(in super::super) fn restrict_files(
        models: &LocalModels,
        temporary: &Path,
        caches: &[&Path],
    ) -> Result<(), String> {
        match restrict(models, temporary, caches) {
            Ok(RulesetStatus::NotEnforced) => Err("this kernel has no Landlock".to_owned()),
            Ok(_) => Ok(()),
            Err(error) => Err(error.to_string()),
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
        // The operator's certificates, and driver libraries.
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
            // Allows the run's folder itself to be removed at the end.
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

    /// A restricted thread reads its models, writes to its folder and caches, and
    /// has no access to the server's data.
    #[test]
    fn the_servers_data_is_inaccessible() {
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
            let closed = restrict_files(&allowed, &own, &[&cache, &contents]);
            let seen = [&data, &models, &own, &cache, &contents]
                .map(|folder| (read(folder), write(folder)));
            std::fs::remove_dir_all(&own).unwrap();
            (closed, seen)
        };
        // In its own thread, because the restriction can't be lifted.
        let (closed, seen) = std::thread::scope(|scope| scope.spawn(closed_in).join().unwrap());
        let expected = match closed {
            Ok(()) => [
                (false, false),
                (true, false),
                (true, true),
                (true, true),
                (true, true),
            ],
            Err(reason) => {
                assert!(reason.contains("Landlock"), "{reason}");
                [(true, true); 5]
            }
        };
        assert_eq!(seen, expected);
        assert!(read(&data), "other threads are not restricted");
    }
}
