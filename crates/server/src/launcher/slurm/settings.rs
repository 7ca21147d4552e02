//! Settings of the launcher for Slurm.

use documented::DocumentedFields;
use serde::{Deserialize, Serialize};

use crate::{error::StartError, launcher::remote};

/// Settings for batch jobs of Slurm.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, DocumentedFields)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct SlurmSettings {
    /// The command `sbatch`: a path, or a name in the server's PATH.
    pub(crate) sbatch: String,
    /// The command `squeue`.
    pub(crate) squeue: String,
    /// The command `scancel`.
    pub(crate) scancel: String,
    /// The program on the cluster's machines that runs workers: a path, or a
    /// name in the PATH of the user's login shell.
    pub(crate) program: String,
    /// The partition of the jobs. By default the cluster's default partition.
    pub(crate) partition: Option<String>,
    /// The account that the jobs are charged to.
    pub(crate) account: Option<String>,
    /// The time limit of a job, such as "12:00:00". A worker pauses a minute
    /// before the limit, and its run continues in another job. Use at least
    /// five minutes.
    pub(crate) time: Option<String>,
    /// The generic resource (GRES) of a graphics processor, such as "gpu" or
    /// "gpu:a100".
    pub(crate) gres: String,
    /// Further arguments of `sbatch`, such as "--qos=long". They come last, so
    /// they override those of the server. Everyone on the cluster may see them.
    pub(crate) arguments: Vec<String>,
    /// Variables of workers in addition to those of the user's login shell,
    /// each as "NAME=value".
    pub(crate) environment: Vec<String>,
    /// The folder on each machine where workers keep data, checkpoints and
    /// models of the hub for the next run.
    pub(crate) cache: Option<String>,
    /// The folder on each machine for the temporary files of workers. By
    /// default TMPDIR, or /tmp.
    pub(crate) folder: Option<String>,
    /// A folder on the cluster's machines for the output of each job. It helps
    /// to find out why workers don't start. It must exist.
    pub(crate) logs: Option<String>,
}

impl Default for SlurmSettings {
    fn default() -> Self {
        Self {
            sbatch: "sbatch".to_owned(),
            squeue: "squeue".to_owned(),
            scancel: "scancel".to_owned(),
            program: remote::PROGRAM.to_owned(),
            partition: None,
            account: None,
            time: None,
            gres: "gpu".to_owned(),
            arguments: Vec::new(),
            environment: Vec::new(),
            cache: None,
            folder: None,
            logs: None,
        }
    }
}

impl SlurmSettings {
    pub(super) fn check(&self) -> Result<(), StartError> {
        let words = [
            ("launcher.slurm.sbatch", Some(&self.sbatch)),
            ("launcher.slurm.squeue", Some(&self.squeue)),
            ("launcher.slurm.scancel", Some(&self.scancel)),
            ("launcher.slurm.program", Some(&self.program)),
            ("launcher.slurm.partition", self.partition.as_ref()),
            ("launcher.slurm.account", self.account.as_ref()),
            ("launcher.slurm.time", self.time.as_ref()),
            ("launcher.slurm.gres", Some(&self.gres)),
        ];
        let folders = [
            ("launcher.slurm.cache", &self.cache),
            ("launcher.slurm.folder", &self.folder),
            ("launcher.slurm.logs", &self.logs),
        ];
        for (key, path) in folders {
            if let Some(path) = path {
                remote::check_absolute_path(key, path)?;
            }
        }
        for (key, value) in words {
            if let Some(value) = value {
                remote::check_word(key, value)?;
            }
        }
        let mut arguments = self.arguments.iter();
        match arguments.find(|argument| !argument.starts_with("--")) {
            // `sbatch` would take it for the script.
            Some(argument) => Err(StartError::setting(
                "launcher.slurm.arguments",
                format!(
                    "`{argument}` does not begin with `--`: give each option as one item, \
                     `--name=value`"
                ),
            )),
            None => Ok(()),
        }
    }
}
