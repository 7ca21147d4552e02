//! Settings of the launcher for Ray.

use std::path::PathBuf;

use documented::DocumentedFields;
use serde::{Deserialize, Serialize};
use url::Url;

use crate::{error::StartError, launcher::remote};

/// Settings for jobs of a Ray cluster.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, DocumentedFields)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct RaySettings {
    /// The address of the cluster's dashboard.
    pub(crate) address: String,
    /// A file with the cluster's token, for clusters with RAY_AUTH_MODE=token. It
    /// is read at each call, so it can be replaced at any time.
    pub(crate) token_file: Option<PathBuf>,
    /// The program on the cluster's machines that runs workers: a path, or a name
    /// in their PATH.
    pub(crate) program: String,
    /// Variables of workers in addition to their own, each as "NAME=value".
    /// Everyone who reaches the dashboard can read them.
    pub(crate) environment: Vec<String>,
    /// The folder on each machine where workers keep data, checkpoints and models
    /// of the hub for the next run.
    pub(crate) cache: Option<String>,
    /// Seconds that a stopped worker has for its checkpoint before Ray kills it.
    pub(crate) stop_seconds: u32,
    /// Seconds after which ended jobs are deleted from Ray's list.
    pub(crate) keep_ended_seconds: u64,
}

impl Default for RaySettings {
    fn default() -> Self {
        Self {
            address: "http://127.0.0.1:8265".to_owned(),
            token_file: None,
            program: remote::PROGRAM.to_owned(),
            environment: Vec::new(),
            cache: None,
            stop_seconds: 60,
            keep_ended_seconds: 3600,
        }
    }
}

impl RaySettings {
    pub(super) fn check(&self) -> Result<(), StartError> {
        remote::check_word("launcher.ray.program", &self.program)?;
        if let Some(cache) = &self.cache {
            remote::check_absolute_path("launcher.ray.cache", cache)?;
        }
        let bad = |reason: &str| StartError::setting("launcher.ray.address", reason);
        let remedy = "give the address of the dashboard, such as http://ray-head:8265";
        let url = Url::parse(&self.address).map_err(|_| bad(remedy))?;
        if !matches!(url.scheme(), "http" | "https") || url.query().is_some() {
            return Err(bad(remedy));
        }
        // Errors show the address.
        if !url.username().is_empty() || url.password().is_some() {
            return Err(bad(
                "it contains a user name or a password; give a token in a file, named by \
                 `token_file`",
            ));
        }
        Ok(())
    }

    /// Reads the cluster's token, if the settings name a file for it.
    pub(super) async fn token(&self) -> Result<Option<String>, String> {
        let Some(path) = &self.token_file else {
            return Ok(None);
        };
        let bad = |reason: &dyn std::fmt::Display| {
            format!("launcher.ray.token_file: {}: {reason}", path.display())
        };
        let text = tokio::fs::read_to_string(path).await.map_err(|e| bad(&e))?;
        match text.trim() {
            "" => Err(bad(&"it is empty")),
            token if !token.bytes().all(|b| b.is_ascii_graphic()) => {
                Err(bad(&"it holds more than one token"))
            }
            token => Ok(Some(token.to_owned())),
        }
    }
}
