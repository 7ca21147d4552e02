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
mod settings;
#[cfg(feature = "kubernetes")]
mod states;
#[cfg(feature = "kubernetes")]
#[cfg(test)]
mod tests;

use std::sync::Arc;

pub(super) use settings::KubernetesSettings;

use super::{Home, Launcher};

/// Makes the launcher. An error begins with the key of the setting that can't be
/// used.
#[cfg(feature = "kubernetes")]
pub(super) fn make(
    settings: &KubernetesSettings,
    home: &Home<'_>,
) -> Result<Arc<dyn Launcher>, String> {
    let made = client::Kubernetes::new(settings.clone(), &home.prefix);
    Ok(Arc::new(made.map_err(|e| format!("`kubernetes`: {e}"))?))
}

#[cfg(not(feature = "kubernetes"))]
pub(super) fn make(_: &KubernetesSettings, _: &Home<'_>) -> Result<Arc<dyn Launcher>, String> {
    Err(
        "`kind`: this program was built without Kubernetes; build it with `--features kubernetes`"
            .to_owned(),
    )
}
