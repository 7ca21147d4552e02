//! The data of a job and how it is read, under the names of the Python client's
//! arguments where it has them.

use finetuner_data::CsvOptions;
use finetuner_protocol::{Modality, MultiDatasetBatchSampler, Prompts, RunConfig};

use super::Fit;
use crate::data::DataSource;

impl Fit {
    /// Replaces all settings and data by those of a run configuration; see
    /// [`Finetuner::fit_config`](crate::Finetuner::fit_config).
    pub fn config(mut self, config: RunConfig) -> Self {
        let data = &config.data;
        self.train_data = data.train_data.as_str().into();
        self.more_train_data = data
            .more_train_data
            .iter()
            .map(|more| (more.name.as_str().into(), more.weight))
            .collect();
        self.eval_data = data.eval_data.as_deref().map(DataSource::from);
        self.corpus = None;
        self.callbacks = config.callbacks.iter().cloned().map(Into::into).collect();
        self.epochs = Some(config.hyper_parameters.epochs);
        self.model.clone_from(&config.model.name);
        self.config = config;
        self
    }

    /// The data to train on, in place of that given to
    /// [`Finetuner::fit`](crate::Finetuner::fit).
    pub fn train_data(mut self, data: impl Into<DataSource>) -> Self {
        self.train_data = data.into();
        self
    }

    /// Adds further data to train on. Each batch comes from one data set. An epoch goes
    /// through it as often as `weight` says: 1.0 is once, 0.5 takes half of its
    /// batches, 2.0 takes all twice.
    pub fn more_train_data(mut self, data: impl Into<DataSource>, weight: f64) -> Self {
        self.more_train_data.push((data.into(), weight));
        self
    }

    /// How often an epoch goes through the first data, beside
    /// [`Fit::more_train_data`]; once by default.
    pub fn train_data_weight(mut self, weight: f64) -> Self {
        self.config.data.train_data_weight = Some(weight);
        self
    }

    /// How batches of several data sets follow each other;
    /// [`MultiDatasetBatchSampler::Proportional`] by default.
    pub fn multi_dataset_batch_sampler(
        mut self,
        sampler: impl Into<MultiDatasetBatchSampler>,
    ) -> Self {
        self.config.data.multi_dataset_batch_sampler = Some(sampler.into());
        self
    }

    /// Data for the validation loss after each epoch.
    pub fn eval_data(mut self, data: impl Into<DataSource>) -> Self {
        self.eval_data = Some(data.into());
        self
    }

    /// The part of the training data to validate with if there is no `eval_data`, from
    /// 0 up to 1; 0 by default.
    pub fn val_split(mut self, part: f64) -> Self {
        self.config.data.val_split = part;
        self
    }

    /// Whether the model has two towers. Backends know that from the model; the
    /// argument is one of the clients of 2022.
    pub fn multi_modal(mut self, multi_modal: bool) -> Self {
        self.config.model.multi_modal = Some(multi_modal);
        self
    }

    /// The modality of the chunks with pictures; `image` by default.
    pub fn image_modality(mut self, modality: impl Into<Modality>) -> Self {
        self.config.data.image_modality = Some(modality.into());
        self
    }

    /// The modality of the chunks with texts; `text` by default.
    pub fn text_modality(mut self, modality: impl Into<Modality>) -> Self {
        self.config.data.text_modality = Some(modality.into());
        self
    }

    /// Prompts before the texts of each column, in training and evaluation, as
    /// `prompts` in the training arguments of sentence-transformers. The saved model
    /// keeps them: the prompt of anchors as `query`, that of their matches as
    /// `document`. A plain text is one prompt for all columns.
    pub fn prompts(mut self, prompts: impl Into<Prompts>) -> Self {
        self.hyper().prompts = Some(prompts.into());
        self
    }

    /// Default options for CSV files.
    pub fn csv_options(mut self, options: CsvOptions) -> Self {
        self.csv_options = Some(options);
        self
    }
}
