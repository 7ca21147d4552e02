//! Builder for data synthesis jobs.

use std::{
    future::{Future, IntoFuture},
    pin::Pin,
};

use finetuner_data::{CsvOptions, Layout};
use finetuner_protocol::{Device, Generation, RelationMining, RunTask, SynthesisConfig};

use super::{
    names,
    submit::{Columns, Pushing, Submission, push_and_submit},
};
use crate::{
    client::Finetuner,
    data::DataSource,
    error::Result,
    runs::{DEFAULT_EXPERIMENT, Run},
    transport::{ProgressSink, progress_methods},
};

impl Finetuner {
    /// Describes a job that creates training data from queries and a corpus.
    ///
    /// Awaiting the returned value submits the job. See [`Synthesize`].
    ///
    /// ```no_run
    /// # async fn example(finetuner: finetuner::Finetuner) -> finetuner::Result<()> {
    /// use finetuner::SynthesisModels;
    ///
    /// let run = finetuner
    ///     .synthesize("queries", "corpus")
    ///     .models(SynthesisModels::english())
    ///     .await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn synthesize(
        &self,
        query_data: impl Into<DataSource>,
        corpus_data: impl Into<DataSource>,
    ) -> Synthesize {
        Synthesize::new(self.clone(), query_data.into(), corpus_data.into())
    }
}

/// The models of a data synthesis job.
///
/// ```no_run
/// # async fn example(finetuner: finetuner::Finetuner) -> finetuner::Result<()> {
/// use finetuner::SynthesisModels;
///
/// let run = finetuner
///     .synthesize("queries", "corpus")
///     .models(SynthesisModels::multilingual())
///     .await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SynthesisModels {
    /// Models that find documents for a query.
    pub relation_miner: Vec<String>,
    /// Model that scores how well a document fits.
    pub cross_encoder: String,
}

impl SynthesisModels {
    /// Returns the models for English: `sbert-base-en` and `crossencoder-base-en`.
    ///
    /// Python calls them `synthesis_model_en`.
    #[must_use]
    pub fn english() -> Self {
        Self::new(["sbert-base-en"], "crossencoder-base-en")
    }

    /// Returns multilingual models: `distiluse-base-multi`, `crossencoder-base-ml`.
    ///
    /// Python calls them `synthesis_model_multi`.
    #[must_use]
    pub fn multilingual() -> Self {
        Self::new(["distiluse-base-multi"], "crossencoder-base-ml")
    }

    /// Selects any other models.
    pub fn new<I: IntoIterator<Item: Into<String>>>(
        relation_miner: I,
        cross_encoder: impl Into<String>,
    ) -> Self {
        Self {
            relation_miner: relation_miner.into_iter().map(Into::into).collect(),
            cross_encoder: cross_encoder.into(),
        }
    }
}

/// A data synthesis job, from [`Finetuner::synthesize`].
///
/// It finds the texts of a corpus that are most similar to each query, scores them,
/// and creates training data for `MarginMSELoss`. Awaiting it submits the job.
///
/// ```no_run
/// # async fn example(finetuner: finetuner::Finetuner) -> finetuner::Result<()> {
/// use finetuner::Csv;
///
/// let run = finetuner
///     .synthesize(Csv::path("queries.csv"), Csv::path("corpus.csv"))
///     .run_name("from-scratch")
///     .num_relations(5)
///     .await?;
/// run.wait().await?;
/// let fit = finetuner.fit("sbert-base-en", run.train_data().await?).loss("MarginMSELoss");
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// The same as for [`Fit`](crate::Fit).
#[derive(Clone, Debug)]
#[must_use = "a job is submitted when it is awaited"]
pub struct Synthesize {
    finetuner: Finetuner,
    query_data: DataSource,
    corpus_data: DataSource,
    models: SynthesisModels,
    num_relations: u64,
    max_num_docs: Option<u64>,
    run_name: Option<String>,
    description: Option<String>,
    experiment_name: String,
    device: Device,
    num_workers: u64,
    csv_options: Option<CsvOptions>,
    public: bool,
    progress: ProgressSink,
}

