//! The options of `serve`. An option takes precedence over its environment
//! variable, and the variable over the settings file.

use std::{
    num::{NonZeroU16, NonZeroU64},
    path::PathBuf,
};

use clap::builder::BoolishValueParser;

use super::data::{Data, StoreAddress};
use crate::settings_file::{Network, Seconds, SettingsFile};

#[derive(Debug, clap::Args)]
pub(super) struct Options {
    /// Address to listen on; 127.0.0.1:8642 by default.
    #[arg(long, env = "FINETUNER_ADDRESS")]
    address: Option<String>,
    #[command(flatten)]
    data: Data,
    #[command(flatten)]
    store: StoreAddress,
    /// Let workers fetch data, models and checkpoints directly from S3, at signed
    /// addresses that are valid for some minutes. They must be able to reach S3 at
    /// the server's address of it.
    #[arg(
        long,
        env = "FINETUNER_PRESIGNED",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        value_parser = BoolishValueParser::new()
    )]
    presigned: Option<bool>,
    /// A certificate in PEM form, for https.
    #[arg(long, env = "FINETUNER_TLS_CERT")]
    tls_cert: Option<PathBuf>,
    /// The certificate's key in PEM form.
    #[arg(long, env = "FINETUNER_TLS_KEY")]
    tls_key: Option<PathBuf>,
    /// Maximum number of concurrent runs; 1 by default.
    #[arg(long)]
    runs_at_once: Option<NonZeroU16>,
    /// A folder whose models runs may start from; may be given several times. `/`
    /// means every folder of this machine.
    #[arg(
        long,
        value_name = "FOLDER",
        env = "FINETUNER_LOCAL_MODELS",
        value_delimiter = ':'
    )]
    local_models: Vec<PathBuf>,
    /// Maximum size in MiB of a model that a run downloads from the model hub;
    /// 16384 by default.
    #[arg(long)]
    max_hub_download: Option<u64>,
    /// A variable of the server's environment that workers of this machine also
    /// get; may be given several times. Workers get no keys and tokens that are not
    /// named here.
    #[arg(long, value_name = "NAME")]
    worker_env: Vec<String>,
    /// User of this machine, by name or number, that workers run as. The server
    /// must then run as root.
    #[arg(long, value_name = "USER")]
    worker_user: Option<String>,
    /// Let runs fetch images from this machine and private networks, and report
    /// to trackers there.
    #[arg(
        long,
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        value_parser = BoolishValueParser::new()
    )]
    private_addresses: Option<bool>,
    /// Seconds of silence after which a worker counts as lost; 25 by default.
    #[arg(long)]
    lease: Option<Seconds>,
    /// Number of lost workers after which a run fails; 3 by default.
    #[arg(long)]
    attempts: Option<NonZeroU16>,
    /// Seconds between two checkpoints of a run; 60 by default.
    #[arg(long)]
    checkpoint_every: Option<Seconds>,
    /// Maximum working time of a run in seconds.
    #[arg(long)]
    max_run_time: Option<Seconds>,
    /// Maximum memory of a run in MiB.
    #[arg(long)]
    max_run_memory: Option<u64>,
    /// Maximum size of a run's files in MiB.
    #[arg(long)]
    max_run_disk: Option<u64>,
    /// Maximum number of one user's waiting and training runs.
    #[arg(long, env = "FINETUNER_MAX_OPEN_RUNS")]
    max_open_runs: Option<NonZeroU64>,
    /// Maximum number of one user's uploads in progress; 16 by default.
    #[arg(long, env = "FINETUNER_MAX_UPLOADS")]
    max_uploads: Option<NonZeroU16>,
    /// Maximum number of shared projects that one user may create or own; 16 by default.
    #[arg(long, env = "FINETUNER_MAX_PROJECTS")]
    max_projects: Option<NonZeroU16>,
    /// Days that entries of the audit log are kept; 365 by default.
    #[arg(long, env = "FINETUNER_AUDIT_DAYS")]
    audit_days: Option<NonZeroU16>,
    /// Maximum size in MiB of one project's data, models and checkpoints. A user's
    /// personal project is one of them.
    #[arg(long, env = "FINETUNER_MAX_STORED")]
    max_stored: Option<u64>,
    /// Maximum memory in MiB for finished models that are used over
    /// `/v1/embeddings` and tried in the console; 2048 by default.
    #[arg(long, env = "FINETUNER_MAX_LOADED")]
    max_loaded: Option<u64>,
    /// MiB of the disk that are reserved for runs in progress. New uploads and runs
    /// are refused if less is free. By default 512, or a twentieth of a smaller
    /// disk.
    #[arg(long, env = "FINETUNER_DISK_RESERVE")]
    disk_reserve: Option<u64>,
    /// Addresses or networks of proxies whose `Forwarded` and `X-Forwarded-For`
    /// headers are trusted, such as 127.0.0.1,10.0.0.0/8.
    #[arg(long, env = "FINETUNER_TRUSTED_PROXIES", value_delimiter = ',')]
    trusted_proxies: Vec<Network>,
    /// Seconds that runs have to pause when the server stops; 30 by default.
    #[arg(long)]
    grace: Option<Seconds>,
}

