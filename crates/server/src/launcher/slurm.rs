//! The launcher that runs workers as batch jobs of Slurm, with `sbatch`,
//! `squeue` and `scancel`.
//!
//! `sbatch` reads a job's script, which holds the start token, from its
//! standard input. Slurm shows scripts only to the job's owner and to
//! administrators, but arguments, comments and names to everyone.
//!
//! The launcher parses `squeue`'s text format, which is the same in every
//! version; its JSON format differs between versions. Slurm forgets ended jobs
//! by itself (`MinJobAge`).

mod command;
mod script;
mod settings;

use std::collections::HashMap;

use finetuner_protocol::text::cut;
use futures_util::future::BoxFuture;

use super::{Home, JobState, LaunchError, Launcher, WorkOrder, remote::Variables};
use crate::error::StartError;
use command::run;
pub(super) use settings::SlurmSettings;

/// Longest comment of a job, in bytes.
const MAX_COMMENT: usize = 250;

/// Messages of `sbatch` for jobs that no machine can ever run.
const NEVER: [&str; 6] = [
    "Requested node configuration is not available",
    "Memory specification can not be satisfied",
    "Invalid generic resource (gres) specification",
    "CPU count per node can not be satisfied",
    "CPU count specification invalid",
    "More processors requested than permitted",
];

/// Starts workers as batch jobs.
pub(super) struct Slurm {
    settings: SlurmSettings,
    variables: Variables,
    /// Prefix of this server's job names.
    prefix: String,
}

impl Slurm {
    pub(super) fn new(settings: &SlurmSettings, home: &Home<'_>) -> Result<Self, StartError> {
        settings.check()?;
        let environment = &settings.environment;
        Ok(Self {
            variables: Variables::of("launcher.slurm.environment", environment)?,
            settings: settings.clone(),
            prefix: home.prefix.clone(),
        })
    }

    fn arguments(&self, order: &WorkOrder) -> Vec<String> {
        let settings = &self.settings;
        let output = match &settings.logs {
            Some(folder) => format!("{}/%x.log", folder.trim_end_matches('/')),
            None => "/dev/null".to_owned(),
        };
        let mut all = vec![
            "--parsable".to_owned(),
            format!("--job-name={}", order.name),
            format!("--comment={}", comment(order)),
            format!("--output={output}"),
            // The server restarts a run itself, from its checkpoint.
            "--no-requeue".to_owned(),
            // A job with a time limit pauses a minute before Slurm ends it.
            "--signal=B:TERM@60".to_owned(),
            // Passes nothing of the server's environment.
            "--export=NONE".to_owned(),
            "--chdir=/".to_owned(),
            "--nodes=1".to_owned(),
            "--ntasks=1".to_owned(),
        ];
        let resources = order.resources;
        if let Some(cpus) = resources.cpus {
            all.push(format!("--cpus-per-task={cpus}"));
        }
        if let Some(memory) = resources.memory {
            all.push(format!("--mem={}M", memory.div_ceil(1 << 20)));
        }
        if let Some(gpus) = resources.gpus {
            all.push(format!("--gres={}:{gpus}", settings.gres));
        }
        for (option, value) in [
            ("partition", &settings.partition),
            ("account", &settings.account),
            ("time", &settings.time),
        ] {
            if let Some(value) = value {
                all.push(format!("--{option}={value}"));
            }
        }
        // The last value of an option is used, so these can override the ones
        // above.
        all.extend(settings.arguments.iter().cloned());
        all
    }

    async fn submit(&self, order: &WorkOrder) -> Result<(), LaunchError> {
        // The answer to an earlier attempt may have been lost.
        let listed = self.jobs().await.map_err(LaunchError::Retry)?;
        if listed.contains_key(&order.name) {
            return Ok(());
        }
        let script = script::of(order, &self.settings, &self.variables);
        let submitted = run(&self.settings.sbatch, &self.arguments(order), &script).await;
        submitted.map(drop).map_err(|reason| {
            match NEVER.iter().any(|words| reason.contains(words)) {
                true => LaunchError::Refused(reason),
                false => LaunchError::Retry(reason),
            }
        })
    }