impl Synthesize {
    pub(crate) fn new(
        finetuner: Finetuner,
        query_data: DataSource,
        corpus_data: DataSource,
    ) -> Self {
        Self {
            finetuner,
            query_data,
            corpus_data,
            models: SynthesisModels::english(),
            num_relations: RelationMining::default().num_relations,
            max_num_docs: None,
            run_name: None,
            description: None,
            experiment_name: DEFAULT_EXPERIMENT.to_owned(),
            device: Device::Gpu,
            num_workers: 4,
            csv_options: None,
            public: false,
            progress: ProgressSink::default(),
        }
    }

    /// Sets the models; [`SynthesisModels::english`] by default.
    pub fn models(mut self, models: SynthesisModels) -> Self {
        self.models = models;
        self
    }

    /// Sets the number of texts per query, including its match; 10 by default.
    ///
    /// 2 to 1000 are allowed. Each text except the match gives one training example.
    pub fn num_relations(mut self, count: u64) -> Self {
        self.num_relations = count;
        self
    }

    /// Sets the maximum number of documents to create.
    pub fn max_num_docs(mut self, count: u64) -> Self {
        self.max_num_docs = Some(count);
        self
    }

    /// Sets the run's name, unique in its experiment; a random one by default.
    pub fn run_name(mut self, name: impl Into<String>) -> Self {
        self.run_name = Some(name.into());
        self
    }

    /// Sets a description of the run.
    pub fn description(mut self, text: impl Into<String>) -> Self {
        self.description = Some(text.into());
        self
    }

    /// Sets the experiment; `default` by default. It is created if necessary.
    pub fn experiment_name(mut self, name: impl Into<String>) -> Self {
        self.experiment_name = name.into();
        self
    }

    /// Sets the device; [`Device::Gpu`] by default, as in Python (`cuda`).
    pub fn device(mut self, device: impl Into<Device>) -> Self {
        self.device = device.into().canonical();
        self
    }

    /// Sets the number of threads that load data, at least 1; 4 by default.
    pub fn num_workers(mut self, count: u64) -> Self {
        self.num_workers = count;
        self
    }

    /// Sets default options for CSV files.
    pub fn csv_options(mut self, options: CsvOptions) -> Self {
        self.csv_options = Some(options);
        self
    }

    /// Sets whether others may read the created data; off by default.
    pub fn public(mut self, public: bool) -> Self {
        self.public = public;
        self
    }

    progress_methods!("upload, in documents", |_job| "Pushing data".to_owned());

    async fn submit(self) -> Result<Run> {
        let name = self.run_name.unwrap_or_else(names::random);
        let mut pushing = Pushing::new(
            Generation::V0_8,
            &self.experiment_name,
            &name,
            self.csv_options,
        );
        let queries = pushing.name_of(self.query_data, "query", "query_data");
        let corpus = pushing.name_of(self.corpus_data, "corpus", "corpus_data");
        let mut config = SynthesisConfig::default();
        config.public = self.public;
        config.run_name.clone_from(&name);
        config.experiment_name.clone_from(&self.experiment_name);
        config.data.queries = queries;
        config.data.corpus = corpus;
        config.relation_mining.models = self.models.relation_miner;
        config.relation_mining.num_relations = self.num_relations;
        config.cross_encoder = self.models.cross_encoder;
        config.max_num_docs = self.max_num_docs;
        config.check()?;
        finetuner_protocol::check_workers(self.num_workers)?;
        let submission = Submission {
            experiment: self.experiment_name,
            name,
            config: config.into(),
            task: Some(RunTask::Generation),
            device: self.device,
            cpus: self.num_workers,
            description: self.description,
            tags: Vec::new(),
            note: String::new(),
        };
        push_and_submit(
            &self.finetuner,
            pushing,
            Columns::Known(Layout::TEXTS),
            self.public,
            self.progress,
            submission,
        )
        .await
    }
}

impl IntoFuture for Synthesize {
    type Output = Result<Run>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.submit())
    }
}
