//! What an operator decides.

use std::time::Duration;

use finetuner_protocol::LocalModels;
use ipnet::IpNet;

/// How a server carries out runs, and what it allows them.
///
/// ```
/// use std::time::Duration;
///
/// let settings = finetuner_server::Settings {
///     runs_at_once: 2,
///     max_run_time: Some(Duration::from_secs(6 * 3600)),
///     ..finetuner_server::Settings::default()
/// };
/// let server = finetuner_server::Server::embedded().settings(settings);
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// How many runs may go on at once; 1 by default. The threads of a run use
    /// all cores, so more is of use only with more than one machine's worth.
    pub runs_at_once: usize,
    /// From which folders of this machine runs may load models; from none by
    /// default.
    pub local_models: LocalModels,
    /// The most bytes of a model that a run fetches from the model hub; 16 GiB by
    /// default.
    pub max_hub_download: Option<u64>,
    /// Whether runs may fetch pictures from addresses of this machine and of private
    /// networks, and report to trackers there; no by default, since users could
    /// explore the server's network by their runs.
    pub private_addresses: bool,
    /// How long a worker may be silent before it counts as lost; 30 seconds by
    /// default.
    pub lease: Duration,
    /// How many workers a run may lose by faults of its own before it counts as
    /// failed; 3 by default. A checkpoint that gets further sets the count back.
    /// What ends because the server stops, or because no worker can be started,
    /// does not count.
    pub attempts: u32,
    /// How often a worker makes a checkpoint; every minute by default.
    pub checkpoint_every: Duration,
    /// How long workers may work on a run; without limit by default. Time in
    /// which it waits or pauses does not count.
    pub max_run_time: Option<Duration>,
    /// The memory that a worker may use, in bytes; without limit by default.
    /// A run in a thread of the server counts the whole process. On Linux the
    /// system gives a worker's process a quarter more, and at least 512 MiB
    /// more, and nothing above that.
    pub max_run_memory: Option<u64>,
    /// The bytes that a worker's temporary files may take; without limit by
    /// default. On Linux the system refuses a single file above it.
    pub max_run_disk: Option<u64>,
    /// Runs of one user that may wait or train at a time; without limit by
    /// default.
    pub max_open_runs: Option<u64>,
    /// Uploads of one user that may be in progress at a time; 16 by default.
    pub max_uploads: usize,
    /// The bytes that one user's data, models and checkpoints may take; without
    /// limit by default.
    pub max_stored: Option<u64>,
    /// The bytes of the data folder's disk that are kept for runs in progress:
    /// new uploads and runs are refused when there is less room. By default 512
    /// MiB, or a twentieth of a smaller disk.
    pub disk_reserve: Option<u64>,
    /// The networks of the proxies in front of the server. Only their
    /// `Forwarded` and `X-Forwarded-For` headers are believed; none by default.
    pub trusted_proxies: Vec<IpNet>,
    /// Whether workers fetch data, models and checkpoints from the store itself, by
    /// addresses that the server signs; no by default. They must be able to reach
    /// the store at the server's own address of it. Without effect on a store in a
    /// folder.
    pub presigned: bool,
    /// How long stopping may wait for workers to pause; 30 seconds by default.
    pub grace: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            runs_at_once: 1,
            local_models: LocalModels::Nowhere,
            max_hub_download: Some(16 << 30),
            private_addresses: false,
            lease: Duration::from_secs(30),
            attempts: 3,
            checkpoint_every: Duration::from_secs(60),
            max_run_time: None,
            max_run_memory: None,
            max_run_disk: None,
            max_open_runs: None,
            max_uploads: 16,
            max_stored: None,
            disk_reserve: None,
            trusted_proxies: Vec::new(),
            presigned: false,
            grace: Duration::from_secs(30),
        }
    }
}
