//! Shows the progress of runs and transfers: bars on standard error, or JSON Lines on
//! standard output.

use std::collections::BTreeMap;

use finetuner::{
    Progress, Run, RunProgress, Status, StatusInfo, Update,
    protocol::{Event, Stage},
};
use indicatif::{HumanBytes, ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;

use crate::{
    failure::{Failure, Result},
    output::{self, Output},
};

/// Follows a run to its end; fails if the run fails.
pub(crate) async fn follow(run: &Run, output: &Output) -> Result<StatusInfo> {
    let mut view = View::new(*output);
    let mut last = None;
    let mut watch = run.watch();
    while let Some(update) = watch.next().await {
        if let Update::Status(status) = view.show(update?)? {
            last = Some(status);
        }
    }
    view.bar.finish_and_clear();
    match last {
        Some(status) if status.status == Status::Failed => Err(Failure::failed(format!(
            "the run `{}` failed: {}",
            run.name(),
            output::without_controls(&status.details)
        ))),
        Some(status) => Ok(status),
        None => Err(Failure::failed("the backend returned no status of the run")),
    }
}

/// Bar of an upload or download on standard error. It is removed when dropped, and
/// hidden if standard error is not a terminal.
pub(crate) struct Transfer(ProgressBar);

impl Transfer {
    /// Creates a bar with a title.
    pub(crate) fn new(output: Output, title: &str) -> Self {
        let bar = ProgressBar::with_draw_target(None, target(output));
        style(&bar, "{prefix} {wide_bar} {pos}/{len} {msg} {elapsed}");
        bar.set_prefix(title.to_owned());
        Self(bar)
    }

    /// Returns a callback for the progress of the transfer.
    pub(crate) fn watcher(&self) -> impl Fn(Progress) + Send + Sync + 'static {
        let bar = self.0.clone();
        move |progress| {
            bar.set_length(progress.total.unwrap_or(progress.done));
            bar.set_position(progress.done);
            bar.set_message(format!("({})", HumanBytes(progress.bytes)));
        }
    }
}

impl Drop for Transfer {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// Returns where bars are drawn: standard error, or nowhere.
pub(crate) fn target(output: Output) -> ProgressDrawTarget {
    match output.has_bars() {
        true => ProgressDrawTarget::stderr(),
        false => ProgressDrawTarget::hidden(),
    }
}

fn style(bar: &ProgressBar, template: &str) {
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("━╸ "));
    }
}

/// Display of a run's updates.
struct View {
    output: Output,
    /// Hidden before the first step, and if standard error is not a terminal.
    bar: ProgressBar,
    /// Last status, because notes show only changes.
    status: Option<Status>,
}

impl View {
    fn new(output: Output) -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
        style(&bar, "{msg} {wide_bar} {pos}/{len} steps, {elapsed}");
        Self {
            output,
            bar,
            status: None,
        }
    }

    /// Shows an update and returns it.
    fn show(&mut self, update: Update) -> Result<Update> {
        match &update {
            Update::Status(status) => self.status(status)?,
            Update::Progress(progress) => self.progress(*progress)?,
            Update::Point(point) => self.event(&point.event)?,
            _ => {}
        }
        Ok(update)
    }

    fn status(&mut self, status: &StatusInfo) -> Result {
        if self.output.is_json() {
            return self.output.value(&json!({
                "event": "status", "status": status.status, "details": status.details,
            }));
        }
        // The details change with every step.
        if self.status.as_ref() == Some(&status.status) {
            return Ok(());
        }
        self.status = Some(status.status.clone());
        let mut line = output::status(status.status.as_str());
        // The error message that follows contains the reason for a failure.
        if !status.details.is_empty() && !status.status.is_final() {
            line.push_str(&format!(" {}", output::without_controls(&status.details)));
        }
        self.note(&line);
        Ok(())
    }

    fn progress(&self, progress: RunProgress) -> Result {
        if self.bar.length().is_none() {
            self.bar.reset_elapsed();
            self.bar.set_draw_target(target(self.output));
        }
        self.bar.set_length(progress.steps);
        self.bar.set_position(progress.step);
        if self.output.is_json() {
            self.output.value(&json!({
                "event": "progress", "step": progress.step, "steps": progress.steps,
                "epoch": progress.epoch, "epochs": progress.epochs,
            }))?;
        }
        Ok(())
    }

    fn event(&self, event: &Event) -> Result {
        if self.output.is_json() {
            let mut value = json!({"event": "point"});
            if let (Some(object), Ok(serde_json::Value::Object(point))) =
                (value.as_object_mut(), serde_json::to_value(event))
            {
                object.extend(point);
            }
            return self.output.value(&value);
        }
        match event {
            Event::Step {
                epoch,
                epochs,
                mean_loss,
                ..
            } => self
                .bar
                .set_message(format!("epoch {epoch}/{epochs}, loss {mean_loss:.4}")),
            Event::Epoch {
                epoch,
                epochs,
                train_loss,
                val_loss,
            } => {
                let validation = match val_loss {
                    Some(loss) => format!(", validation loss {loss:.4}"),
                    None => String::new(),
                };
                self.note(&format!(
                    "epoch {epoch} of {epochs}: loss {train_loss:.4}{validation}"
                ));
            }
            Event::Evaluation { stage, metrics } => self.note(&format!(
                "{}: {}",
                stage_words(*stage),
                few_metrics(metrics)
            )),
            _ => {}
        }
        Ok(())
    }

    /// Writes a line above the bar.
    fn note(&self, line: &str) {
        self.bar.suspend(|| self.output.note(line));
    }
}

fn stage_words(stage: Stage) -> &'static str {
    match stage {
        Stage::Before => "before the training",
        Stage::After => "after the training",
    }
}

/// Formats the first metrics of an evaluation; the command `metrics` shows all.
fn few_metrics(metrics: &BTreeMap<String, f64>) -> String {
    let first = metrics.iter().take(4);
    let words: Vec<String> = first
        .map(|(name, value)| format!("{} {value:.4}", output::without_controls(name)))
        .collect();
    let more = metrics.len().saturating_sub(words.len());
    match more {
        0 => words.join(", "),
        more => format!("{}, and {more} more", words.join(", ")),
    }
}
