//! Builder for fine-tuning jobs.

mod data;
mod negatives;
mod settings;

use std::{
    future::{Future, IntoFuture},
    pin::Pin,
};

use finetuner_data::CsvOptions;
use finetuner_protocol::{Device, Generation, HyperParameters, MoreData, RunConfig, RunTask};

use super::{
    base_model::BaseModel,
    callbacks::FitCallback,
    names,
    submit::{Columns, Pushing, Submission, push_and_submit},
};
use crate::{
    client::Finetuner,
    data::DataSource,
    error::Result,
    runs::{DEFAULT_EXPERIMENT, Run},
    transport::ProgressSink,
};

impl Finetuner {
    /// Describes a fine-tuning job.
    ///
    /// Awaiting the returned value submits the job and gives a [`Run`]. See [`Fit`].
    ///
    /// `model` is the name of a model, or [`BaseModel::artifact`]. `train_data` is the
    /// name of data that was pushed, or documents or a file, which are uploaded
    /// first.
    ///
    /// ```no_run
    /// # async fn example(finetuner: finetuner::Finetuner) -> finetuner::Result<()> {
    /// use finetuner::Loss;
    ///
    /// let run = finetuner
    ///     .fit("openai/clip-vit-base-patch32", "clip-fashion-train-data")
    ///     .run_name("clip-fashion-1")
    ///     .epochs(5)
    ///     .learning_rate(1e-5)
    ///     .loss(Loss::Clip)
    ///     .await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn fit(&self, model: impl Into<BaseModel>, train_data: impl Into<DataSource>) -> Fit {
        Fit::new(self.clone(), model.into(), train_data.into())
    }

    /// Describes a fine-tuning job with a run configuration.
    ///
    /// The configuration may come from a file or an earlier run, and refers to data by
    /// name. Settings made later replace parts of it.
    ///
    /// ```no_run
    /// # async fn example(finetuner: finetuner::Finetuner) -> finetuner::Result<()> {
    /// // Repeat a training with more epochs.
    /// let before = finetuner.get_run("clip-fashion-1").await?;
    /// if let Some(config) = before.config().training() {
    ///     let fit = finetuner.fit_config(config.clone());
    ///     let run = fit.run_name("clip-fashion-2").epochs(10).await?;
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn fit_config(&self, config: RunConfig) -> Fit {
        let model = BaseModel::Name(String::new());
        Fit::new(self.clone(), model, DataSource::Name(String::new())).config(config)
    }
}

/// A fine-tuning job, from [`Finetuner::fit`]. Awaiting it submits the job.
///
/// Every setting has the name of the Python argument. Defaults are those of the last
/// Python client: 5 epochs, `Adam`, `TripletMarginLoss`, learning rate and batch
/// size chosen by the backend, and a GPU if the backend has one.
///
/// Data that is not given by name is checked and uploaded first, under names such as
/// `finetuner-dastorage-{experiment}-{run}-train-{number}`. The number is random, so
/// no run replaces another run's data. Data that is used twice is uploaded once.
/// Before the upload, the backend is asked whether it would accept the run.
///
/// ```no_run
/// # async fn example(finetuner: finetuner::Finetuner) -> finetuner::Result<()> {
/// use finetuner::{
///     BestModelCheckpoint, Csv, EvaluationCallback, Loss, Options, SchedulerOptions,
/// };
///
/// let run = finetuner
///     .fit("clip-small", Csv::path("train.csv"))
///     .run_name("clip-fashion-1")
///     .eval_data("clip-fashion-eval-data")
///     .loss(Loss::Clip)
///     .epochs(5)
///     .learning_rate(1e-5)
///     .optimizer("AdamW")
///     .optimizer_options(Options::new().weight_decay(0.01))
///     .scheduler("linear")
///     .scheduler_options(SchedulerOptions::default().num_warmup_steps(100))
///     .callback(EvaluationCallback::new("clip-fashion-eval-data"))
///     .callback(BestModelCheckpoint::new())
///     .await?;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// [`Error::is_invalid`](crate::Error::is_invalid) if a setting or the data can't be
/// used. The message names the argument, its value and the limit, and no run is
/// created. [`Error::is_conflict`](crate::Error::is_conflict) if the experiment
/// already has a run of that name.
#[derive(Clone, Debug)]
#[must_use = "a job is submitted when it is awaited"]
pub struct Fit {
    finetuner: Finetuner,
    /// The name that was passed in, which determines the columns of CSV files.
    model: Option<String>,
    config: RunConfig,
    device: Option<Device>,
    epochs: Option<u64>,
    description: Option<String>,
    tags: Vec<String>,
    note: String,
    train_data: DataSource,
    /// Further data, each with its weight.
    more_train_data: Vec<(DataSource, f64)>,
    eval_data: Option<DataSource>,
    /// Further documents for mining hard negatives.
    corpus: Option<DataSource>,
    csv_options: Option<CsvOptions>,
    callbacks: Vec<FitCallback>,
    progress: ProgressSink,
}

impl Fit {
    pub(crate) fn new(finetuner: Finetuner, model: BaseModel, train_data: DataSource) -> Self {
        let mut config = RunConfig::default();
        let mut given = None;
        match model {
            BaseModel::Name(name) => {
                given = (!name.is_empty()).then(|| name.clone());
                config.model.name = Some(name);
            }
            BaseModel::Artifact(id) => config.model.artifact = Some(id),
        }
        Self {
            finetuner,
            model: given,
            config,
            device: None,
            epochs: None,
            description: None,
            tags: Vec::new(),
            note: String::new(),
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
        // Refuses what no backend would accept before anything is sent.
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
            tags: self.tags,
            note: self.note,
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
