//! Workers as Jobs of Kubernetes (`batch/v1`).
//!
//! A job is a Job of one pod that is never started again: tries are the server's
//! business. The start token lies in a Secret that the Job owns, so that it goes
//! with the Job. Everything is found again by labels, and this server keeps
//! nothing of it.

#[cfg(feature = "kubernetes")]
mod client;
#[cfg(feature = "kubernetes")]
mod manifest;
#[cfg(feature = "kubernetes")]
mod names;
mod settings;
#[cfg(feature = "kubernetes")]
mod states;
#[cfg(feature = "kubernetes")]
#[cfg(test)]
mod tests;

use std::sync::Arc;

pub(super) use settings::KubernetesSettings;

use super::{Home, Launcher};
use crate::error::StartError;

/// Makes the launcher.
#[cfg(feature = "kubernetes")]
pub(super) fn make(
    settings: &KubernetesSettings,
    home: &Home<'_>,
) -> Result<Arc<dyn Launcher>, StartError> {
    let made = client::Kubernetes::new(settings.clone(), &home.prefix);
    Ok(Arc::new(made?))
}

#[cfg(not(feature = "kubernetes"))]
pub(super) fn make(_: &KubernetesSettings, _: &Home<'_>) -> Result<Arc<dyn Launcher>, StartError> {
    Err(StartError::setting(
        "launcher.kind",
        "this program was built without Kubernetes; build it with `--features kubernetes`",
    ))
}
