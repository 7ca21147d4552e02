//! Reports a submitted run, or follows it and saves its model.

use std::path::PathBuf;

use clap::Args;
use finetuner::{Run, RunTask};
use serde_json::json;

use super::{results::metrics_table, runs};
use crate::{
    failure::Result,
    output::{self, Output},
    progress::{self, Transfer},
    session::Session,
};

/// Options for the time after the submission.
#[derive(Debug, Args)]
#[command(next_help_heading = "After the submission")]
pub(crate) struct Following {
    /// Follow the run to its end; Ctrl-C stops following, not the run
    #[arg(long, short)]
    pub(crate) watch: bool,
    /// Follow the run and save its model in this folder
    #[arg(long, short, value_name = "DIR")]
    pub(crate) output: Option<PathBuf>,
}

/// Reports a submitted run; follows it and saves its model if requested.
pub(crate) async fn finish(
    run: &Run,
    following: Following,
    session: &Session,
    output: &Output,
) -> Result {
    let options = runs::options_of(run, session);
    // An embedded backend ends with this program.
    let watch = following.watch || following.output.is_some() || session.is_embedded();
    if !watch {
        let status = run.status().await?;
        output.either(&runs::as_json(run, Some(&status)), || {
            output::without_controls(run.name())
        })?;
        output.note(&format!("Follow it with `finetuner watch {options}`"));
        return Ok(());
    }
    session.set_hint(match session.is_embedded() {
        true => format!(
            "The run pauses and continues with the next command that has `--embedded`. Follow it \
             with `finetuner watch {options}`"
        ),
        false => format!("The run continues. Follow it with `finetuner watch {options}`"),
    });
    if output.is_json() {
        output.value(&json!({
            "event": "run", "experiment": run.experiment(), "run": run.name(),
        }))?;
    } else {
        let name = output::without_controls(run.name());
        output.note(&format!("Run {name} of {}", run.experiment()));
    }
    end(run, following.output, &options, output).await
}

/// Follows a run to its end, and saves its model if a folder is given. `options`
/// select the run in suggested command lines.
async fn end(run: &Run, folder: Option<PathBuf>, options: &str, output: &Output) -> Result {
    let status = progress::follow(run, output).await?;
    let is_training = *run.task() != RunTask::Generation;
    let metrics = match is_training {
        true => Some(run.metrics().await?),
        false => None,
    };
    let data = match is_training {
        true => None,
        false => Some(run.train_data().await?),
    };
    let saved = match folder {
        Some(folder) if is_training => {
            let transfer = Transfer::new(*output, "Saving");
            let save = run.save_model(folder).on_progress(transfer.watcher());
            Some(save.await?)
        }
        _ => None,
    };
    if output.is_json() {
        return output.value(&json!({
            "event": "end", "experiment": run.experiment(), "run": run.name(),
            "status": status.status, "metrics": metrics, "train_data": data, "model": saved,
        }));
    }
    if let Some(metrics) = metrics.filter(|m| !m.before.is_empty() || !m.after.is_empty()) {
        output.line(&metrics_table(&metrics))?;
    }
    if let Some(data) = data {
        output.line(&output::without_controls(&data))?;
    }
    match saved {
        Some(folder) => output.line(&format!("Saved the model in {}", folder.display())),
        None if is_training => {
            output.note(&format!("`finetuner save {options}` saves the model"));
            Ok(())
        }
        None => Ok(()),
    }
}

/// `watch`.
#[derive(Debug, Args)]
pub(crate) struct Watch {
    #[command(flatten)]
    named: runs::Named,
    /// Save the model in this folder at the end
    #[arg(long, short, value_name = "DIR")]
    output: Option<PathBuf>,
}

impl Watch {
    pub(crate) async fn run(self, session: &Session, output: &Output) -> Result {
        let run = self.named.find(session).await?;
        let following = Following {
            watch: true,
            output: self.output,
        };
        finish(&run, following, session, output).await
    }
}
