//! `EarlyStopping`: ends the run when a metric stops improving.

use finetuner_protocol::{Level, callback};
use serde_json::{Value, json};

use super::{
    context::{Context, TrainingCallback},
    monitor::Monitor,
};
use crate::Result;

pub(crate) struct EarlyStopping {
    monitor: Monitor,
    patience: usize,
    /// Epochs since the last improvement.
    waited: usize,
}

impl EarlyStopping {
    pub(crate) fn new(options: &callback::EarlyStopping) -> Result<Self> {
        let min_delta = options.min_delta.as_f64().unwrap_or(0.0);
        let (name, mode) = (&options.monitor, &options.mode);
        let mut monitor = Monitor::new("EarlyStopping", name, mode, min_delta)?;
        monitor.best = options.baseline;
        Ok(Self {
            monitor,
            patience: options.patience as usize,
            waited: 0,
        })
    }
}

impl TrainingCallback for EarlyStopping {
    fn on_epoch_end(&mut self, context: &mut Context<'_>) -> Result<()> {
        match self.monitor.improved(context) {
            Some(true) => self.waited = 0,
            Some(false) => self.waited += 1,
            None => {}
        }
        if self.waited >= self.patience {
            let epochs = self.waited;
            let message = format!("Training is stopping, no improvement for {epochs} epochs");
            context.log(Level::Info, message);
            context.stop = true;
        }
        Ok(())
    }

    fn state(&self) -> Value {
        json!({"best": self.monitor.best, "waited": self.waited})
    }

    fn restore(&mut self, state: &Value) -> Result<()> {
        self.monitor.best = state["best"].as_f64();
        self.waited = state["waited"].as_u64().unwrap_or(0) as usize;
        Ok(())
    }
}
