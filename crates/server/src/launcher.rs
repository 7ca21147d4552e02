//! Starting workers. Every launcher starts the same program,
//! `finetuner-server worker`, on some engine: threads, child processes, or a
//! batch system.
//!
//! The contract is what every batch system can do: submit a job under a name,
//! stop it, list the jobs with their states. Which run has which worker, how
//! often it is tried and how it ends is decided by the server's queue. A launcher
//! keeps no state that another server would need: the server may be replaced at
//! any time, and finds its jobs again by their names.

mod environment;
#[cfg(test)]
mod example;
mod kubernetes;
mod processes;
mod ray;
mod remote;
mod slurm;
mod threads;

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

use documented::DocumentedFields;
use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};

use kubernetes::KubernetesSettings;
use processes::{Processes, ProcessesSettings};
use ray::{Ray, RaySettings};
use slurm::{Slurm, SlurmSettings};
pub(crate) use threads::Threads;

use crate::error::StartError;

/// The launchers by their names in the settings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    Threads,
    #[default]
    Processes,
    Ray,
    Slurm,
    Kubernetes,
}

/// Where runs are carried out. The table of the chosen launcher counts, and the
/// others are ignored.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, DocumentedFields)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct LauncherSettings {
    /// What starts workers: `processes` of this machine, `threads` of the server, or
    /// jobs of `ray`, `slurm` or `kubernetes`.
    pub(crate) kind: Kind,
    /// Child processes of the server.
    pub(crate) processes: ProcessesSettings,
    /// Jobs of a Ray cluster.
    pub(crate) ray: RaySettings,
    /// Batch jobs of Slurm.
    pub(crate) slurm: SlurmSettings,
    /// Jobs of Kubernetes.
    pub(crate) kubernetes: KubernetesSettings,
}

/// What a launcher knows of its server.
pub(crate) struct Home<'a> {
    /// How the names of the server's jobs begin, `ft-{server}-`.
    pub(crate) prefix: String,
    /// The data folder, where a launcher may have a folder of its own.
    pub(crate) folder: &'a Path,
    /// The file with the certificate authority that workers trust.
    pub(crate) ca: Option<PathBuf>,
}

/// Makes the chosen launcher.
///
/// # Errors
/// [`StartError::Setting`] with the key of the setting that can't be used.
pub(crate) fn make(
    settings: &LauncherSettings,
    home: &Home<'_>,
) -> Result<Arc<dyn Launcher>, StartError> {
    Ok(match settings.kind {
        Kind::Threads => Arc::new(Threads::default()),
        Kind::Processes => Arc::new(Processes::new(&settings.processes, home)?),
        Kind::Ray => Arc::new(Ray::new(&settings.ray, home)?),
        Kind::Slurm => Arc::new(Slurm::new(&settings.slurm, home)?),
        Kind::Kubernetes => kubernetes::make(&settings.kubernetes, home)?,
    })
}

/// How the names of a server's jobs begin. Eight digits of its id keep a name
/// within 52 characters, so that Kubernetes can append to it.
pub(crate) fn prefix_of(server_id: &str) -> String {
    let id = server_id.get(..8).unwrap_or(server_id);
    format!("ft-{id}-")
}

/// Everything that a launcher needs to start a job.
#[derive(Clone)]
pub struct WorkOrder {
    /// The job's name, `ft-{server}-{run}-{launch}`: lower-case letters, digits
    /// and `-`, at most 52 characters. It is never given out twice.
    pub name: String,
    /// The server's address, for `FINETUNER_WORKER_URL`.
    pub url: String,
    /// The token of the worker's first call, which exchanges it for one that the
    /// worker made itself. It is good for one use.
    ///
    /// It goes into a file that `FINETUNER_WORKER_START` names, or for child
    /// processes into `FINETUNER_WORKER_TOKEN`; never into arguments or an
    /// environment that others can read.
    pub start_token: String,
    /// How the name of the worker's temporary folder begins, for
    /// `FINETUNER_WORKER_FOLDER`. A server on the same machine removes the folder
    /// of a worker that was killed.
    pub folder: String,
    /// A certificate authority in PEM form that the worker trusts beside the
    /// system's, for the file that `FINETUNER_WORKER_CA` names.
    pub ca: Option<String>,
    /// What the job asks the engine for.
    pub resources: Resources,
    /// `run`, `user` and `experiment`, for people who look at the engine's own
    /// pages.
    pub labels: BTreeMap<String, String>,
}

impl fmt::Debug for WorkOrder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not the token.
        f.debug_struct("WorkOrder")
            .field("name", &self.name)
            .field("url", &self.url)
            .field("resources", &self.resources)
            .finish_non_exhaustive()
    }
}

/// What a job asks the engine for. Nothing is the engine's default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// Processor cores.
    pub cpus: Option<u32>,
    /// Graphics processors.
    pub gpus: Option<u32>,
    /// Memory in bytes.
    pub memory: Option<u64>,
}

/// The state of a job that the engine knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JobState {
    /// It waits in the engine's queue; the engine's words say why, such as
    /// `job 812, Resources`.
    Pending(String),
    /// Its worker runs, or is about to.
    Running,
    /// It is over; the words say how.
    Ended(String),
}

/// Why a job was not started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LaunchError {
    /// It may work later, for example when the engine answers again.
    Retry(String),
    /// It will never work for this order, for example because it asks for more
    /// than any machine has. The run fails with this reason.
    Refused(String),
}

/// An engine that runs workers.
///
/// The queue calls it from one task, with a time limit for each call: a future
/// that is dropped has failed.
pub trait Launcher: Send + Sync {
    /// Starts a job. A job that exists under this name is success: the answer to
    /// an earlier attempt may have been lost.
    fn start<'a>(&'a self, order: &'a WorkOrder) -> BoxFuture<'a, Result<(), LaunchError>>;

    /// Asks a job to pause (SIGTERM), and kills it if it does not end within a
    /// while. A job that has ended or is not known is no error. Returns without
    /// waiting for the end; repeated calls have no further effect.
    fn stop<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<(), String>>;

    /// Lists every job of this server that the engine knows, also those that an
    /// earlier process of this server started. Ended jobs are listed as long as
    /// the engine remembers them.
    ///
    /// # Errors
    /// The reason why nothing is known now. The caller must not conclude that a
    /// job is gone.
    fn list(&self) -> BoxFuture<'_, Result<HashMap<String, JobState>, String>>;

    /// The engine's name in a status, such as `Slurm`.
    fn engine(&self) -> &'static str;

    /// Whether jobs go on when the server is killed.
    fn outlives_the_server(&self) -> bool {
        true
    }

    /// Whether workers run on other machines, and reach the server at the address
    /// that the settings name.
    fn is_remote(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_jobs_fit_every_engine() {
        let longest = format!("{}{}-{}", prefix_of("0123456789abcdef"), i64::MAX, i64::MAX);
        assert!(longest.len() <= 52, "{longest}");
        assert!(longest.starts_with("ft-01234567-"));
    }

    #[test]
    fn an_order_shows_no_token() {
        let order = WorkOrder {
            name: "ft-0-1-1".into(),
            url: "http://127.0.0.1:1".into(),
            start_token: "ft_secret".into(),
            folder: "f".into(),
            ca: None,
            resources: Resources::default(),
            labels: BTreeMap::new(),
        };
        assert!(!format!("{order:?}").contains("secret"));
    }
}
