//! The settings file of `finetuner-server serve`.
//!
//! Every option of `serve` has a key in this file. Options take precedence over
//! environment variables, variables over the file, and the file over the
//! defaults. An unknown key is an error that names its line.

mod values;

use std::{
    fmt::Write,
    num::NonZeroU16,
    path::{Path, PathBuf},
};

use documented::DocumentedFields;
use finetuner_protocol::worker::LocalModels;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    launcher::LauncherSettings,
    server::DEFAULT_ADDRESS,
    settings::{Mail, Oidc, Settings, Workers},
};

pub(crate) use values::{LogFormat, Network, Seconds};

/// All settings of a server.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct SettingsFile {
    pub(crate) server: ServerGroup,
    pub(crate) runs: RunsGroup,
    pub(crate) users: UsersGroup,
    pub(crate) workers: WorkersGroup,
    pub(crate) mail: Mail,
    pub(crate) oidc: Oidc,
    pub(crate) launcher: LauncherSettings,
}

/// The server itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, DocumentedFields)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct ServerGroup {
    /// The address to listen on. (`--address`, FINETUNER_ADDRESS)
    pub(crate) address: String,
    /// The folder of the server's data. (`--data`, FINETUNER_DATA)
    pub(crate) data: PathBuf,
    /// The store of artifacts, such as s3://bucket/folder. By default the data
    /// folder. Keys come from the environment. (`--store`, FINETUNER_STORE)
    pub(crate) store: Option<String>,
    /// Whether workers fetch data, models and checkpoints directly from S3, at
    /// signed addresses that are valid for some minutes. They must be able to reach
    /// S3 at the server's address of it. (`--presigned`, FINETUNER_PRESIGNED)
    pub(crate) presigned: bool,
    /// A certificate in PEM form, for https. (`--tls-cert`, FINETUNER_TLS_CERT)
    pub(crate) tls_cert: Option<PathBuf>,
    /// The certificate's key in PEM form. (`--tls-key`, FINETUNER_TLS_KEY)
    pub(crate) tls_key: Option<PathBuf>,
    /// Addresses or networks of proxies whose `Forwarded` and `X-Forwarded-For`
    /// headers are trusted, such as "10.0.0.0/8". (`--trusted-proxies`,
    /// FINETUNER_TRUSTED_PROXIES)
    pub(crate) trusted_proxies: Vec<Network>,
    /// The address at which browsers reach the server, such as
    /// "https://finetuner.example.org", for links in messages.
    pub(crate) public_url: Option<String>,
    /// Whether webhooks may call addresses of this machine and of private networks.
    pub(crate) private_webhooks: bool,
    /// The maximum memory in MiB for finished models that are used over
    /// `/v1/embeddings` and tried in the console. (`--max-loaded`,
    /// FINETUNER_MAX_LOADED)
    pub(crate) max_loaded: u64,
    /// MiB of the disk that are reserved for runs in progress. By default 512, or a
    /// twentieth of a smaller disk. (`--disk-reserve`, FINETUNER_DISK_RESERVE)
    pub(crate) disk_reserve: Option<u64>,
    /// Seconds that runs have to pause when the server stops. (`--grace`)
    pub(crate) grace: Seconds,
    /// The format of the log on standard error, `text` or `json`. (`--log-format`,
    /// FINETUNER_LOG_FORMAT)
    pub(crate) log_format: LogFormat,
}

impl Default for ServerGroup {
    fn default() -> Self {
        Self {
            address: DEFAULT_ADDRESS.to_owned(),
            data: "finetuner-data".into(),
            store: None,
            presigned: Settings::default().presigned,
            tls_cert: None,
            tls_key: None,
            trusted_proxies: Vec::new(),
            public_url: None,
            private_webhooks: Settings::default().private_webhooks,
            max_loaded: Settings::default().max_loaded >> 20,
            disk_reserve: None,
            grace: Settings::default().grace.into(),
            log_format: LogFormat::Text,
        }
    }
}

