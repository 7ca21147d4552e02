//! The embedded backend.

use std::{
    env,
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use finetuner::Finetuner;
use finetuner_server::{FIRST_USER, RunningServer, Server};

use crate::failure::{Failure, Result};

/// Prefix of the names of this program's tokens.
const TOKEN_NAME: &str = "finetuner-embedded";

/// A backend inside this program, which ends with it.
pub(super) struct Embedded {
    server: RunningServer,
    token: String,
    /// Name of the token, which is deleted at the end.
    token_name: String,
}

impl Embedded {
    /// Starts the backend on a free loopback port, with its data in a folder.
    pub(super) async fn start(folder: Option<&Path>) -> Result<Self> {
        let folder = match folder {
            Some(folder) => folder.to_owned(),
            None => user_folder().ok_or_else(|| {
                Failure::usage(
                    "there is no data folder of the user: set HOME, or name a folder with \
                     `--data DIR`",
                )
            })?,
        };
        let server = Server::embedded().folder(folder).start().await?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let token_name = format!("{TOKEN_NAME}-{}", now.unwrap_or_default().as_nanos());
        let token = server.create_token(FIRST_USER, &token_name).await?;
        Ok(Self {
            server,
            token,
            token_name,
        })
    }

    pub(super) fn url(&self) -> String {
        self.server.url()
    }

    pub(super) fn token(&self) -> &str {
        &self.token
    }

    /// Deletes the token and stops the backend. Runs in progress write a checkpoint
    /// and pause.
    pub(super) async fn stop(self) {
        let builder = Finetuner::builder()
            .registry(self.url())
            .token(self.token.as_str());
        if let Ok(client) = builder.connect().await {
            // A token that remains is useless to anyone who can't read the folder.
            let _ = client.delete_token(&self.token_name).await;
        }
        self.server.stop().await;
    }
}

/// Returns `finetuner` in the user's data folder.
fn user_folder() -> Option<PathBuf> {
    let set = |name| {
        env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    let data = set("XDG_DATA_HOME").or_else(|| match () {
        () if cfg!(windows) => set("LOCALAPPDATA"),
        () if cfg!(target_os = "macos") => Some(set("HOME")?.join("Library/Application Support")),
        () => Some(set("HOME")?.join(".local/share")),
    })?;
    Some(data.join("finetuner"))
}