    async fn jobs(&self) -> Result<HashMap<String, JobState>, String> {
        let arguments = ["--noheader", "--me", "--states=all", "--format=%i|%j|%T|%r"];
        let listed = run(&self.settings.squeue, &arguments, "").await?;
        let mut jobs: HashMap<String, JobState> = HashMap::new();
        for line in listed.lines() {
            let Some((name, state)) = parse_job(line, &self.prefix) else {
                continue;
            };
            // A name occurs twice if Slurm completed a submission after its
            // answer was lost.
            let is_better = jobs.get(&name).is_none_or(|old| rank(old) < rank(&state));
            if is_better {
                jobs.insert(name, state);
            }
        }
        Ok(jobs)
    }
}

impl Launcher for Slurm {
    fn start<'a>(&'a self, order: &'a WorkOrder) -> BoxFuture<'a, Result<(), LaunchError>> {
        Box::pin(self.submit(order))
    }

    fn stop<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(async move {
            // Slurm sends SIGTERM to all processes of the job, and SIGKILL
            // after its `KillWait`.
            let arguments = [format!("--name={name}")];
            run(&self.settings.scancel, &arguments, "").await.map(drop)
        })
    }

    fn list(&self) -> BoxFuture<'_, Result<HashMap<String, JobState>, String>> {
        Box::pin(self.jobs())
    }

    fn engine(&self) -> &'static str {
        "Slurm"
    }

    fn is_remote(&self) -> bool {
        true
    }
}

fn rank(state: &JobState) -> u8 {
    match state {
        JobState::Ended(_) => 0,
        JobState::Pending(_) => 1,
        JobState::Running => 2,
    }
}

/// Parses the name and the state of one of this server's jobs from a line of
/// `squeue`.
fn parse_job(line: &str, prefix: &str) -> Option<(String, JobState)> {
    let mut fields = line.splitn(4, '|').map(str::trim);
    let (id, name, state, reason) = (
        fields.next()?,
        fields.next()?,
        fields.next()?,
        fields.next().unwrap_or_default(),
    );
    if !name.starts_with(prefix) {
        return None;
    }
    let because = match reason {
        "" | "None" => String::new(),
        reason => format!(" ({reason})"),
    };
    let state = match state {
        "PENDING" | "REQUEUED" | "REQUEUE_FED" | "REQUEUE_HOLD" | "SPECIAL_EXIT"
        | "RESV_DEL_HOLD" => JobState::Pending(format!("job {id}{because}")),
        // Preempted with `PreemptMode=SUSPEND`, or by an administrator. The worker stands
        // still through no fault of its run.
        "SUSPENDED" | "STOPPED" => JobState::Pending(format!("job {id} ({state}{because})")),
        // The node boots.
        "CONFIGURING" => JobState::Pending(format!("job {id} (its node is being prepared)")),
        "OUT_OF_MEMORY" => JobState::Ended(format!(
            "Slurm's job {id} is {state}{because}: it used more memory than it had requested; a \
             smaller `batch_size` needs less"
        )),
        "BOOT_FAIL" | "CANCELLED" | "COMPLETED" | "DEADLINE" | "FAILED" | "LAUNCH_FAILED"
        | "NODE_FAIL" | "PREEMPTED" | "REVOKED" | "TIMEOUT" => {
            JobState::Ended(format!("Slurm's job {id} is {state}{because}"))
        }
        // Any other state counts as running. While a job is `COMPLETING`, its
        // processes may still exist.
        _ => JobState::Running,
    };
    Some((name.to_owned(), state))
}

fn comment(order: &WorkOrder) -> String {
    let labels = order.labels.iter();
    let labels: Vec<_> = labels
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    let text = labels.join(" ").replace(char::is_control, " ");
    cut(&text, MAX_COMMENT).to_owned()
}

#[cfg(test)]
mod tests;