/// Runs and their limits.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, DocumentedFields)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct RunsGroup {
    /// The maximum number of runs that have a job, including jobs that wait in an
    /// engine's queue. (`--runs-at-once`)
    pub(crate) at_once: NonZeroU16,
    /// Folders whose models runs may start from. "/" means every folder of the
    /// worker's machine. (`--local-models`, FINETUNER_LOCAL_MODELS)
    pub(crate) local_models: Vec<PathBuf>,
    /// The maximum size in MiB of a model that a run downloads from the model hub.
    /// (`--max-hub-download`)
    pub(crate) max_hub_download: u64,
    /// Whether runs may fetch images from private networks and report to trackers
    /// there. (`--private-addresses`)
    pub(crate) private_addresses: bool,
    /// Seconds of silence after which a worker counts as lost. (`--lease`)
    pub(crate) lease: Seconds,
    /// The number of lost workers after which a run fails. (`--attempts`)
    pub(crate) attempts: NonZeroU16,
    /// Seconds between two checkpoints of a run. (`--checkpoint-every`)
    pub(crate) checkpoint_every: Seconds,
    /// The maximum working time of a run in seconds. (`--max-run-time`)
    pub(crate) max_time: Option<Seconds>,
    /// The maximum memory of a run in MiB, which its job also requests from the
    /// engine. (`--max-run-memory`)
    pub(crate) max_memory: Option<u64>,
    /// The maximum size of a run's files in MiB. (`--max-run-disk`)
    pub(crate) max_disk: Option<u64>,
}

impl Default for RunsGroup {
    fn default() -> Self {
        let settings = Settings::default();
        Self {
            at_once: NonZeroU16::MIN,
            local_models: Vec::new(),
            max_hub_download: settings.max_hub_download.unwrap_or_default() >> 20,
            private_addresses: settings.private_addresses,
            lease: settings.lease.into(),
            attempts: u16::try_from(settings.attempts)
                .ok()
                .and_then(NonZeroU16::new)
                .unwrap_or(NonZeroU16::MIN),
            checkpoint_every: settings.checkpoint_every.into(),
            max_time: None,
            max_memory: None,
            max_disk: None,
        }
    }
}

/// Limits of one user.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, DocumentedFields)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct UsersGroup {
    /// The maximum number of one user's waiting and training runs.
    /// (`--max-open-runs`, FINETUNER_MAX_OPEN_RUNS)
    pub(crate) max_open_runs: Option<std::num::NonZeroU64>,
    /// The maximum number of one user's uploads in progress. (`--max-uploads`,
    /// FINETUNER_MAX_UPLOADS)
    pub(crate) max_uploads: NonZeroU16,
    /// The maximum number of shared projects that one user may create or own.
    /// (`--max-projects`, FINETUNER_MAX_PROJECTS)
    pub(crate) max_projects: NonZeroU16,
    /// Days that entries of the audit log are kept. (`--audit-days`,
    /// FINETUNER_AUDIT_DAYS)
    pub(crate) audit_days: NonZeroU16,
    /// The maximum size in MiB of one project's data, models and checkpoints. A
    /// user's personal project is one of them. (`--max-stored`,
    /// FINETUNER_MAX_STORED)
    pub(crate) max_stored: Option<u64>,
    /// The maximum number of webhooks per project.
    pub(crate) max_webhooks: u64,
}

impl Default for UsersGroup {
    fn default() -> Self {
        Self {
            max_open_runs: None,
            max_uploads: u16::try_from(Settings::default().max_uploads)
                .ok()
                .and_then(NonZeroU16::new)
                .unwrap_or(NonZeroU16::MIN),
            max_projects: NonZeroU16::new(16).unwrap_or(NonZeroU16::MIN),
            audit_days: NonZeroU16::new(365).unwrap_or(NonZeroU16::MIN),
            max_stored: None,
            max_webhooks: Settings::default().max_webhooks,
        }
    }
}

