//! The contract between the queue and the launchers.
//!
//! It consists of what every batch system can do: submit a job under a name,
//! stop it, and list the jobs with their states. The server's queue decides
//! which run gets which worker, how often a run is tried and how it ends. A
//! launcher keeps no state that another server process would need: a new server
//! process finds its jobs by their names.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    path::{Path, PathBuf},
};

use futures_util::future::BoxFuture;

/// Facts about the server that a launcher needs.
pub(crate) struct Home<'a> {
    /// Prefix of the server's job names, `ft-{server}-`.
    pub(crate) prefix: String,
    /// The data folder. A launcher may create a folder of its own in it.
    pub(crate) folder: &'a Path,
    /// File with the certificate authority that workers trust.
    pub(crate) ca: Option<PathBuf>,
}

/// Returns the prefix of a server's job names. Eight digits of the server's id
/// keep a name within 52 characters, so that Kubernetes can append to it.
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
    /// Token for the worker's first call. The call exchanges it for a token
    /// that the worker generated. It can be used once.
    ///
    /// Launchers write it to the file named by `FINETUNER_WORKER_START`, or for
    /// child processes to the variable `FINETUNER_WORKER_TOKEN`. It must not
    /// appear in arguments or in an environment that others can read.
    pub start_token: String,
    /// Prefix of the name of the worker's temporary folder, for
    /// `FINETUNER_WORKER_FOLDER`. A server on the same machine removes the
    /// folder of a worker that was killed.
    pub folder: String,
    /// Certificate authority in PEM form that the worker trusts in addition to
    /// the system's, for the file named by `FINETUNER_WORKER_CA`.
    pub ca: Option<String>,
    /// Resources that the job requests.
    pub resources: Resources,
    /// `run`, `user` and `experiment`, shown on the engine's own pages.
    pub labels: BTreeMap<String, String>,
}

impl fmt::Debug for WorkOrder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The start token is left out.
        f.debug_struct("WorkOrder")
            .field("name", &self.name)
            .field("url", &self.url)
            .field("resources", &self.resources)
            .finish_non_exhaustive()
    }
}

/// Resources that a job requests. `None` leaves the choice to the engine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// Processor cores.
    pub cpus: Option<u32>,
    /// Graphics processors (GPUs).
    pub gpus: Option<u32>,
    /// Memory in bytes.
    pub memory: Option<u64>,
}

/// Default reason for the end of a job whose worker reported no outcome.
pub(super) const NO_OUTCOME: &str = "it ended without reporting an outcome";

/// State of a job that the engine knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JobState {
    /// The job waits in the engine's queue. The text is the engine's reason,
    /// such as `job 812, Resources`.
    Pending(String),
    /// The worker runs or is about to run.
    Running,
    /// The job has ended. The text says how.
    Ended(String),
}

/// Reason why a job was not started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LaunchError {
    /// The start may succeed later, for example when the engine answers again.
    Retry(String),
    /// The start can't succeed for this order, for example because it requests
    /// more than any machine has. The run fails with this reason.
    Refused(String),
}

/// An engine that runs workers.
///
/// The queue calls it from one task and limits the time of each call. It counts
/// a call whose future it drops as failed.
pub trait Launcher: Send + Sync {
    /// Starts a job. Succeeds if a job with this name exists, because the
    /// answer to an earlier attempt may have been lost.
    fn start<'a>(&'a self, order: &'a WorkOrder) -> BoxFuture<'a, Result<(), LaunchError>>;

    /// Asks a job to pause (SIGTERM), and kills it if it does not end within
    /// the launcher's grace period. Succeeds for a job that has ended or is
    /// unknown. Returns without waiting for the end. Repeated calls have no
    /// further effect.
    fn stop<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<(), String>>;

    /// Lists every job of this server that the engine knows, including jobs
    /// that an earlier process of this server started. Ended jobs stay listed
    /// for as long as the engine remembers them.
    ///
    /// # Errors
    /// The reason why the list could not be read. The caller must not conclude
    /// that a job is gone.
    fn list(&self) -> BoxFuture<'_, Result<HashMap<String, JobState>, String>>;

    /// Returns the engine's name for status texts, such as `Slurm`.
    fn engine(&self) -> &'static str;

    /// Whether jobs continue when the server is killed.
    fn outlives_the_server(&self) -> bool {
        true
    }

    /// Whether workers run on other machines and reach the server at the
    /// address in the settings.
    fn is_remote(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::launcher::example;

    #[test]
    fn job_names_are_valid_in_every_engine() {
        let longest = format!("{}{}-{}", prefix_of("0123456789abcdef"), i64::MAX, i64::MAX);
        assert!(longest.len() <= 52, "{longest}");
        assert!(longest.starts_with("ft-01234567-"));
    }

    #[test]
    fn debug_output_of_an_order_hides_the_token() {
        let order = example::order("ft_secret", "run");
        assert!(!format!("{order:?}").contains("secret"));
    }
}
