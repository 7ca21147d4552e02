//! Environment variables and the user account of workers.
//!
//! A worker reads models and data of users, so it gets none of the server's
//! secrets: no keys of the store and no token of a model hub.

use std::{ffi::OsString, path::PathBuf};

/// Variables for paths, the network, trackers, logs and the number of threads.
const PASSED_ON: [&str; 52] = [
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "USERPROFILE",
    "APPDATA",
    "LOCALAPPDATA",
    "SYSTEMROOT",
    "WINDIR",
    "TMPDIR",
    "TEMP",
    "TMP",
    "TZ",
    "LANG",
    "LANGUAGE",
    "XDG_CACHE_HOME",
    "LD_LIBRARY_PATH",
    "DYLD_LIBRARY_PATH",
    "DYLD_FALLBACK_LIBRARY_PATH",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "all_proxy",
    "no_proxy",
    "HF_HOME",
    "HF_HUB_CACHE",
    "HF_ENDPOINT",
    "HF_HUB_OFFLINE",
    "MLFLOW_TRACKING_URI",
    "WANDB_BASE_URL",
    "RUST_LOG",
    "RUST_BACKTRACE",
    "RUST_LIB_BACKTRACE",
    "FINETUNER_LOG_FORMAT",
    "FINETUNER_WORKER_CA",
    "FINETUNER_WORKER_CACHE",
    "FINETUNER_WORKER_CACHE_MB",
    "RAYON_NUM_THREADS",
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "CUDA_VISIBLE_DEVICES",
    "CUDA_HOME",
    "CUDA_PATH",
    "CUDA_CACHE_PATH",
    "CUDA_DEVICE_ORDER",
    "NVIDIA_VISIBLE_DEVICES",
];

/// Prefixes of further variables that are passed on.
const PASSED_ON_FROM: [&str; 2] = ["LC_", "MIMALLOC_"];

/// Returns the server's variables that a worker gets: the lists above and those
/// that the operator names in `more`.
pub(super) fn worker_variables(more: &[String]) -> impl Iterator<Item = (OsString, OsString)> {
    std::env::vars_os().filter(move |(name, _)| {
        let Some(name) = name.to_str() else {
            return false;
        };
        PASSED_ON.contains(&name)
            || PASSED_ON_FROM.iter().any(|start| name.starts_with(start))
            || more.iter().any(|more| more == name)
    })
}

/// A user of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Account {
    pub(crate) user: u32,
    pub(crate) group: u32,
    pub(crate) home: PathBuf,
}

impl Account {
    /// Finds a user by name or number in `/etc/passwd`.
    pub(crate) fn find(name: &str) -> Result<Self, String> {
        let list = std::fs::read_to_string("/etc/passwd")
            .map_err(|e| format!("/etc/passwd can't be read: {e}"))?;
        Self::find_in(&list, name).ok_or_else(|| format!("this machine has no user `{name}`"))
    }

    fn find_in(list: &str, name: &str) -> Option<Self> {
        list.lines().find_map(|line| {
            let fields: Vec<&str> = line.split(':').collect();
            let [user_name, _, user, group, _, home, ..] = fields[..] else {
                return None;
            };
            (user_name == name || user == name)
                .then(|| {
                    Some(Self {
                        user: user.parse().ok()?,
                        group: group.parse().ok()?,
                        home: home.into(),
                    })
                })
                .flatten()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_found_by_name_or_number() {
        let list = "root:x:0:0:root:/root:/bin/sh\nbroken\nft:x:77:78::/home/ft:/bin/false\n";
        let found = Account::find_in(list, "ft").unwrap();
        assert_eq!((found.user, found.group), (77, 78));
        assert_eq!(found.home, PathBuf::from("/home/ft"));
        assert_eq!(Account::find_in(list, "77"), Some(found));
        assert_eq!(Account::find_in(list, "nobody"), None);
    }
}