/// Workers, on all kinds of machines.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, DocumentedFields)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct WorkersGroup {
    /// The address at which workers on other machines reach this server, such as
    /// "https://finetuner.example.org:8642". Launchers of other machines need it.
    pub(crate) url: Option<String>,
    /// A PEM file with a certificate authority that workers on other machines trust
    /// in addition to the system's.
    pub(crate) ca: Option<PathBuf>,
    /// Cores of a run whose client gives no number.
    pub(crate) cpus: Option<u32>,
    /// GPUs of a GPU run whose client gives no number.
    pub(crate) gpus: Option<u32>,
    /// The maximum number of cores of a run. Clients request the number in
    /// `num_workers`, which is 4 by default.
    pub(crate) max_cpus: Option<u32>,
    /// The maximum number of GPUs of a run. 0 if the machines have none.
    pub(crate) max_gpus: Option<u32>,
    /// Seconds after which a job that the engine does not list counts as gone, if
    /// its worker is silent as well.
    pub(crate) job_grace: Seconds,
    /// Seconds for which a job may run before its worker first calls the server.
    pub(crate) first_call: Seconds,
}

impl Default for WorkersGroup {
    fn default() -> Self {
        let settings = Settings::default();
        Self {
            url: None,
            ca: None,
            cpus: None,
            gpus: None,
            max_cpus: None,
            max_gpus: None,
            job_grace: settings.job_grace.into(),
            first_call: settings.first_call.into(),
        }
    }
}

impl SettingsFile {
    /// Reads a file. Without a path, returns the defaults.
    pub(crate) fn read(path: Option<&Path>) -> Result<Self, String> {
        let Some(path) = path else {
            return Ok(Self::default());
        };
        let bad = |reason: &dyn std::fmt::Display| {
            format!("the settings file {}: {reason}", path.display())
        };
        let text = std::fs::read_to_string(path).map_err(|e| bad(&e))?;
        toml::from_str(&text).map_err(|e| bad(&e))
    }

    /// Converts the file to the settings of a server.
    pub(crate) fn settings(&self) -> Settings {
        let Self {
            server,
            runs,
            users,
            workers,
            mail,
            oidc,
            ..
        } = self;
        let bytes = |mib: Option<u64>| mib.map(|mib| mib.saturating_mul(1 << 20));
        Settings {
            runs_at_once: runs.at_once.get().into(),
            local_models: match runs.local_models.as_slice() {
                [] => LocalModels::Nowhere,
                folders if folders.iter().any(|folder| folder == Path::new("/")) => {
                    LocalModels::Anywhere
                }
                folders => LocalModels::In(folders.to_vec()),
            },
            max_hub_download: bytes(Some(runs.max_hub_download)),
            private_addresses: runs.private_addresses,
            lease: runs.lease.into(),
            attempts: runs.attempts.get().into(),
            checkpoint_every: runs.checkpoint_every.into(),
            max_run_time: runs.max_time.map(Into::into),
            max_run_memory: bytes(runs.max_memory),
            max_run_disk: bytes(runs.max_disk),
            max_open_runs: users.max_open_runs.map(Into::into),
            max_uploads: users.max_uploads.get().into(),
            max_projects: Some(users.max_projects.get().into()),
            audit_days: users.audit_days.get().into(),
            max_stored: bytes(users.max_stored),
            max_loaded: server.max_loaded.saturating_mul(1 << 20),
            disk_reserve: bytes(server.disk_reserve),
            trusted_proxies: server
                .trusted_proxies
                .iter()
                .map(|&net| net.into())
                .collect(),
            presigned: server.presigned,
            public_url: server.public_url.clone(),
            private_webhooks: server.private_webhooks,
            max_webhooks: users.max_webhooks,
            mail: mail.clone(),
            oidc: oidc.clone(),
            grace: server.grace.into(),
            job_grace: workers.job_grace.into(),
            first_call: workers.first_call.into(),
            workers: Workers {
                url: workers.url.clone(),
                ca: workers.ca.clone(),
                cpus: workers.cpus,
                gpus: workers.gpus,
                max_cpus: workers.max_cpus,
                max_gpus: workers.max_gpus,
            },
        }
    }

    /// Returns the whole file with a comment for each key. No key contains a
    /// secret.
    pub(crate) fn text(&self) -> Result<String, String> {
        let mut text = String::new();
        group(&mut text, "server", &self.server)?;
        group(&mut text, "runs", &self.runs)?;
        group(&mut text, "users", &self.users)?;
        group(&mut text, "workers", &self.workers)?;
        group(&mut text, "mail", &self.mail)?;
        group(&mut text, "oidc", &self.oidc)?;
        launchers(&mut text, &self.launcher)?;
        Ok(text)
    }
}

