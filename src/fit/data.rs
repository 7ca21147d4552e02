//! The data of a job and how it is read, under the names of the Python client's
//! arguments where it has them.

use finetuner_protocol::{MultiDatasetBatchSampler, Prompts, RunConfig};

use super::Fit;
use crate::{CsvOptions, DataSource};

impl Fit {
    /// All settings and data of a run configuration, such as one that a file
    /// holds, in place of what was set before. Its data has names. What is set
    /// later replaces parts of it.
    ///
    /// ```no_run
    /// # async fn example(finetuner: finetuner::Finetuner) -> finetuner::Result<()> {
    /// // The same training once more, with more epochs.
    /// let before = finetuner.get_run("clip-fashion-1").await?;
    /// if let Some(config) = before.config().training() {
    ///     let fit = finetuner.fit("", "").config(config.clone());
    ///     let run = fit.run_name("clip-fashion-2").epochs(10).await?;
    /// }
    /// # Ok(())
    /// # }
    /// ```
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
        self.model = config.model.name.clone();
        self.config = config;
        self
    }

    /// The data to train on, in place of that given to
    /// [`Finetuner::fit`](crate::Finetuner::fit).
    ///
    /// ```no_run
    /// # fn example(fit: finetuner::Fit) {
    /// let fit = fit.train_data(finetuner::Csv::path("train.csv"));
    /// # }
    /// ```
    pub fn train_data(mut self, data: impl Into<DataSource>) -> Self {
        self.train_data = data.into();
        self
    }

    /// Further data to train on. Each batch comes from one data set. An epoch goes
    /// through it as often as `weight` says: 1.0 is once, 0.5 takes half of its
    /// batches, 2.0 takes all twice.
    ///
    /// ```no_run
    /// # fn example(fit: finetuner::Fit) {
    /// use finetuner::Dataset;
    ///
    /// let fit = fit
    ///     .more_train_data(Dataset::json_lines("questions.jsonl"), 1.0)
    ///     .more_train_data("titles", 0.5);
    /// # }
    /// ```
    pub fn more_train_data(mut self, data: impl Into<DataSource>, weight: f64) -> Self {
        self.more_train_data.push((data.into(), weight));
        self
    }

    /// How often an epoch goes through the first data, beside
    /// [`Fit::more_train_data`]; once by default.
    ///
    /// ```no_run
    /// # fn example(fit: finetuner::Fit) {
    /// let fit = fit.train_data_weight(2.0).more_train_data("titles", 1.0);
    /// # }
    /// ```
    pub fn train_data_weight(mut self, weight: f64) -> Self {
        self.config.data.train_data_weight = Some(weight);
        self
    }

    /// How batches of several data sets follow each other;
    /// [`MultiDatasetBatchSampler::Proportional`] by default.
    ///
    /// ```no_run
    /// # fn example(fit: finetuner::Fit) {
    /// use finetuner::MultiDatasetBatchSampler;
    ///
    /// let fit = fit
    ///     .more_train_data("titles", 1.0)
    ///     .multi_dataset_batch_sampler(MultiDatasetBatchSampler::RoundRobin);
    /// # }
    /// ```
    pub fn multi_dataset_batch_sampler(
        mut self,
        sampler: impl Into<MultiDatasetBatchSampler>,
    ) -> Self {
        self.config.data.multi_dataset_batch_sampler = Some(sampler.into());
        self
    }

    /// Data for the validation loss after each epoch.
    ///
    /// ```no_run
    /// # fn example(fit: finetuner::Fit) {
    /// let fit = fit.eval_data("clip-fashion-eval-data");
    /// # }
    /// ```
    pub fn eval_data(mut self, data: impl Into<DataSource>) -> Self {
        self.eval_data = Some(data.into());
        self
    }

    /// The part of the training data to validate with if there is no `eval_data`, from
    /// 0 up to 1; 0 by default.
    ///
    /// ```no_run
    /// # fn example(fit: finetuner::Fit) {
    /// let fit = fit.val_split(0.1);
    /// # }
    /// ```
    pub fn val_split(mut self, part: f64) -> Self {
        self.config.data.val_split = part;
        self
    }

    /// Whether the model has two towers. Backends see that by the model; the
    /// argument is from the clients of 2022.
    ///
    /// ```no_run
    /// # fn example(fit: finetuner::Fit) {
    /// let fit = fit.multi_modal(true);
    /// # }
    /// ```
    pub fn multi_modal(mut self, multi_modal: bool) -> Self {
        self.config.model.multi_modal = Some(multi_modal);
        self
    }

    /// The modality of the chunks with pictures; `image` by default.
    ///
    /// ```no_run
    /// # fn example(fit: finetuner::Fit) {
    /// let fit = fit.image_modality("photo");
    /// # }
    /// ```
    pub fn image_modality(mut self, modality: impl Into<String>) -> Self {
        self.config.data.image_modality = Some(modality.into());
        self
    }

    /// The modality of the chunks with texts; `text` by default.
    ///
    /// ```no_run
    /// # fn example(fit: finetuner::Fit) {
    /// let fit = fit.text_modality("title");
    /// # }
    /// ```
    pub fn text_modality(mut self, modality: impl Into<String>) -> Self {
        self.config.data.text_modality = Some(modality.into());
        self
    }

    /// Prompts before the texts of each column, in training and evaluation, as
    /// `prompts` in the training arguments of sentence-transformers. The saved model
    /// keeps them: the prompt of anchors as `query`, that of their matches as
    /// `document`. A plain text is one prompt for all columns.
    ///
    /// ```no_run
    /// # fn example(fit: finetuner::Fit) {
    /// use finetuner::Prompts;
    ///
    /// let prompts = Prompts::new().anchor("query: ").positive("passage: ").negative("passage: ");
    /// let fit = fit.prompts(prompts);
    /// # }
    /// ```
    pub fn prompts(mut self, prompts: impl Into<Prompts>) -> Self {
        self.hyper().prompts = Some(prompts.into());
        self
    }

    /// Default options for CSV files.
    ///
    /// ```no_run
    /// # fn example(fit: finetuner::Fit) {
    /// use finetuner::CsvOptions;
    ///
    /// let fit = fit.csv_options(CsvOptions::new().is_labeled(true));
    /// # }
    /// ```
    pub fn csv_options(mut self, options: CsvOptions) -> Self {
        self.csv_options = Some(options);
        self
    }
}
