//! Data settings of a job, with the names of the Python client's arguments where it
//! has them.

use finetuner_data::CsvOptions;
use finetuner_protocol::{Modality, MultiDatasetBatchSampler, Prompts, RunConfig};

use super::Fit;
use crate::data::DataSource;

impl Fit {
    /// Replaces all settings and data by those of a run configuration.
    ///
    /// See [`Finetuner::fit_config`](crate::Finetuner::fit_config).
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

    /// Replaces the training data that was passed to
    /// [`Finetuner::fit`](crate::Finetuner::fit).
    pub fn train_data(mut self, data: impl Into<DataSource>) -> Self {
        self.train_data = data.into();
        self
    }

    /// Adds a data set to the training data.
    ///
    /// Each batch comes from one data set. `weight` is the number of times that an
    /// epoch goes through it: 1.0 is once, 0.5 uses half of its batches, 2.0 uses
    /// all twice.
    pub fn more_train_data(mut self, data: impl Into<DataSource>, weight: f64) -> Self {
        self.more_train_data.push((data.into(), weight));
        self
    }

    /// Sets the weight of the first data set; 1.0 by default.
    ///
    /// It means the same as the weights in [`Fit::more_train_data`].
    pub fn train_data_weight(mut self, weight: f64) -> Self {
        self.config.data.train_data_weight = Some(weight);
        self
    }

    /// Sets the order of batches of several data sets.
    ///
    /// The default is [`MultiDatasetBatchSampler::Proportional`].
    pub fn multi_dataset_batch_sampler(
        mut self,
        sampler: impl Into<MultiDatasetBatchSampler>,
    ) -> Self {
        self.config.data.multi_dataset_batch_sampler = Some(sampler.into());
        self
    }

    /// Sets the data for the validation loss after each epoch.
    pub fn eval_data(mut self, data: impl Into<DataSource>) -> Self {
        self.eval_data = Some(data.into());
        self
    }

    /// Sets the fraction of the training data used for validation; 0 by default.
    ///
    /// It is less than 1 and used if there is no [`Fit::eval_data`].
    pub fn val_split(mut self, part: f64) -> Self {
        self.config.data.val_split = part;
        self
    }

    /// Sets whether the model has two towers.
    ///
    /// Backends derive this from the model. The setting exists because Python
    /// clients of 2022 have it.
    pub fn multi_modal(mut self, multi_modal: bool) -> Self {
        self.config.model.multi_modal = Some(multi_modal);
        self
    }

    /// Sets the modality of chunks with images; `image` by default.
    pub fn image_modality(mut self, modality: impl Into<Modality>) -> Self {
        self.config.data.image_modality = Some(modality.into());
        self
    }

    /// Sets the modality of chunks with texts; `text` by default.
    pub fn text_modality(mut self, modality: impl Into<Modality>) -> Self {
        self.config.data.text_modality = Some(modality.into());
        self
    }

    /// Sets the prompts before the texts of each column.
    ///
    /// They apply to training and evaluation, like `prompts` in the training
    /// arguments of sentence-transformers. The saved model keeps the prompt of
    /// anchors as `query` and that of their matches as `document`. A plain text is
    /// one prompt for all columns.
    pub fn prompts(mut self, prompts: impl Into<Prompts>) -> Self {
        self.hyper().prompts = Some(prompts.into());
        self
    }

    /// Sets default options for CSV files.
    pub fn csv_options(mut self, options: CsvOptions) -> Self {
        self.csv_options = Some(options);
        self
    }
}
