//! Records everything that a run measures, and writes it for other programs:
//! always for TensorBoard, and for Weights & Biases and MLflow on request.

mod history;
mod mlflow;
mod tensorboard;
mod wandb;

use std::path::Path;

use finetuner_protocol::{Callback, RunConfig};

use crate::{Error, Result};

pub(crate) use history::History;

/// Writes the history into `folder`: for TensorBoard, and for each logger of
/// the run.
pub(crate) fn write(folder: &Path, history: &History, config: &RunConfig) -> Result<()> {
    let create = |folder: &Path| std::fs::create_dir_all(folder).map_err(|e| Error::io(folder, e));
    create(folder)?;
    tensorboard::write(&folder.join("tensorboard"), history)?;
    for callback in &config.callbacks {
        match callback {
            Callback::WandBLogger(options) => {
                let mut chosen = match options.metrics_logger_step.as_str() {
                    "batch" => history.clone(),
                    _ => history.by_epoch(),
                };
                if !options.log_zero_shot {
                    chosen = chosen.without_start();
                }
                wandb::write(&folder.join("wandb"), &chosen, config, options)?;
            }
            Callback::MLFlowLogger(options) => {
                mlflow::write(&folder.join("mlruns"), history, config, options)?;
            }
            _ => {}
        }
    }
    Ok(())
}

/// Describes the location of each logger's files, since users rarely look into
/// an artifact.
pub(crate) fn locations(config: &RunConfig) -> Vec<String> {
    let line = |callback: &Callback| match callback {
        Callback::WandBLogger(_) => Some(
            "Weights & Biases: the artifact has the run under logs/wandb. To upload it, \
             unzip the artifact and run `wandb sync logs/wandb/offline-run-*`",
        ),
        Callback::MLFlowLogger(_) => Some(
            "MLflow: the artifact has the run under logs/mlruns. To view it, unzip the artifact and run \
             `mlflow ui --backend-store-uri logs/mlruns`",
        ),
        _ => None,
    };
    let lines = config.callbacks.iter().filter_map(line);
    lines.map(str::to_owned).collect()
}
