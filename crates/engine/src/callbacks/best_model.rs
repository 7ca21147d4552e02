//! `BestModelCheckpoint`: restores the weights of the best epoch.

use finetuner_protocol::callback::BestModelCheckpoint;
use serde_json::{Value, json};

use super::{
    context::{Context, TrainingCallback},
    monitor::Monitor,
};
use crate::{
    Result,
    train::{read_checkpoint, write_checkpoint},
};

/// Checkpoint of the best epoch, in the run's folder.
const FILE: &str = "best_model.safetensors";

pub(crate) struct BestModel {
    monitor: Monitor,
}

impl BestModel {
    pub(crate) fn new(options: &BestModelCheckpoint) -> Result<Self> {
        let (name, mode) = (&options.monitor, &options.mode);
        Ok(Self {
            monitor: Monitor::new("BestModelCheckpoint", name, mode, 0.0)?,
        })
    }

    fn path(&self, context: &Context<'_>) -> std::path::PathBuf {
        context.folder.join(FILE)
    }
}

impl TrainingCallback for BestModel {
    fn on_epoch_end(&mut self, context: &mut Context<'_>) -> Result<()> {
        if self.monitor.improved(context) == Some(true) {
            write_checkpoint(context.trainer, &self.path(context))?;
        }
        Ok(())
    }

    fn on_fit_end(&mut self, context: &mut Context<'_>) -> Result<()> {
        if self.monitor.best.is_none() {
            return Ok(());
        }
        // Later measurements belong to the end of training, not to the best epoch.
        let end = context.trainer.position;
        let path = self.path(context);
        read_checkpoint(context.trainer, &path)?;
        context.trainer.position = end;
        Ok(())
    }

    fn state(&self) -> Value {
        json!({"best": self.monitor.best})
    }

    fn restore(&mut self, state: &Value) -> Result<()> {
        self.monitor.best = state["best"].as_f64();
        Ok(())
    }

    fn file(&self) -> Option<&'static str> {
        Some(FILE)
    }
}
