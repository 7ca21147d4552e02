//! Data synthesis: training data for `MarginMSELoss` from unlabelled queries
//! and a corpus.
//!
//! Text models, the relation miners, find the corpus texts most similar to each
//! query. The most similar text counts as the query's match. A cross-encoder
//! scores it and the others. Each document has three chunks, the query, the
//! match and one of the others, and the tag `finetuner_score`: the score of the
//! match minus that of the other.
//!
//! The corpus is embedded and searched block by block, and the queries in
//! groups. Memory holds the queries with the texts found for them, and a hash
//! of 8 bytes per corpus text.

mod mine;
mod write;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use finetuner_protocol::{Device, Event, Level, SynthesisConfig, worker::LocalModels};

use crate::{
    Error, Result,
    data::{DataName, Documents, read_text, texts},
    infer::{CrossEncoder, Encoder},
    job::Setting,
    models::ModelKind,
    observer::Observer,
    source::{HubRules, ModelSource},
};
use mine::{Candidate, Progress, Search, candidates, merge};
use write::Writer;

pub use write::Synthesized;

/// Number of corpus texts that are searched together.
const BLOCK: usize = 4096;
/// Number of queries that are searched together.
const QUERIES: usize = 32_768;
/// Number of queries whose candidates are scored together.
const SCORED: usize = 128;
/// Interval between log lines on the progress of a long step.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(10);

/// A synthesis run with a checked configuration.
pub struct SynthesisPlan {
    /// The name of the queries.
    pub queries: String,
    /// The name of the corpus.
    pub corpus: String,
    miners: Vec<ModelSource>,
    cross_encoder: ModelSource,
    /// Number of texts per query, including the match.
    relations: usize,
    /// Largest number of documents to create.
    most: usize,
}

impl SynthesisPlan {
    /// Checks a configuration.
    ///
    /// # Errors
    /// [`Error::Config`] names the field, its value and what is allowed;
    /// [`Error::Model`] is about a model's name.
    pub fn new(config: &SynthesisConfig, local: &LocalModels, hub: &HubRules) -> Result<Self> {
        config
            .check()
            .map_err(|e| Error::config(e.field, format!("{}: {}", e.value, e.limit)))?;
        let mining = &config.relation_mining;
        if mining.num_relations < 2 {
            let reason = "1: at least 2 are needed, the match of a query and another text";
            return Err(Error::config("num_relations", reason));
        }
        let miner = |name: &String| {
            let source = ModelSource::resolve(name, local)?;
            match source.kind(hub)? {
                ModelKind::Text => Ok(source),
                other => Err(Error::config(
                    "relation_miner",
                    format!(
                        "`{name}` is a model of {}; give a model that embeds texts",
                        other.inputs()
                    ),
                )),
            }
        };
        let name = &config.cross_encoder;
        let cross_encoder = ModelSource::resolve(name, local)?;
        let kind = cross_encoder.kind(hub)?;
        if kind != ModelKind::TextPairs {
            let reason = format!(
                "`{name}` is a model of {}; give a cross-encoder, whose config.json names a \
                 sequence classifier under `architectures`",
                kind.inputs()
            );
            return Err(Error::config("cross_encoder", reason));
        }
        let count = |count: u64| usize::try_from(count).unwrap_or(usize::MAX);
        Ok(Self {
            queries: config.data.queries.clone(),
            corpus: config.data.corpus.clone(),
            miners: mining.models.iter().map(miner).collect::<Result<_>>()?,
            cross_encoder,
            relations: count(mining.num_relations),
            most: config.max_num_docs.map_or(usize::MAX, count),
        })
    }

    /// Returns the names of all data sets that the run reads, without repeats.
    #[must_use]
    pub fn data_names(&self) -> Vec<String> {
        let mut names = vec![self.queries.clone(), self.corpus.clone()];
        names.dedup();
        names
    }

    /// Returns the configuration field of a data set.
    #[must_use]
    pub fn data_name<'a>(&self, name: &'a str) -> DataName<'a> {
        let field = match name == self.queries {
            true => "query_data",
            false => "corpus_data",
        };
        DataName { field, name }
    }

    /// Checks that every document of the data is a text, without keeping any in
    /// memory.
    ///
    /// # Errors
    /// [`Error::Data`] names the documents at fault.
    pub fn check_data(&self, documents: &dyn Fn(&str) -> Result<Documents>) -> Result<()> {
        for name in self.data_names() {
            texts(documents(&name)?, self.data_name(&name), |_| ())?;
        }
        Ok(())
    }
}

