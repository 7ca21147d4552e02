//! Calls of Slurm's commands, each with a time limit.

use std::{process::Stdio, time::Duration};

use tokio::{io::AsyncWriteExt, process::Command};

use crate::launcher::{environment, remote};

/// Time limit of a command. Slurm's own limit is about a minute when its
/// controller does not answer.
const ENDS_WITHIN: Duration = Duration::from_secs(12);
/// Variable for a cluster configuration outside the usual place.
const CONFIGURATION: &str = "SLURM_CONF";

/// Runs a command with `input` as its standard input. Returns its output.
pub(super) async fn run(
    program: &str,
    arguments: &[impl AsRef<std::ffi::OsStr>],
    input: &str,
) -> Result<String, String> {
    let mut child = Command::new(program)
        .args(arguments)
        .env_clear()
        .envs(environment::worker_variables(&[CONFIGURATION.to_owned()]))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // Kills a command that exceeds the limit.
        .kill_on_drop(true)
        .spawn()
        .map_err(|e| format!("{program} can't be run: {e}"))?;
    let stdin = child.stdin.take();
    let write = async {
        if let Some(mut stdin) = stdin {
            // A command that fails early does not read its input. Its status
            // says why.
            let _ = stdin.write_all(input.as_bytes()).await;
        }
    };
    let both = async { tokio::join!(write, child.wait_with_output()).1 };
    let ended = tokio::time::timeout(ENDS_WITHIN, both).await;
    let output = ended
        .map_err(|_| {
            format!(
                "{program} did not answer within {} seconds",
                ENDS_WITHIN.as_secs()
            )
        })?
        .map_err(|e| format!("{program}: {e}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    match said.trim() {
        "" => Err(format!("{program} ended with {}", output.status)),
        said => Err(remote::shorten(said)),
    }
}
