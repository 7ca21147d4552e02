//! `synthesize`: creates training data from queries and a corpus.

use clap::Args;
use finetuner::SynthesisModels;

use super::submitted::{self, Following};
use crate::{
    failure::Result, output::Output, progress::Transfer, session::Session, sources::Reading,
};

/// `synthesize`.
#[derive(Debug, Args)]
pub(crate) struct Synthesize {
    /// Queries: a file, or the name of data that was pushed
    #[arg(value_name = "QUERIES")]
    queries: String,
    /// Texts to search in: a file, or the name of data that was pushed
    #[arg(value_name = "CORPUS")]
    corpus: String,
    /// Model that finds texts for a query; may be given several times [default:
    /// sbert-base-en]
    #[arg(long, value_name = "MODEL")]
    relation_miner: Vec<String>,
    /// Model that scores the texts found [default: crossencoder-base-en]
    #[arg(long, value_name = "MODEL")]
    cross_encoder: Option<String>,
    /// Number of texts of the corpus per query [default: 10]
    #[arg(long, value_name = "N")]
    num_relations: Option<u64>,
    /// Maximum number of documents to create
    #[arg(long, value_name = "N")]
    max_num_docs: Option<u64>,
    /// Name of the run, unique in its experiment [default: random]
    #[arg(long, value_name = "NAME")]
    run_name: Option<String>,
    /// Experiment of the run [default: default]
    #[arg(long, short, value_name = "NAME", alias = "experiment")]
    experiment_name: Option<String>,
    /// Description of the run
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
    /// Device: cuda or cpu [default: cuda, if the backend has it]
    #[arg(long)]
    device: Option<String>,
    /// Number of threads that load data [default: 4]
    #[arg(long, value_name = "N")]
    num_workers: Option<u64>,
    /// Allow others to read the data
    #[arg(long)]
    public: bool,
    #[command(flatten)]
    reading: Reading,
    /// Follow the run to its end, and print the name of the data
    #[arg(long, short)]
    watch: bool,
}

impl Synthesize {
    pub(crate) async fn run(self, session: &Session, output: &Output) -> Result {
        let queries = self.reading.source("QUERIES", &self.queries).await?;
        let corpus = self.reading.source("CORPUS", &self.corpus).await?;
        self.reading.check_used()?;
        let mut models = SynthesisModels::english();
        if !self.relation_miner.is_empty() {
            models.relation_miner = self.relation_miner;
        }
        if let Some(model) = self.cross_encoder {
            models.cross_encoder = model;
        }
        let transfer = Transfer::new(*output, "Pushing data");
        let finetuner = session.connect().await?;
        let mut job = finetuner
            .synthesize(queries, corpus)
            .models(models)
            .public(self.public)
            .on_progress(transfer.watcher());
        if let Some(count) = self.num_relations {
            job = job.num_relations(count);
        }
        if let Some(count) = self.max_num_docs {
            job = job.max_num_docs(count);
        }
        if let Some(name) = self.run_name {
            job = job.run_name(name);
        }
        if let Some(name) = self.experiment_name {
            job = job.experiment_name(name);
        }
        if let Some(text) = self.description {
            job = job.description(text);
        }
        if let Some(device) = self.device {
            job = job.device(device);
        }
        if let Some(count) = self.num_workers {
            job = job.num_workers(count);
        }
        let run = job.await?;
        drop(transfer);
        let following = Following {
            watch: self.watch,
            output: None,
        };
        submitted::finish(&run, following, session, output).await
    }
}