/// Runs a data synthesis.
///
/// # Errors
/// Errors of models and data, and [`Error::Interrupted`].
pub fn synthesize(
    plan: &SynthesisPlan,
    setting: &Setting<'_>,
    observer: &mut dyn Observer,
) -> Result<Synthesized> {
    let mut run = Run {
        plan,
        setting,
        observer,
        last: Instant::now(),
    };
    run.log("Starting data synthesis run ...".to_owned());
    if *setting.device != Device::Cpu {
        let message = format!(
            "the run requests the device `{}`, but data is synthesized on the CPU",
            setting.device
        );
        run.note(Level::Warning, message);
    }
    let queries: Vec<Arc<str>> = texts(
        (setting.read_data)(&plan.queries)?,
        plan.data_name(&plan.queries),
        |text| Arc::from(text),
    )?;
    run.log(format!("{} queries", queries.len()));
    let found = run.mine(&queries)?;
    let lonely = found.iter().filter(|found| found.len() < 2).count();
    if lonely == found.len() {
        return Err(Error::data(format!(
            "{} holds fewer than 2 texts that could be found for any query: give a larger corpus",
            plan.data_name(&plan.corpus)
        )));
    }
    if lonely > 0 {
        let message = format!(
            "{lonely} queries are skipped: fewer than 2 texts of the corpus were found for each"
        );
        run.note(Level::Warning, message);
    }
    run.score(&queries, &found)
}

/// A synthesis run in progress.
struct Run<'a, 'b> {
    plan: &'a SynthesisPlan,
    setting: &'a Setting<'b>,
    observer: &'a mut dyn Observer,
    /// Time of the last log line on progress.
    last: Instant,
}

impl Run<'_, '_> {
    fn note(&mut self, level: Level, message: String) {
        self.observer.event(Event::Log { level, message });
    }

    fn log(&mut self, message: String) {
        self.note(Level::Info, message);
    }

    /// Stops the run if it was interrupted, and logs the progress at intervals.
    fn step(&mut self, message: impl FnOnce() -> String) -> Result<()> {
        if self.observer.interrupted().is_some() {
            return Err(Error::Interrupted);
        }
        if self.last.elapsed() >= PROGRESS_INTERVAL {
            self.last = Instant::now();
            self.log(message());
        }
        Ok(())
    }

    /// Returns the corpus texts most similar to each query, from all miners.
    fn mine(&mut self, queries: &[Arc<str>]) -> Result<Vec<Vec<Candidate>>> {
        let plan = self.plan;
        let search = Search {
            count: plan.relations,
            block: BLOCK,
        };
        let mut found: Vec<Vec<Vec<Candidate>>> = vec![Vec::new(); queries.len()];
        for (number, source) in plan.miners.iter().enumerate() {
            let model = Encoder::load(source.read_with(&self.setting.hub)?)?;
            let which = match plan.miners.len() {
                1 => String::new(),
                all => format!(" by model {} of {all}", number + 1),
            };
            self.log(format!("Mining relations{which} ..."));
            for (group, slots) in queries.chunks(QUERIES).zip(found.chunks_mut(QUERIES)) {
                let documents = (self.setting.read_data)(&plan.corpus)?;
                let name = plan.data_name(&plan.corpus);
                let corpus = documents.map(|document| read_text(&document?, name));
                let found = candidates(&model, group, corpus, search, |progress| {
                    let Progress { seen } = progress;
                    self.step(|| format!("Mining relations{which}: {seen} documents searched"))
                })?;
                for (slot, found) in slots.iter_mut().zip(found) {
                    slot.push(found);
                }
            }
        }
        Ok(found
            .into_iter()
            .map(|lists| merge(lists, plan.relations))
            .collect())
    }

    /// Scores the candidates, and writes the documents.
    fn score(&mut self, queries: &[Arc<str>], found: &[Vec<Candidate>]) -> Result<Synthesized> {
        let model = CrossEncoder::load(self.plan.cross_encoder.read_with(&self.setting.hub)?)?;
        if model.labels() != 1 {
            let reason = format!(
                "the model returns {} scores per pair; give a model with a single label",
                model.labels()
            );
            return Err(Error::config("cross_encoder", reason));
        }
        self.log("Scoring relations ...".to_owned());
        let all: usize = found
            .iter()
            .map(|found| found.len().saturating_sub(1))
            .sum();
        let all = all.min(self.plan.most);
        let mut writer = Writer::create(self.setting.folder, all as u64)?;
        let groups = queries.chunks(SCORED).zip(found.chunks(SCORED));
        for (number, (queries, found)) in groups.enumerate() {
            if writer.is_full() {
                break;
            }
            self.step(|| format!("Scoring relations: {} queries", number * SCORED))?;
            let pairs = queries.iter().zip(found).flat_map(|(query, found)| {
                found
                    .iter()
                    .map(move |candidate| [&**query, &*candidate.text])
            });
            let scores = model.predict(&pairs.collect::<Vec<_>>())?.values;
            if let Some(score) = scores.iter().find(|score| !score.is_finite()) {
                let reason = format!("the model returns the score {score}: its weights are broken");
                return Err(Error::config("cross_encoder", reason));
            }
            let mut scores = scores.as_slice();
            for (query, found) in queries.iter().zip(found) {
                let own;
                (own, scores) = scores.split_at(found.len());
                writer.add(query, found, own)?;
            }
        }
        let made = writer.finish()?;
        self.log(format!("{} training examples created", made.documents));
        self.log("Done ✨".to_owned());
        Ok(made)
    }
}
