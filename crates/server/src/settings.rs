//! What an operator decides.

mod mail;
mod oidc;

use std::{path::PathBuf, time::Duration};

use finetuner_protocol::worker::LocalModels;
use ipnet::IpNet;
use url::Url;

use crate::error::StartError;
pub use mail::{Encryption, Mail};
pub use oidc::Oidc;
pub(crate) use oidc::{Client, check_address};

/// How a server carries out runs, and what it allows them.
///
/// ```
/// use std::{path::PathBuf, time::Duration};
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
    /// Shared projects that one user may own; 16 by default.
    pub max_projects: Option<u64>,
    /// Days that entries of the audit log are kept; 365 by default.
    pub audit_days: u32,
    /// The bytes that the data, models and checkpoints of one project may take, as
    /// of the personal project of a user; without limit by default.
    pub max_stored: Option<u64>,
    /// The bytes of memory that finished models may take which are used over
    /// `/v1/embeddings` and tried in the console; 2 GiB by default. The least
    /// recently used go first, and one that needs more is refused.
    pub max_loaded: u64,
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
    /// The address under which browsers reach the server, such as
    /// `https://finetuner.example.org`, for links in messages; none by default.
    pub public_url: Option<String>,
    /// Whether webhooks may call addresses of this machine and of private networks; no
    /// by default, since users could explore the server's network by them.
    pub private_webhooks: bool,
    /// Webhooks of a project; 10 by default.
    pub max_webhooks: u64,
    /// How the server sends e-mail; it sends none by default.
    pub mail: Mail,
    /// Signing in through a provider of OpenID Connect; there is none by default.
    pub oidc: Oidc,
    /// How long stopping may wait for workers to pause; 30 seconds by default.
    pub grace: Duration,
    /// How long the engine of a launcher may know nothing of a job before the job
    /// counts as gone, where its worker gives no sign of life either; 30 seconds by
    /// default.
    pub job_grace: Duration,
    /// How long a job may run before its worker calls the server; 15 minutes by
    /// default. Time in the engine's queue does not count.
    pub first_call: Duration,
    /// What workers on other machines are told, and what they ask for.
    pub workers: Workers,
}

/// Where workers on other machines find the server, and what they ask the engine
/// for.
///
/// ```
/// let workers = finetuner_server::Workers {
///     url: Some("https://finetuner.example.org".to_owned()),
///     max_cpus: Some(4),
///     ..finetuner_server::Workers::default()
/// };
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Workers {
    /// The address under which workers on other machines reach this server.
    pub url: Option<String>,
    /// A file with a certificate authority in PEM form that workers on other machines
    /// trust beside the system's.
    pub ca: Option<PathBuf>,
    /// Cores of a run whose client names no number.
    pub cpus: Option<u32>,
    /// Graphics processors of a run on one whose client names no number.
    pub gpus: Option<u32>,
    /// The most cores that a run gets. Clients ask for as many as `num_workers` says,
    /// which is 8 by default.
    pub max_cpus: Option<u32>,
    /// The most graphics processors that a run gets. 0 says that the machines have
    /// none: runs on one train on the main processor, as they do on such a machine.
    pub max_gpus: Option<u32>,
}

impl Workers {
    /// The cores of a run that has asked for so many.
    pub(crate) fn cpus(&self, asked: Option<u32>) -> Option<u32> {
        at_most(asked.or(self.cpus), self.max_cpus)
    }

    /// The graphics processors of a run on one that has asked for so many.
    pub(crate) fn gpus(&self, asked: Option<u32>) -> Option<u32> {
        match self.max_gpus {
            Some(0) => None,
            most => at_most(asked.or(self.gpus), most),
        }
    }
}

/// At least one, where there is a number.
fn at_most(wanted: Option<u32>, most: Option<u32>) -> Option<u32> {
    wanted.map(|wanted| wanted.min(most.unwrap_or(u32::MAX)).max(1))
}

impl Settings {
    /// The address under which browsers reach the server.
    pub(crate) fn public_address(&self) -> Result<Option<Url>, StartError> {
        let Some(text) = &self.public_url else {
            return Ok(None);
        };
        let bad = |reason: &str| {
            let remedy = "give an address such as https://finetuner.example.org";
            StartError::setting("server.public_url", format!("`{text}` {reason}: {remedy}"))
        };
        let url = Url::parse(text).map_err(|e| bad(&format!("is no address ({e})")))?;
        if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
            return Err(bad("is not http or https"));
        }
        let is_plain = url.username().is_empty()
            && url.password().is_none()
            && url.query().is_none()
            && url.fragment().is_none();
        match is_plain {
            true => Ok(Some(url)),
            false => Err(StartError::setting(
                "server.public_url",
                "it holds more than scheme, host, port and path: leave the rest out",
            )),
        }
    }
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
            max_projects: Some(16),
            audit_days: 365,
            max_stored: None,
            max_loaded: 2 << 30,
            disk_reserve: None,
            trusted_proxies: Vec::new(),
            presigned: false,
            public_url: None,
            private_webhooks: false,
            max_webhooks: 10,
            mail: Mail::default(),
            oidc: Oidc::default(),
            grace: Duration::from_secs(30),
            job_grace: Duration::from_secs(30),
            first_call: Duration::from_secs(15 * 60),
            workers: Workers::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_gets_what_it_asks_for_within_the_limit() {
        let workers = Workers {
            cpus: Some(2),
            max_cpus: Some(4),
            ..Workers::default()
        };
        let all = [None, Some(3), Some(8), Some(0)].map(|asked| workers.cpus(asked));
        assert_eq!(all, [Some(2), Some(3), Some(4), Some(1)]);
        assert_eq!((workers.gpus(None), workers.gpus(Some(9))), (None, Some(9)));
    }
}
