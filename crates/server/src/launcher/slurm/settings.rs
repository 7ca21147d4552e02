//! The settings of the launcher for Slurm.

use documented::DocumentedFields;
use serde::{Deserialize, Serialize};

use crate::{error::StartError, launcher::remote};

/// Batch jobs of Slurm.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, DocumentedFields)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct SlurmSettings {
    /// The command `sbatch`: a path, or a name that is in the server's PATH.
    pub(crate) sbatch: String,
    /// The command `squeue`.
    pub(crate) squeue: String,
    /// The command `scancel`.
    pub(crate) scancel: String,
    /// The program on the cluster's machines that runs workers: a path, or a name
    /// that is in the PATH of the user's login shell.
    pub(crate) program: String,
    /// The partition of the jobs; the cluster's default one where it is not given.
    pub(crate) partition: Option<String>,
    /// The account that is charged.
    pub(crate) account: Option<String>,
    /// The time limit of a job, such as "12:00:00". A worker pauses a minute before
    /// it, and the run goes on in another job. Give five minutes or more.
    pub(crate) time: Option<String>,
    /// The generic resource that stands for a graphics processor, such as "gpu" or
    /// "gpu:a100".
    pub(crate) gres: String,
    /// More arguments of `sbatch`, such as "--qos=long". They come last, and so
    /// replace those of the server. Everyone on the cluster may see them.
    pub(crate) arguments: Vec<String>,
    /// Variables of workers beside those of the user's login shell, "NAME=value" each.
    pub(crate) environment: Vec<String>,
    /// The folder on each machine where workers keep data, checkpoints and models of
    /// the hub for the next run.
    pub(crate) cache: Option<String>,
    /// The folder on each machine for the temporary files of workers; TMPDIR, or /tmp,
    /// where it is not given.
    pub(crate) folder: Option<String>,
    /// A folder on the cluster's machines where the output of each job is kept, for
    /// finding out why workers don't start. It must exist.
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
                remote::whole_path(key, path)?;
            }
        }
        for (key, value) in words {
            if let Some(value) = value {
                remote::one_word(key, value)?;
            }
        }
        let mut arguments = self.arguments.iter();
        match arguments.find(|argument| !argument.starts_with("--")) {
            // It would be taken for the script.
            Some(argument) => Err(StartError::setting(
                "launcher.slurm.arguments",
                format!("`{argument}`: give `--name=value` in one piece"),
            )),
            None => Ok(()),
        }
    }
}
