//! The launcher that runs workers as Jobs of Kubernetes (`batch/v1`).
//!
//! A Job has one pod and never restarts it, because the server's queue decides
//! about retries. The start token is in a Secret that the Job owns, so deleting
//! the Job deletes the Secret. The launcher finds its objects by their labels
//! and stores nothing.

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

/// Creates the launcher.
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
