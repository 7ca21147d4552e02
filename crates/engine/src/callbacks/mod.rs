//! Callbacks: code that runs at defined points of a training run.

mod best_model;
mod early_stopping;
mod evaluation;
mod graded;
mod monitor;
mod relevance;
mod reranking;
mod verdict;
mod wise_ft;

use std::{collections::BTreeMap, path::Path};

use finetuner_protocol::{Callback, Event, Level, Stage};
use serde_json::Value;

pub(crate) use evaluation::{check_evaluation, measured_names, search_kinds};
pub(crate) use monitor::{metric_name, watched_metrics};
pub(crate) use reranking::check_pairs;

use crate::{
    Result,
    data::{Documents, Modalities, Pictures},
    evaluation::Metrics,
    models::ModelKind,
    observer::Observer,
    record::History,
    train::{Step, Trainer},
};

/// The state of a run that callbacks can read and change.
pub(crate) struct Context<'a> {
    pub(crate) trainer: &'a mut Trainer,
    /// Metrics of the last epoch by name.
    ///
    /// These are `train_loss`, `val_loss`, and the results of callbacks that ran before
    /// this one.
    pub(crate) metrics: BTreeMap<String, f64>,
    /// Evaluation results before and after training.
    pub(crate) before: Metrics,
    pub(crate) after: Metrics,
    pub(crate) data: &'a dyn Fn(&str) -> Result<Documents>,
    /// Storage for the pictures of evaluations.
    pub(crate) pictures: &'a Pictures,
    pub(crate) modalities: &'a Modalities,
    /// The run's folder.
    pub(crate) folder: &'a Path,
    pub(crate) observer: &'a mut dyn Observer,
    /// All measured values, for loggers.
    pub(crate) history: History,
    /// Set to end the run after this epoch.
    pub(crate) stop: bool,
}

impl Context<'_> {
    pub(crate) fn log(&mut self, level: Level, message: impl Into<String>) {
        self.observer.event(Event::Log {
            level,
            message: message.into(),
        });
    }
}

/// Hooks of a training run, called in the order in which the callbacks are listed.
pub(crate) trait TrainingCallback {
    /// Called before the first step.
    fn on_fit_begin(&mut self, _: &mut Context<'_>) -> Result<()> {
        Ok(())
    }

    /// Returns whether to call [`TrainingCallback::on_interval`] after this step.
    fn wants_interval(&self, _: &Step) -> bool {
        false
    }

    /// Called between two steps.
    fn on_interval(&mut self, _: &mut Context<'_>) -> Result<()> {
        Ok(())
    }

    /// Called after each epoch, when its losses are known.
    fn on_epoch_end(&mut self, _: &mut Context<'_>) -> Result<()> {
        Ok(())
    }

    /// Called after the last epoch, to set the final weights.
    fn on_fit_end(&mut self, _: &mut Context<'_>) -> Result<()> {
        Ok(())
    }

    /// Called when all callbacks have set the final weights.
    fn after_fit(&mut self, _: &mut Context<'_>) -> Result<()> {
        Ok(())
    }

    /// Returns the state that a checkpoint keeps for [`TrainingCallback::restore`].
    fn state(&self) -> Value {
        Value::Null
    }

    /// Restores a state from [`TrainingCallback::state`].
    fn restore(&mut self, _: &Value) -> Result<()> {
        Ok(())
    }

    /// Returns a file in the run's folder that is part of the state.
    ///
    /// The file may be missing.
    fn file(&self) -> Option<&'static str> {
        None
    }
}

/// Builds the callbacks of a run, in their order.
pub(crate) fn build(
    callbacks: &[Callback],
    kind: ModelKind,
) -> Result<Vec<Box<dyn TrainingCallback>>> {
    let mut built: Vec<Box<dyn TrainingCallback>> = Vec::new();
    for callback in callbacks {
        match callback {
            Callback::BestModelCheckpoint(options) => {
                built.push(Box::new(best_model::BestModel::new(options)?));
            }
            Callback::EarlyStopping(options) => {
                built.push(Box::new(early_stopping::EarlyStopping::new(options)?));
            }
            Callback::EvaluationCallback(options) if kind == ModelKind::TextPairs => {
                built.push(Box::new(reranking::Reranking::new(options, callbacks)?));
            }
            Callback::EvaluationCallback(options) => {
                let evaluation = evaluation::Evaluation::new(options, callbacks, kind)?;
                built.push(Box::new(evaluation));
            }
            Callback::WiSEFTCallback(options) => {
                built.push(Box::new(wise_ft::WiseFt::new(options)?));
            }
            // The observer stores the run's checkpoints, and the job writes the
            // loggers' files from the history.
            Callback::TrainingCheckpoint(_)
            | Callback::WandBLogger(_)
            | Callback::MLFlowLogger(_) => {}
            other => {
                return Err(crate::Error::config(
                    "callbacks",
                    format!(
                        "`{}` is unknown; the callbacks are {}",
                        other.name(),
                        finetuner_protocol::callback::CALLBACKS.join(", ")
                    ),
                ));
            }
        }
    }
    Ok(built)
}

/// Reports and records the results of an evaluation.
pub(crate) fn report(context: &mut Context<'_>, stage: Stage, metrics: &Metrics) {
    context.observer.event(Event::Evaluation {
        stage,
        metrics: metrics.clone(),
    });
    record(context, metrics);
    match stage {
        Stage::Before => context.before.extend(metrics.clone()),
        Stage::After => context.after.extend(metrics.clone()),
    }
}

/// Adds metrics to the history of the run.
fn record(context: &mut Context<'_>, metrics: &Metrics) {
    let steps = context.trainer.position().total_steps;
    for (name, value) in metrics {
        context.history.add(&format!("eval/{name}"), steps, *value);
    }
}

/// Returns whether an evaluation with `steps_per_interval` is due after a step.
fn is_interval(steps_per_interval: Option<u64>, step: &Step) -> bool {
    let steps = (step.epoch - 1) * step.steps + step.step;
    steps_per_interval.is_some_and(|interval| (steps as u64).is_multiple_of(interval))
}

/// Records and logs the results of an evaluation between two steps.
fn report_interval(context: &mut Context<'_>, metrics: Metrics) {
    record(context, &metrics);
    let steps = context.trainer.position().total_steps;
    for (name, value) in metrics {
        let message = format!("Metric: '{name}' after {steps} steps: {value:.5}");
        context.log(Level::Info, message);
    }
}

/// Records the results of an evaluation for callbacks that monitor them.
///
/// It is called after each epoch.
fn report_epoch(context: &mut Context<'_>, metrics: Metrics) {
    record(context, &metrics);
    context.metrics.extend(metrics);
}
