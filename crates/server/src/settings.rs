//! Settings of a server, as an embedding program gives them.

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

/// Settings for the execution of runs and for the limits of users.
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
    /// Maximum number of concurrent runs; 1 by default. A run's threads use all
    /// cores, so a higher number helps only with several machines.
    pub runs_at_once: usize,
    /// Folders of this machine from which runs may load models; none by default.
    pub local_models: LocalModels,
    /// Maximum size of a model that a run downloads from the model hub, in bytes;
    /// 16 GiB by default.
    pub max_hub_download: Option<u64>,
    /// Whether runs may fetch images from this machine and private networks, and
    /// report to trackers there. Off by default, because users could explore the
    /// server's network with their runs.
    pub private_addresses: bool,
    /// Time for which a worker may be silent before it counts as lost; 25 seconds
    /// by default.
    pub lease: Duration,
    /// Number of lost workers after which a run fails; 3 by default. A checkpoint that
    /// advances the run resets the count. Workers that end because the server stops,
    /// and workers that can't be started, do not count.
    pub attempts: u32,
    /// Interval between two checkpoints; one minute by default.
    pub checkpoint_every: Duration,
    /// Maximum working time of a run; unlimited by default. Time in which the run
    /// waits or pauses does not count.
    pub max_run_time: Option<Duration>,
    /// Maximum memory of a worker in bytes; unlimited by default. A run in a thread
    /// of the server counts the memory of the whole process. On Linux, the
    /// operating system enforces a limit that is a quarter higher, and at least 512
    /// MiB higher, on a worker's process.
    pub max_run_memory: Option<u64>,
    /// Maximum size of a worker's temporary files in bytes; unlimited by default.
    /// On Linux, the operating system refuses a single file above this size.
    pub max_run_disk: Option<u64>,
    /// Maximum number of one user's waiting and training runs; unlimited by
    /// default.
    pub max_open_runs: Option<u64>,
    /// Maximum number of one user's uploads in progress; 16 by default.
    pub max_uploads: usize,
    /// Maximum number of shared projects that one user may create or own; 16 by default.
    pub max_projects: Option<u64>,
    /// Days that entries of the audit log are kept; 365 by default.
    pub audit_days: u32,
    /// Maximum size of one project's data, models and checkpoints in bytes;
    /// unlimited by default. A user's personal project is one of them.
    pub max_stored: Option<u64>,
    /// Maximum memory in bytes for finished models that are used over
    /// `/v1/embeddings` and tried in the console; 2 GiB by default. The least
    /// recently used models are unloaded first. A model that needs more than the
    /// maximum is refused.
    pub max_loaded: u64,
    /// Bytes of the data folder's disk that are reserved for runs in progress. New
    /// uploads and runs are refused if less is free. By default 512 MiB, or a
    /// twentieth of a smaller disk.
    pub disk_reserve: Option<u64>,
    /// Networks of the proxies in front of the server; none by default. Only their
    /// `Forwarded` and `X-Forwarded-For` headers are trusted.
    pub trusted_proxies: Vec<IpNet>,
    /// Whether workers fetch data, models and checkpoints directly from the store,
    /// at addresses that the server signs; off by default. The workers must be able
    /// to reach the store at the address that the server uses. No effect on a store
    /// in a folder.
    pub presigned: bool,
    /// Address at which browsers reach the server, such as
    /// `https://finetuner.example.org`, for links in messages; none by default. Its path,
    /// if a proxy serves the server under one, is part of download addresses too.
    pub public_url: Option<String>,
    /// Whether webhooks may call addresses of this machine and of private networks;
    /// off by default, since users could explore the server's network with them.
    pub private_webhooks: bool,
    /// Maximum number of webhooks per project; 10 by default.
    pub max_webhooks: u64,
    /// Settings for sending e-mail; the server sends none by default.
    pub mail: Mail,
    /// Sign-in through an OpenID Connect provider; none by default.
    pub oidc: Oidc,
    /// Time for which stopping the server waits for workers to pause; 30 seconds by
    /// default.
    pub grace: Duration,
    /// Time after which a job that the launcher's engine does not list counts as
    /// gone, if its worker is silent as well; 30 seconds by default.
    pub job_grace: Duration,
    /// Time for which a job may run before its worker first calls the server; 15
    /// minutes by default. Time in the engine's queue does not count.
    pub first_call: Duration,
    /// Settings for workers on other machines.
    pub workers: Workers,
}

/// Settings for workers on other machines: the server's address, and the
/// resources that jobs request.
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
    /// Address at which workers on other machines reach this server.
    pub url: Option<String>,
    /// PEM file with a certificate authority that workers on other machines trust
    /// in addition to the system's.
    pub ca: Option<PathBuf>,
    /// Cores of a run whose client gives no number.
    pub cpus: Option<u32>,
    /// GPUs of a GPU run whose client gives no number.
    pub gpus: Option<u32>,
    /// Maximum number of cores of a run. Clients request the number in
    /// `num_workers`, which is 4 by default.
    pub max_cpus: Option<u32>,
    /// Maximum number of GPUs of a run. 0 means that the machines have none: GPU
    /// runs then train on the CPU.
    pub max_gpus: Option<u32>,
}

impl Workers {
    /// Returns the cores for a run that requested `asked`.
    pub(crate) fn cpus(&self, asked: Option<u32>) -> Option<u32> {
        at_most(asked.or(self.cpus), self.max_cpus)
    }

    /// Returns the GPUs for a GPU run that requested `asked`.
    pub(crate) fn gpus(&self, asked: Option<u32>) -> Option<u32> {
        match self.max_gpus {
            Some(0) => None,
            most => at_most(asked.or(self.gpus), most),
        }
    }
}

/// Limits a number to `most`, and to at least 1.
fn at_most(wanted: Option<u32>, most: Option<u32>) -> Option<u32> {
    wanted.map(|wanted| wanted.min(most.unwrap_or(u32::MAX)).max(1))
}

impl Settings {
    /// Parses the address at which browsers reach the server.
    pub(crate) fn public_address(&self) -> Result<Option<Url>, StartError> {
        let Some(text) = &self.public_url else {
            return Ok(None);
        };
        let bad = |reason: &str| {
            let remedy = "give an address such as https://finetuner.example.org";
            StartError::setting("server.public_url", format!("`{text}` {reason}: {remedy}"))
        };
        let url = Url::parse(text).map_err(|e| bad(&format!("is not an address ({e})")))?;
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
                "it contains more than scheme, host, port and path: remove the rest",
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
            lease: Duration::from_secs(25),
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
    fn a_run_gets_the_requested_resources_within_the_limits() {
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
