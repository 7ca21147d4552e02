//! The trait of callbacks, and the state of a run that a callback reads and changes.

use std::{collections::BTreeMap, path::Path};

use finetuner_protocol::{Event, Level};
use serde_json::Value;

use crate::{
    Result,
    data::{Documents, Images, Modalities},
    evaluation::Metrics,
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
    /// Storage for the images of evaluations.
    pub(crate) images: &'a Images,
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
