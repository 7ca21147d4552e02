//! The script of a batch job.

use super::settings::SlurmSettings;
use crate::{
    launcher::{
        WorkOrder,
        remote::{THREADS, Variables, quote},
    },
    worker::{WORKER_CA, WORKER_START},
};

/// Returns the script of an order, for any POSIX shell.
///
/// The shell waits for the worker and forwards SIGTERM, because Slurm signals
/// only the shell before a time limit. It removes the worker's files, even if
/// the worker was killed.
pub(super) fn of(order: &WorkOrder, settings: &SlurmSettings, variables: &Variables) -> String {
    let mut lines = vec![
        "#!/bin/sh".to_owned(),
        "# A worker of Finetuner. The start token is good for one use.".to_owned(),
        "umask 077".to_owned(),
    ];
    if let Some(folder) = &settings.folder {
        lines.push(format!("TMPDIR={}", quote(folder)));
    }
    lines.push(format!(
        "folder=$(mktemp -d \"${{TMPDIR:-/tmp}}/{}.XXXXXX\") || exit 1",
        order.name
    ));
    lines.push("trap 'rm -rf \"$folder\"' EXIT".to_owned());
    lines.push("trap 'exit 143' TERM INT".to_owned());
    lines.push("export TMPDIR=\"$folder\"".to_owned());
    let mut file = |variable: &str, name: &str, content: &str| {
        // `printf` is built into the shell, so the content does not appear in
        // the arguments of a process.
        lines.push(format!(
            "printf %s {} >\"$folder/{name}\" || exit 1",
            quote(content)
        ));
        lines.push(format!("export {variable}=\"$folder/{name}\""));
    };
    file(WORKER_START, "start", &order.start_token);
    if let Some(ca) = &order.ca {
        file(WORKER_CA, "ca.pem", ca);
    }
    let cores = order.resources.cpus;
    if cores.is_none() {
        // Uses as many cores as Slurm gives by default. A later variable of the
        // operator replaces this value.
        lines.push(format!("export {THREADS}=\"${{SLURM_CPUS_ON_NODE:-1}}\""));
    }
    for (name, value) in variables.of_worker(order, cores, settings.cache.as_deref()) {
        lines.push(format!("export {name}={}", quote(&value)));
    }
    lines.push(format!(
        "{} worker {} &",
        quote(&settings.program),
        order.name
    ));
    lines.push("worker=$!".to_owned());
    lines.push("trap 'kill -TERM \"$worker\" 2>/dev/null' TERM INT".to_owned());
    // A signal ends `wait`, but not the worker.
    lines.push(
        "while wait \"$worker\"; code=$?; kill -0 \"$worker\" 2>/dev/null; do :; done".to_owned(),
    );
    lines.push("exit \"$code\"".to_owned());
    lines.push(String::new());
    lines.join("\n")
}
