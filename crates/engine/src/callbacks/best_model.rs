//! `BestModelCheckpoint`: the run ends with the weights of its best epoch.

use finetuner_protocol::{Level, callback::BestModelCheckpoint};

use serde_json::{Value, json};

use super::{Context, TrainingCallback};
use crate::{Error, Result, evaluation::METRICS, train::Checkpoint};

/// The state of the best epoch, in the run's folder.
const FILE: &str = "best_model.safetensors";

pub(crate) struct BestModel {
    monitor: String,
    smaller_is_better: bool,
    best: Option<f64>,
}

impl BestModel {
    pub(crate) fn new(options: &BestModelCheckpoint) -> Result<Self> {
        let metrics = METRICS.iter().map(|(name, _)| *name);
        let mut known = ["train_loss", "val_loss"].into_iter().chain(metrics);
        if !known.any(|name| name == options.monitor) {
            return Err(Error::config(
                "callbacks.BestModelCheckpoint.monitor",
                format!(
                    "`{}` is not measured: train_loss, val_loss and the metrics of \
                     EvaluationCallback, such as recall_at_k, are",
                    options.monitor
                ),
            ));
        }
        let smaller_is_better = match options.mode.as_str() {
            "min" => true,
            "max" => false,
            "auto" => options.monitor.ends_with("loss"),
            other => {
                return Err(Error::config(
                    "callbacks.BestModelCheckpoint.mode",
                    format!("`{other}` is not one of auto, min, max"),
                ));
            }
        };
        Ok(Self {
            monitor: options.monitor.clone(),
            smaller_is_better,
            best: None,
        })
    }

    fn path(&self, context: &Context<'_>) -> std::path::PathBuf {
        context.folder.join(FILE)
    }
}

impl TrainingCallback for BestModel {
    fn on_epoch_end(&mut self, context: &mut Context<'_>) -> Result<()> {
        let Some(&value) = context.metrics.get(&self.monitor) else {
            let message = format!("Could not retrieve monitor metric {}", self.monitor);
            context.log(Level::Warning, message);
            return Ok(());
        };
        let improved = self.best.is_none_or(|best| {
            if self.smaller_is_better {
                value < best
            } else {
                value > best
            }
        });
        if !improved {
            context.log(Level::Info, "Model did not improve");
            return Ok(());
        }
        let worst = if self.smaller_is_better {
            "inf"
        } else {
            "-inf"
        };
        let before = self
            .best
            .map_or(worst.to_owned(), |best| format!("{best:.3}"));
        context.log(
            Level::Info,
            format!("Model improved from {before} to {value:.3}!"),
        );
        self.best = Some(value);
        Checkpoint::of(context.trainer)?.write(&self.path(context))
    }

    fn on_fit_end(&mut self, context: &mut Context<'_>) -> Result<()> {
        if self.best.is_none() {
            return Ok(());
        }
        Checkpoint::read(&self.path(context))?.apply(context.trainer)
    }

    fn state(&self) -> Value {
        json!({"best": self.best})
    }

    fn restore(&mut self, state: &Value) -> Result<()> {
        self.best = state["best"].as_f64();
        Ok(())
    }

    fn file(&self) -> Option<&'static str> {
        Some(FILE)
    }
}