/// Replaces a setting if a value was given.
fn put<T>(place: &mut T, given: Option<T>) {
    if let Some(given) = given {
        *place = given;
    }
}

/// Like [`put`], for a setting that may be absent.
fn put_some<T>(place: &mut Option<T>, given: Option<T>) {
    if given.is_some() {
        *place = given;
    }
}

/// Like [`put`], for a setting with several values.
fn put_all<T>(place: &mut Vec<T>, given: Vec<T>) {
    if !given.is_empty() {
        *place = given;
    }
}

impl Options {
    /// Returns the file's settings, overridden by the given options.
    pub(super) fn over(self, file: SettingsFile) -> SettingsFile {
        let mut all = file;
        let server = &mut all.server;
        put(&mut server.address, self.address);
        put(&mut server.data, self.data.data);
        put_some(&mut server.store, self.store.store);
        put(&mut server.presigned, self.presigned);
        put_some(&mut server.tls_cert, self.tls_cert);
        put_some(&mut server.tls_key, self.tls_key);
        put_all(&mut server.trusted_proxies, self.trusted_proxies);
        put(&mut server.max_loaded, self.max_loaded);
        put_some(&mut server.disk_reserve, self.disk_reserve);
        put(&mut server.grace, self.grace);
        let runs = &mut all.runs;
        put(&mut runs.at_once, self.runs_at_once);
        put_all(&mut runs.local_models, self.local_models);
        put(&mut runs.max_hub_download, self.max_hub_download);
        put(&mut runs.private_addresses, self.private_addresses);
        put(&mut runs.lease, self.lease);
        put(&mut runs.attempts, self.attempts);
        put(&mut runs.checkpoint_every, self.checkpoint_every);
        put_some(&mut runs.max_time, self.max_run_time);
        put_some(&mut runs.max_memory, self.max_run_memory);
        put_some(&mut runs.max_disk, self.max_run_disk);
        let users = &mut all.users;
        put_some(&mut users.max_open_runs, self.max_open_runs);
        put(&mut users.max_uploads, self.max_uploads);
        put(&mut users.max_projects, self.max_projects);
        put(&mut users.audit_days, self.audit_days);
        put_some(&mut users.max_stored, self.max_stored);
        let processes = &mut all.launcher.processes;
        put_all(&mut processes.environment, self.worker_env);
        put_some(&mut processes.user, self.worker_user);
        all
    }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::*;
    use crate::command::{Action, Command};

    fn over(arguments: &[&str], file: SettingsFile) -> SettingsFile {
        let command = ["finetuner-server", "serve"].iter().chain(arguments);
        match Command::try_parse_from(command).unwrap().action {
            Action::Serve(options) => options.over(file),
            _ => unreachable!("`serve` was given"),
        }
    }

    #[test]
    fn options_override_the_file_and_the_file_overrides_defaults() {
        let mut file = SettingsFile::default();
        file.runs.lease = "5".parse().unwrap();
        file.runs.attempts = NonZeroU16::new(7).unwrap();
        file.server.store = Some("s3://bucket/a".into());
        let all = over(&["--lease", "9", "--worker-env", "A"], file.clone());
        assert_eq!(f64::from(all.runs.lease), 9.0);
        assert_eq!(all.runs.attempts.get(), 7);
        assert_eq!(all.server.store, file.server.store);
        assert_eq!(all.server.grace, SettingsFile::default().server.grace);
        assert_eq!(all.launcher.processes.environment, ["A"]);
    }

    /// The comments of the settings file name the options and variables.
    #[test]
    fn every_option_and_every_variable_has_its_key() {
        let text = SettingsFile::default().text().unwrap();
        // A name may be split across lines.
        let text = text.replace("\n# ", " ");
        let command = Command::command();
        let serve = command.find_subcommand("serve").unwrap();
        for argument in serve.get_arguments() {
            let name = argument.get_long().unwrap();
            if !matches!(name, "help" | "settings") {
                assert!(text.contains(&format!("`--{name}`")), "--{name} has no key");
            }
            let variable = argument.get_env().and_then(|name| name.to_str());
            let variable = variable.filter(|name| *name != "FINETUNER_SETTINGS");
            if let Some(variable) = variable {
                assert!(text.contains(variable), "{variable} has no key");
            }
        }
    }
}
