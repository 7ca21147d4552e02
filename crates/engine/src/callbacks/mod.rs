//! What happens beside the training loop.

mod best_model;
mod evaluation;

use std::{collections::BTreeMap, path::Path};

use finetuner_protocol::{DocumentArray, Event, Level, Stage};

use serde_json::Value;

pub(crate) use best_model::BestModel;
pub(crate) use evaluation::Evaluation;

use crate::{Result, data::Modalities, evaluation::Metrics, job::Observer, train::Trainer};

/// What a callback sees of the run.
pub(crate) struct Context<'a> {
    pub(crate) trainer: &'a mut Trainer,
    /// Metrics of the last epoch by name: `train_loss`, `val_loss`, and what
    /// callbacks before this one have measured.
    pub(crate) metrics: BTreeMap<String, f64>,
    /// What evaluations found before and after the training.
    pub(crate) before: Metrics,
    pub(crate) after: Metrics,
    pub(crate) data: &'a dyn Fn(&str) -> Result<DocumentArray>,
    pub(crate) modalities: &'a Modalities,
    /// A folder of the run's own.
    pub(crate) folder: &'a Path,
    pub(crate) observer: &'a mut dyn Observer,
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

/// Reports an evaluation.
pub(crate) fn report(context: &mut Context<'_>, stage: Stage, metrics: &Metrics) {
    context.observer.event(Event::Evaluation {
        stage,
        metrics: metrics.clone(),
    });
    match stage {
        Stage::Before => context.before.extend(metrics.clone()),
        Stage::After => context.after.extend(metrics.clone()),
    }
}
