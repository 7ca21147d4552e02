//! A fine-tuning job in the making.

mod data;
mod negatives;
mod settings;

use std::{
    future::{Future, IntoFuture},
    pin::Pin,
};

use finetuner_protocol::{
    Device, Generation, HyperParameters, Model, MoreData, RunConfig, RunTask,
};

use crate::{
    CsvOptions, DataSource, Finetuner, FitCallback, Result, Run,
    client::DEFAULT_EXPERIMENT,
    names,
    progress::ProgressSink,
    submit::{Columns, Pushing, Submission, push_and_submit},
};

/// A fine-tuning job, from [`Finetuner::fit`]. Awaiting it submits the job.
///
/// Defaults are those of the last Python client: 5 epochs, `Adam`,
/// `TripletMarginLoss`, learning rate and batch size left to the backend, and
/// a graphics processor where the backend has one. Every setting has the name
/// of the Python argument.
///
/// Data that is not given by name is checked and pushed first, under names such as
/// `finetuner-dastorage-{experiment}-{run}-train-{number}`; the number is random,
/// so that no run replaces the data of another. The same data in two places is
/// pushed once. Before the upload, the backend is asked whether it would accept
/// the run.
///
/// ```no_run
/// # async fn example(finetuner: finetuner::Finetuner) -> finetuner::Result<()> {
/// use finetuner::{BestModelCheckpoint, Loss};
///
/// let run = finetuner
///     .fit("clip-small", "clip-fashion-train-data")
///     .epochs(5)
///     .learning_rate(1e-5)
///     .loss(Loss::Clip)
///     .callback(BestModelCheckpoint::new())
///     .await?;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// Awaiting it gives an error with
/// [`Error::is_invalid`](crate::Error::is_invalid) where a setting or
/// the data can't be used; the message names the argument, its value and what
/// is possible, and no run was made.
/// [`Error::is_conflict`](crate::Error::is_conflict) says that the
/// experiment has a run of that name.
#[derive(Clone, Debug)]
#[must_use = "a job is submitted when it is awaited"]
pub struct Fit {
    finetuner: Finetuner,
    /// The model as it was given.
    model: Option<String>,
    config: RunConfig,
    device: Option<Device>,
    epochs: Option<u64>,
    description: Option<String>,
    train_data: DataSource,
    /// Further data, each with its weight.
    more_train_data: Vec<(DataSource, f64)>,
    eval_data: Option<DataSource>,
    /// The source of hard negatives.
    corpus: Option<DataSource>,
    csv_options: Option<CsvOptions>,
    callbacks: Vec<FitCallback>,
    progress: ProgressSink,
}

impl Fit {
    pub(crate) fn new(finetuner: Finetuner, model: String, train_data: DataSource) -> Self {
        let given = (!model.is_empty()).then(|| model.clone());
        let config = RunConfig {
            model: Model {
                name: Some(model),
                ..Model::default()
            },
            ..RunConfig::default()
        };
        Self {
            finetuner,
            model: given,
            config,
            device: None,
            epochs: None,
            description: None,
            train_data,
            more_train_data: Vec::new(),
            eval_data: None,
            corpus: None,
            csv_options: None,
            callbacks: Vec::new(),
            progress: ProgressSink::default(),
        }
    }

    fn hyper(&mut self) -> &mut HyperParameters {
        &mut self.config.hyper_parameters
    }

    async fn submit(mut self) -> Result<Run> {
        if self.config.run_name.is_empty() {
            self.config.run_name = names::random();
        }
        if self.config.experiment_name.is_empty() {
            self.config.experiment_name = DEFAULT_EXPERIMENT.to_owned();
        }
        let (epochs, device) = match self.config.generation {
            Generation::V0_2 => {
                self.hyper().batch_size.get_or_insert(8);
                self.hyper().learning_rate.get_or_insert(1e-3);
                (20, Device::Cpu)
            }
            Generation::V0_8 => (5, Device::Gpu),
        };
        self.hyper().epochs = self.epochs.unwrap_or(epochs);
        let device = self.device.clone().unwrap_or(device);

        let config = &mut self.config;
        let mut pushing = Pushing::new(
            config.generation,
            &config.experiment_name,
            &config.run_name,
            self.csv_options,
        );
        config.data.train_data = pushing.name_of(self.train_data, "train", "train_data");
        config.data.more_train_data = self
            .more_train_data
            .into_iter()
            .map(|(data, weight)| {
                let name = pushing.name_of(data, "train", "train_data");
                MoreData::new(name).weight(weight)
            })
            .collect();
        config.data.eval_data = self
            .eval_data
            .map(|data| pushing.name_of(data, "eval", "eval_data"));
        if let Some(data) = self.corpus {
            let mining = &mut config.hyper_parameters.mine_hard_negatives;
            let name = pushing.name_of(data, "corpus", "corpus");
            mining.get_or_insert_default().corpus = Some(name);
        }
        config.callbacks = self
            .callbacks
            .into_iter()
            .map(|callback| callback.resolve(&mut pushing))
            .collect();
        // What no backend would accept is refused before anything is sent.
        config.check()?;
        config.check_numbers()?;
        let public = config.public;
        let latest = config.generation == Generation::V0_8;
        let submission = Submission {
            experiment: config.experiment_name.clone(),
            name: config.run_name.clone(),
            cpus: config.data.num_workers,
            task: latest.then_some(RunTask::Training),
            device,
            description: self.description,
            config: self.config.into(),
        };
        push_and_submit(
            &self.finetuner,
            pushing,
            Columns::OfModel(self.model),
            public,
            self.progress,
            submission,
        )
        .await
    }
}

impl IntoFuture for Fit {
    type Output = Result<Run>;
    type IntoFuture = Pin<Box<dyn Future<Output = Result<Run>> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.submit())
    }
}
