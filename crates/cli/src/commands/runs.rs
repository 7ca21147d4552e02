//! `runs`, `status`, `logs`, `cancel`, `delete`.

use std::io::{BufRead, IsTerminal};

use clap::Args;
use finetuner::{Experiment, Run, Status, StatusInfo};
use futures_util::{StreamExt, TryStreamExt, stream};
use serde_json::{Value, json};

use crate::{
    failure::{Failure, Result},
    output::{self, Output},
    session::Session,
};

/// Experiment of runs that name none.
const DEFAULT_EXPERIMENT: &str = "default";
/// Number of concurrent status requests.
const AT_ONCE: usize = 8;

/// One run.
#[derive(Debug, Args)]
pub(crate) struct Named {
    /// Name of the run, or EXPERIMENT/RUN
    run: String,
    /// Experiment of the run [default: default]
    #[arg(long, short)]
    experiment: Option<String>,
}

impl Named {
    /// Returns the name as the user wrote it, because a backend may return any text.
    pub(crate) fn name(&self) -> &str {
        split(&self.run, self.experiment.as_deref()).1
    }

    /// Finds the run.
    pub(crate) async fn find(&self, session: &Session) -> Result<Run> {
        let (experiment, run) = split(&self.run, self.experiment.as_deref());
        find(session, experiment, run).await
    }
}

/// Splits EXPERIMENT/RUN. Names contain no slash, so this is unambiguous.
fn split<'a>(run: &'a str, experiment: Option<&'a str>) -> (&'a str, &'a str) {
    match (experiment, run.split_once('/')) {
        (Some(experiment), _) => (experiment, run),
        (None, Some(both)) => both,
        (None, None) => (DEFAULT_EXPERIMENT, run),
    }
}

async fn find(session: &Session, experiment: &str, run: &str) -> Result<Run> {
    let finetuner = session.connect().await?;
    let found = finetuner.experiment(experiment).get_run(run).await;
    found.map_err(|error| match error.is_not_found() {
        true => Failure::not_found(format!(
            "the experiment `{experiment}` has no run `{run}`; `finetuner runs` lists all runs"
        )),
        false => error.into(),
    })
}

/// Returns the options that select a run and its backend, for a suggested command
/// line.
pub(crate) fn options_of(run: &Run, session: &Session) -> String {
    let name = match run.experiment() {
        DEFAULT_EXPERIMENT => run.name().to_owned(),
        experiment => format!("{experiment}/{}", run.name()),
    };
    let options = format!("{name}{}", session.backend_options());
    output::without_controls(&options)
}

/// Formats a run for `--json`.
pub(crate) fn as_json(run: &Run, status: Option<&StatusInfo>) -> Value {
    json!({
        "experiment": run.experiment(), "name": run.name(), "task": run.task(),
        "status": status.map(|s| &s.status), "details": status.map(|s| &s.details),
        "description": run.description(), "created_at": run.created_at(),
        "tags": run.tags(), "note": run.note(),
    })
}

/// `runs`.
#[derive(Debug, Args)]
pub(crate) struct Runs {
    /// Only runs of this experiment
    #[arg(long, short)]
    experiment: Option<String>,
    /// Only runs with this status: created, started, finished or failed; may be
    /// given several times
    #[arg(long, short, value_parser = status_of)]
    status: Vec<Status>,
    /// Only runs with this tag; may be given several times, for runs with all of
    /// them
    #[arg(long, short)]
    tag: Vec<String>,
    /// Maximum number of runs to show, the newest of each experiment
    #[arg(long, short = 'n', default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
}

fn status_of(text: &str) -> Result<Status, String> {
    match Status::from(text.to_ascii_uppercase()) {
        Status::Other(_) => Err("use one of created, started, finished, failed".to_owned()),
        status => Ok(status),
    }
}

impl Runs {
    pub(crate) async fn run(self, session: &Session, output: &Output) -> Result {
        let finetuner = session.connect().await?;
        let experiments: Vec<Experiment> = match &self.experiment {
            Some(name) => vec![finetuner.get_experiment(name).await.map_err(|error| {
                match error.is_not_found() {
                    true => Failure::not_found(format!("there is no experiment `{name}`")),
                    false => error.into(),
                }
            })?],
            None => finetuner.list_experiments().await?,
        };
        let mut runs = Vec::new();
        for experiment in &experiments {
            runs.extend(experiment.list_runs().await?);
        }
        runs.retain(|run| self.tag.iter().all(|tag| run.tags().contains(tag)));
        runs.sort_by_key(Run::created_at);
        let limit = self.limit as usize;
        // Each status is another request, so only those of the shown runs are fetched.
        if self.status.is_empty() && runs.len() > limit {
            output.note(&format!(
                "The newest {limit} of {} runs; `--limit N` shows more",
                runs.len()
            ));
            runs.drain(..runs.len() - limit);
        }
        let mut listed: Vec<(Run, StatusInfo)> = stream::iter(runs)
            .map(|run| async move {
                match run.status().await {
                    Ok(status) => Ok(Some((run, status))),
                    // It was deleted after it was listed.
                    Err(error) if error.is_not_found() => Ok(None),
                    Err(error) => Err(Failure::from(error)),
                }
            })
            .buffered(AT_ONCE)
            .try_filter_map(|found| {
                let wanted = found.filter(|(_, status): &(Run, StatusInfo)| {
                    self.status.is_empty() || self.status.contains(&status.status)
                });
                std::future::ready(Ok::<_, Failure>(wanted))
            })
            .try_collect()
            .await?;
        listed.drain(..listed.len().saturating_sub(limit));
        if output.is_json() {
            let runs: Vec<Value> = listed
                .iter()
                .map(|(run, status)| as_json(run, Some(status)))
                .collect();
            return output.value(&runs);
        }
        let rows = listed.iter().map(|(run, status)| {
            vec![
                run.experiment().to_owned(),
                run.name().to_owned(),
                status.status.to_string(),
                run.created_at()
                    .map_or_else(String::new, |at| at.to_string()),
                run.tags().join(", "),
                run.description().to_owned(),
            ]
        });
        let header = [
            "experiment",
            "run",
            "status",
            "created",
            "tags",
            "description",
        ];
        output.line(&output::table(&header, rows))
    }
}

