//! `fit`: submits a run from options and a configuration file.

mod config;
mod settings;

use std::path::PathBuf;

use clap::Args;
use finetuner::{EvaluationCallback, FitCallback, protocol::Callback};

use super::submitted::{self, Following};
use crate::{
    failure::Result, output::Output, progress::Transfer, session::Session, sources::Reading,
};

use config::Described;
use settings::Settings;

/// `fit`.
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct Fit {
    /// Training data: a CSV, JSON Lines or Parquet file, a folder of images, a
    /// file of documents, - for JSON Lines on standard input, or the name of
    /// data that was pushed
    #[arg(value_name = "DATA")]
    train_data: Option<String>,
    /// Run configuration as JSON or TOML: the names of these options with
    /// underscores, or the configuration of a run from the backend. Options take
    /// precedence
    #[arg(long, short, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    settings: Settings,
    #[command(flatten)]
    reading: Reading,
    #[command(flatten)]
    following: Following,
}

const EXAMPLES: &str = "\
Examples:
  finetuner fit pairs.csv --model minilm-small --loss MultipleNegativeRankingLoss --watch
  finetuner fit train --model clip-base-en --loss CLIPLoss --evaluate test --lora r=16
  finetuner fit data.csv --model two-towers-small --loss CLIPLoss --embedded --output my-model
  finetuner fit --config run.toml --epochs 10

Values of KEY=VALUE are JSON where they can be read as such, else text. Dots lead into
objects: --loss-option distance.name=LpDistance";

impl Fit {
    pub(crate) async fn run(self, session: &Session, output: &Output) -> Result {
        let Described {
            mut config,
            device,
            description,
            tags,
            note,
        } = config::describe(self.config.as_deref(), &self.settings, self.train_data)?;
        let reading = &self.reading;
        let train_data = reading.source("DATA", &config.data.train_data).await?;
        let mut more = Vec::new();
        for data in std::mem::take(&mut config.data.more_train_data) {
            let source = reading.source("--more-train-data", &data.name).await?;
            more.push((source, data.weight));
        }
        let eval_data = match config.data.eval_data.take() {
            Some(data) => Some(reading.source("--eval-data", &data).await?),
            None => None,
        };
        let mining = &mut config.hyper_parameters.mine_hard_negatives;
        let corpus = match mining.as_mut().and_then(|mining| mining.corpus.take()) {
            Some(data) => Some(reading.source("--corpus", &data).await?),
            None => None,
        };
        let mut callbacks = Vec::new();
        for callback in std::mem::take(&mut config.callbacks) {
            callbacks.push(with_data(callback, reading).await?);
        }
        reading.check_used()?;

        let transfer = Transfer::new(*output, "Pushing data");
        let finetuner = session.connect().await?;
        let mut fit = finetuner
            .fit_config(config)
            .train_data(train_data)
            .callbacks(callbacks)
            .tags(tags)
            .note(note.unwrap_or_default())
            .on_progress(transfer.watcher());
        for (source, weight) in more {
            fit = fit.more_train_data(source, weight);
        }
        if let Some(data) = eval_data {
            fit = fit.eval_data(data);
        }
        if let Some(data) = corpus {
            fit = fit.corpus(data);
        }
        if let Some(device) = device {
            fit = fit.device(device);
        }
        if let Some(description) = description {
            fit = fit.description(description);
        }
        let run = fit.await?;
        drop(transfer);
        submitted::finish(&run, self.following, session, output).await
    }
}

/// Converts a callback whose data may be files.
async fn with_data(callback: Callback, reading: &Reading) -> Result<FitCallback> {
    let Callback::EvaluationCallback(options) = callback else {
        return Ok(callback.into());
    };
    let query_data = reading.source("--evaluate", &options.query_data).await?;
    let index_data = match &options.index_data {
        Some(data) => Some(reading.source("--evaluate-index", data).await?),
        None => None,
    };
    let mut evaluation = EvaluationCallback::from(options).query_data(query_data);
    if let Some(data) = index_data {
        evaluation = evaluation.index_data(data);
    }
    Ok(evaluation.into())
}
