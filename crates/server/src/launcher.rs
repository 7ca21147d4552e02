//! How a worker is started. Every launcher starts the same [`crate::worker`].

use std::process::Stdio;

use tokio::process::Command;

use crate::worker::{self, WORKER_TOKEN, WORKER_URL};

/// Starts workers.
#[derive(Clone, Debug)]
pub(crate) struct Launcher {
    /// Where the worker finds the server.
    pub(crate) url: String,
    pub(crate) kind: LauncherKind,
    pub(crate) local_models: bool,
}

/// Where workers run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LauncherKind {
    /// In a thread of this process.
    Thread,
    /// In a child process, `finetuner-server worker`.
    Process,
}

impl Launcher {
    /// Runs a worker to its end. An error says why there could be none, or how
    /// it was lost.
    pub(crate) async fn work(self, token: String) -> Result<(), String> {
        match self.kind {
            LauncherKind::Thread => self.thread(token).await,
            LauncherKind::Process => self.process(token).await,
        }
    }

    async fn thread(self, token: String) -> Result<(), String> {
        let (done, ended) = tokio::sync::oneshot::channel();
        // Dropped with this future, which tells the thread to stop.
        let (alive, stop) = tokio::sync::watch::channel(());
        std::thread::Builder::new()
            .name("finetuner-worker".to_owned())
            .spawn(move || {
                let result = worker::run(&self.url, token, self.local_models, Some(stop));
                // Nobody waits any more when the server has ended.
                let _ = done.send(result);
            })
            .map_err(|e| format!("no thread for the worker: {e}"))?;
        let result = ended.await;
        drop(alive);
        result.unwrap_or_else(|_| Err("the worker has panicked; this is a bug".to_owned()))
    }

    async fn process(self, token: String) -> Result<(), String> {
        let program = std::env::current_exe().map_err(|e| format!("no program: {e}"))?;
        let mut command = Command::new(program);
        command.arg("worker");
        if self.local_models {
            command.arg("--local-models");
        }
        let mut child = command
            // Not as arguments, which others on the machine can see.
            .env(WORKER_URL, &self.url)
            .env(WORKER_TOKEN, token)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .map_err(|e| format!("the worker can't be started: {e}"))?;
        let status = child.wait().await.map_err(|e| e.to_string())?;
        if status.success() {
            return Ok(());
        }
        Err(format!(
            "the worker was lost ({status}); where it was killed, the machine may be short of memory: \
             a smaller `batch_size` needs less"
        ))
    }
}