pub(crate) async fn status(named: &Named, session: &Session, output: &Output) -> Result {
    let run = named.find(session).await?;
    let status = run.status().await?;
    output.either(&as_json(&run, Some(&status)), || {
        let word = output::status(status.status.as_str());
        let text = format!("{word} {}", output::without_controls(&status.details));
        text.trim_end().to_owned()
    })
}

/// `logs`.
#[derive(Debug, Args)]
pub(crate) struct Logs {
    #[command(flatten)]
    named: Named,
    /// Follow the log until the run has ended
    #[arg(long, short)]
    follow: bool,
}

impl Logs {
    pub(crate) async fn run(self, session: &Session, output: &Output) -> Result {
        let run = self.named.find(session).await?;
        if !self.follow {
            let log = run.logs().await?;
            for line in log.lines() {
                log_line(line, output)?;
            }
            return Ok(());
        }
        let options = options_of(&run, session);
        session.set_hint(format!(
            "The run continues. Follow its log with `finetuner logs -f {options}`"
        ));
        let mut lines = run.stream_logs();
        while let Some(line) = lines.next().await {
            log_line(&line?, output)?;
        }
        Ok(())
    }
}

fn log_line(line: &str, output: &Output) -> Result {
    let line = output::without_controls(line);
    output.either(&json!({"line": line}), || line.clone())
}

pub(crate) async fn cancel(named: &Named, session: &Session, output: &Output) -> Result {
    let run = named.find(session).await?;
    run.cancel().await?;
    let status = run.status().await?;
    output.either(&as_json(&run, Some(&status)), || {
        let word = output::status(status.status.as_str());
        format!("{}: {word}", named.name())
    })
}

/// `delete`.
#[derive(Debug, Args)]
pub(crate) struct Delete {
    /// Names of the runs, or EXPERIMENT/RUN
    #[arg(required = true)]
    runs: Vec<String>,
    /// Experiment of the runs [default: default]
    #[arg(long, short)]
    experiment: Option<String>,
    /// Delete without asking
    #[arg(long, short)]
    yes: bool,
}

impl Delete {
    pub(crate) async fn run(self, session: &Session, output: &Output) -> Result {
        let given = self.runs.iter();
        let wanted = without_repeats(given.map(|run| split(run, self.experiment.as_deref())));
        let (mut names, mut found) = (Vec::new(), Vec::new());
        for (experiment, run) in wanted {
            found.push(find(session, experiment, run).await?);
            names.push(run.to_owned());
        }
        let what = format!("the run {} and its model", names.join(", "));
        confirm(self.yes, &what, output).await?;
        for (place, run) in found.into_iter().enumerate() {
            run.delete().await.map_err(|error| {
                Failure::from(error).after_deleting(&names[..place], &names[place..])
            })?;
        }
        let deleted = json!({"deleted": names});
        output.either(&deleted, || format!("Deleted {}", names.join(", ")))
    }
}

/// Returns the values in their order, each once.
pub(crate) fn without_repeats<T: PartialEq>(values: impl IntoIterator<Item = T>) -> Vec<T> {
    let mut kept = Vec::new();
    for value in values {
        if !kept.contains(&value) {
            kept.push(value);
        }
    }
    kept
}

/// Asks for confirmation before a deletion. Without a terminal, `--yes` is required.
pub(crate) async fn confirm(yes: bool, what: &str, output: &Output) -> Result {
    if yes {
        return Ok(());
    }
    if !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() || output.is_json() {
        return Err(Failure::usage(format!(
            "deleting {what} requires confirmation, but there is no terminal. Use `--yes` to delete it"
        )));
    }
    output::ask(&format!("Delete {what}? [y/N] "));
    let answer = tokio::task::spawn_blocking(|| {
        let mut answer = String::new();
        let read = std::io::stdin().lock().read_line(&mut answer);
        read.map(|_| answer)
    });
    match answer.await?.unwrap_or_default().trim() {
        "y" | "Y" | "yes" => Ok(()),
        _ => Err(Failure::failed("nothing was deleted")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeated_values_are_kept_once_in_their_order() {
        assert_eq!(without_repeats(["b", "a", "b", "c", "a"]), ["b", "a", "c"]);
    }
}
