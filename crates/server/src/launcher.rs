//! Launchers: they start workers on a job engine.
//!
//! Every launcher starts the same program, `finetuner-server worker`. The
//! engine that runs it is a set of threads, child processes of the server, or a
//! batch system (Ray, Slurm, Kubernetes). A program that embeds the server can
//! bring its own engine by implementing [`Launcher`].

mod contract;
mod environment;
#[cfg(test)]
mod example;
mod kubernetes;
mod processes;
mod ray;
mod remote;
mod slurm;
mod threads;

use std::sync::Arc;

use documented::DocumentedFields;
use serde::{Deserialize, Serialize};

pub(crate) use contract::{Home, prefix_of};
pub use contract::{JobState, LaunchError, Launcher, Resources, WorkOrder};
use kubernetes::KubernetesSettings;
use processes::{Processes, ProcessesSettings};
use ray::{Ray, RaySettings};
use slurm::{Slurm, SlurmSettings};
pub(crate) use threads::Threads;

use crate::error::StartError;

/// Names of the launchers in the settings.
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

/// Settings of the launchers. Only the table of the chosen launcher is used.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, DocumentedFields)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct LauncherSettings {
    /// The launcher: `processes` on this machine, `threads` of the server, or
    /// jobs of `ray`, `slurm` or `kubernetes`.
    pub(crate) kind: Kind,
    /// Settings for child processes of the server.
    pub(crate) processes: ProcessesSettings,
    /// Settings for jobs of a Ray cluster.
    pub(crate) ray: RaySettings,
    /// Settings for batch jobs of Slurm.
    pub(crate) slurm: SlurmSettings,
    /// Settings for Jobs of Kubernetes.
    pub(crate) kubernetes: KubernetesSettings,
}

/// Creates the chosen launcher.
///
/// # Errors
/// [`StartError::Setting`] with the key of the unusable setting.
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