/// Writes the table of the launcher and one table for each launcher with
/// settings.
fn launchers(text: &mut String, launcher: &LauncherSettings) -> Result<(), String> {
    group(text, "launcher", launcher)?;
    group(text, "launcher.processes", &launcher.processes)?;
    group(text, "launcher.ray", &launcher.ray)?;
    group(text, "launcher.slurm", &launcher.slurm)?;
    group(text, "launcher.kubernetes", &launcher.kubernetes)
}

/// Writes a table: the keys in order, those without a value as comments.
/// Subtables are skipped.
fn group<T>(text: &mut String, name: &str, group: &T) -> Result<(), String>
where
    T: Serialize + DeserializeOwned + DocumentedFields,
{
    let values = toml::Table::try_from(group).map_err(|e| e.to_string())?;
    // Writing to a String can't fail.
    let _ = writeln!(text, "{}[{name}]", if text.is_empty() { "" } else { "\n" });
    for key in T::FIELD_NAMES {
        let value = values.get(*key);
        if value.is_some_and(toml::Value::is_table) {
            continue;
        }
        let comment = T::get_field_docs(key).map_err(|e| e.to_string())?;
        for line in comment.lines() {
            let _ = writeln!(text, "# {}", line.trim());
        }
        let _ = match value {
            Some(value) => writeln!(text, "{key} = {value}"),
            None => writeln!(text, "# {key} ="),
        };
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<SettingsFile, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("settings.toml");
        std::fs::write(&path, text).unwrap();
        SettingsFile::read(Some(&path))
    }

    #[test]
    fn an_empty_file_gives_the_defaults() {
        let empty = read("").unwrap();
        assert_eq!(empty, SettingsFile::default());
        assert_eq!(empty.settings(), Settings::default());
    }

    #[test]
    fn printed_settings_are_read_back_unchanged() {
        let settings = read(
            "[server]\ntrusted_proxies = ['127.0.0.1', '10.0.0.0/8']\n[runs]\nlease = 5\n\
             max_time = 2.5\nlocal_models = ['/models']\n[workers]\nurl = 'https://head:1'\n\
             [launcher]\nkind = 'threads'\n[launcher.processes]\nenvironment = ['A']",
        );
        let settings = settings.unwrap();
        let text = settings.text().unwrap();
        assert_eq!(read(&text).unwrap(), settings, "{text}");
        assert!(text.contains("\nlease = 5.0\n"), "{text}");
        assert!(text.contains("# Seconds of silence after which"), "{text}");
        assert!(text.contains("\n# max_gpus =\n"), "{text}");
        // Every key has a comment.
        let keys = |line: &&str| !line.starts_with(['#', '[']) && line.contains(" = ");
        assert!(text.lines().filter(keys).count() > 15);
        for pair in text.lines().collect::<Vec<_>>().windows(2) {
            assert!(!keys(&pair[1]) || pair[0].starts_with("# "), "{pair:?}");
        }
    }

    #[test]
    fn errors_name_the_setting_and_its_line() {
        for (text, told) in [
            ("[runs]\n\nattemps = 3", ["line 3", "attemps"]),
            ("[server]\n[launcher.slrum]", ["line 2", "slrum"]),
            ("[runs]\nlease = -1", ["line 2", "from 0 to 1000000000"]),
            ("[runs]\nat_once = 0", ["line 2", "nonzero"]),
            ("[users]\nmax_uploads = 'x'", ["line 2", "max_uploads"]),
            (
                "[server]\ntrusted_proxies = ['x']",
                ["line 2", "10.0.0.0/8"],
            ),
            ("[launcher]\nkind = 'slrum'", ["line 2", "slrum"]),
        ] {
            let error = read(text).unwrap_err();
            for part in told {
                assert!(error.contains(part), "{error}");
            }
        }
        let error = SettingsFile::read(Some(Path::new("/none"))).unwrap_err();
        assert!(error.contains("the settings file /none"), "{error}");
    }
}
