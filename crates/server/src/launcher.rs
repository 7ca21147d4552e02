//! How a worker is started. Every launcher starts the same worker;
//! the contract is no more than what a batch system such as Slurm or Ray Jobs
//! can do: start, kill, list what runs. Which run has which worker, how often it
//! is tried and how it ends is the server's own business.

mod environment;
mod processes;
mod threads;

use futures_util::future::BoxFuture;

pub(crate) use environment::Account;
pub(crate) use processes::Processes;
pub(crate) use threads::Threads;

/// What a worker must be told.
#[derive(Clone)]
pub struct WorkOrder {
    /// Where it finds the server, for `FINETUNER_WORKER_URL`.
    pub url: String,
    /// What it shows to the server, for `FINETUNER_WORKER_TOKEN`. Good for one
    /// run, until that run is given to another worker.
    pub token: String,
    /// How the name of its temporary folder begins, for `FINETUNER_WORKER_FOLDER`.
    /// The server removes the folder of a worker that ended without doing so.
    pub folder: String,
}

impl std::fmt::Debug for WorkOrder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WorkOrder")
            .field("url", &self.url)
            .finish_non_exhaustive()
    }
}

/// Starts workers, somewhere.
///
/// A launcher for a batch system runs `finetuner-server worker` there with the
/// environment variables of the order, and gives back what the system calls
/// the job.
pub trait Launcher: Send + Sync {
    /// Starts a worker. Returns what it is called from now on.
    ///
    /// An error says why there can be none.
    fn start(&self, order: WorkOrder) -> BoxFuture<'_, Result<String, String>>;

    /// Ends a worker at once. One that has ended is no error.
    fn kill<'a>(&'a self, job: &'a str) -> BoxFuture<'a, Result<(), String>>;

    /// The workers that run, of those that this launcher has started or taken
    /// over.
    fn running(&self) -> BoxFuture<'_, Result<Vec<String>, String>>;

    /// How a worker that runs no more has ended, where that is known.
    fn end_of(&self, job: &str) -> Option<String> {
        let _ = job;
        None
    }

    /// Takes over a worker that an earlier launcher of this kind has started:
    /// from now on it is listed while it runs, and can be killed. False, the
    /// default, where the launcher can't tell whether it runs.
    fn take_over<'a>(&'a self, job: &'a str) -> BoxFuture<'a, Result<bool, String>> {
        let _ = job;
        Box::pin(std::future::ready(Ok(false)))
    }

    /// Whether workers run on the server's machine and go on when the server is
    /// killed. They are then given an address that stays the same from one
    /// start of the server to the next.
    fn outlives_the_server(&self) -> bool {
        false
    }
}
