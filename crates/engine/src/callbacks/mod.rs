//! What happens beside the training loop.

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

/// What a callback sees of the run.
pub(crate) struct Context<'a> {
    pub(crate) trainer: &'a mut Trainer,
    /// Metrics of the last epoch by name: `train_loss`, `val_loss`, and what
    /// callbacks before this one have measured.
    pub(crate) metrics: BTreeMap<String, f64>,
    /// What evaluations found before and after the training.
    pub(crate) before: Metrics,
    pub(crate) after: Metrics,
    pub(crate) data: &'a dyn Fn(&str) -> Result<Documents>,
    /// Where pictures of evaluations are kept.
    pub(crate) pictures: &'a Pictures,
    pub(crate) modalities: &'a Modalities,
    /// A folder of the run's own.
    pub(crate) folder: &'a Path,
    pub(crate) observer: &'a mut dyn Observer,
    /// All that was measured, for loggers.
    pub(crate) history: History,
    /// Whether the run shall end with this epoch.
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

/// Called at the turns of a run, in the order in which the callbacks are
/// listed.
pub(crate) trait TrainingCallback {
    /// Before the first step.
    fn on_fit_begin(&mut self, _: &mut Context<'_>) -> Result<()> {
        Ok(())
    }

    /// After each step; whether [`TrainingCallback::on_interval`] is wanted
    /// now.
    fn wants_interval(&self, _: &Step) -> bool {
        false
    }

    /// Between two steps.
    fn on_interval(&mut self, _: &mut Context<'_>) -> Result<()> {
        Ok(())
    }

    /// After each epoch, its losses known.
    fn on_epoch_end(&mut self, _: &mut Context<'_>) -> Result<()> {
        Ok(())
    }

    /// After the last epoch: settle which weights the run ends with.
    fn on_fit_end(&mut self, _: &mut Context<'_>) -> Result<()> {
        Ok(())
    }

    /// When all callbacks have settled the weights.
    fn after_fit(&mut self, _: &mut Context<'_>) -> Result<()> {
        Ok(())
    }

    /// What a checkpoint must hold for [`TrainingCallback::restore`].
    fn state(&self) -> Value {
        Value::Null
    }

    /// Takes up where [`TrainingCallback::state`] was asked for.
    fn restore(&mut self, _: &Value) -> Result<()> {
        Ok(())
    }

    /// A file in the run's folder that belongs to the state, where it is there.
    fn file(&self) -> Option<&'static str> {
        None
    }
}

/// Makes the callbacks of a run, in their order.
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
            // Whoever carries out the run keeps its checkpoints, and the job
            // writes what loggers want from the history.
            Callback::TrainingCheckpoint(_)
            | Callback::WandBLogger(_)
            | Callback::MLFlowLogger(_) => {}
            other => {
                return Err(crate::Error::config(
                    "callbacks",
                    format!(
                        "`{}` is not known; {} are",
                        other.name(),
                        finetuner_protocol::callback::CALLBACKS.join(", ")
                    ),
                ));
            }
        }
    }
    Ok(built)
}

/// Reports an evaluation.
pub(crate) fn report(context: &mut Context<'_>, stage: Stage, metrics: &Metrics) {
    context.observer.event(Event::Evaluation {
        stage,
        metrics: metrics.clone(),
    });
    let steps = context.trainer.position().total_steps;
    for (name, value) in metrics {
        context.history.add(&format!("eval/{name}"), steps, *value);
    }
    match stage {
        Stage::Before => context.before.extend(metrics.clone()),
        Stage::After => context.after.extend(metrics.clone()),
    }
}
