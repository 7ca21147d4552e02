//! `EvaluationCallback`: metrics before and after training, and during training if
//! requested or if another callback monitors one. The data decides between retrieval
//! metrics and those of scored pairs or triplets.

use std::collections::BTreeMap;

use finetuner_protocol::{
    Callback, Event, FoundDocuments, Level, Stage, callback::EvaluationCallback,
};
use serde_json::Value;

use super::{
    context::{Context, TrainingCallback},
    graded::{self, Graded},
    monitor::is_watched,
    relevance::{check_relevance, evaluation_data_names},
    report::{is_interval, report, report_epoch, report_interval},
    verdict,
};
use crate::{
    Error, Result,
    data::{
        Documents, Images, Item, Modalities, SearchKinds, SearchSet, Searched, read_search_set,
    },
    draw::shuffled_order,
    evaluation::{AtK, Distance, GradedKind, METRICS, Metrics, Relevance, is_graded, rank},
    infer::{ItemRef, embed},
    models::ModelKind,
    train::{Step, Trainer},
};

/// The parts of a CLIP, under the Python Finetuner's names.
const PARTS: [(&str, ModelKind); 2] = [
    ("clip-text", ModelKind::Text),
    ("clip-vision", ModelKind::Image),
];

pub(crate) struct Evaluation {
    options: EvaluationCallback,
    kinds: SearchKinds,
    distance: Distance,
    /// Names of the metrics to measure.
    wanted: Vec<String>,
    /// Prefix of metric names in the output.
    prefix: String,
    /// Whether another callback monitors a metric, which needs a value of every epoch.
    watched: bool,
    /// Mean similarity of the index documents before training.
    similarity_before: Option<f64>,
    /// The evaluation data, read by the first evaluation.
    set: Option<Set>,
}

/// The data of an evaluation.
enum Set {
    /// Queries and the documents to search.
    Search(SearchSet),
    /// Pairs with scores, or triplets.
    Graded(Graded),
}

fn bad(field: &str, reason: impl Into<String>) -> Error {
    Error::config(format!("callbacks.EvaluationCallback.{field}"), reason)
}

/// Returns the kinds of the queries and of the documents to search.
pub(crate) fn search_kinds(options: &EvaluationCallback, kind: ModelKind) -> Result<SearchKinds> {
    let given = [
        ("model", &options.model),
        ("index_model", &options.index_model),
    ];
    if kind != ModelKind::TextImage {
        // One model embeds both, so its name does not matter.
        return Ok(SearchKinds {
            queries: kind,
            index: kind,
        });
    }
    let [queries, index] = given.map(|(field, name)| {
        let Some(name) = name.as_deref() else {
            return Ok(None);
        };
        let found = PARTS.iter().find(|(part, _)| *part == name);
        let reason = format!("`{name}`: the parts of a CLIP are `clip-text` and `clip-vision`");
        found
            .map(|(_, kind)| Some(*kind))
            .ok_or_else(|| bad(field, reason))
    });
    // By default, texts search images.
    let queries = queries?.unwrap_or(ModelKind::Text);
    Ok(SearchKinds {
        queries,
        index: index?.unwrap_or(ModelKind::Image),
    })
}

impl Evaluation {
    /// Checks the options; `all` are the callbacks of the run.
    pub(crate) fn new(
        options: &EvaluationCallback,
        all: &[Callback],
        kind: ModelKind,
    ) -> Result<Self> {
        if options.query_data.is_empty() {
            return Err(bad("query_data", "empty: name the query data"));
        }
        if options.limit == 0 {
            return Err(bad("limit", "0: a query must return at least 1 document"));
        }
        if options.batch_size == 0 {
            return Err(bad("batch_size", "0: at least 1 is needed"));
        }
        if options.steps_per_interval == Some(0) {
            return Err(bad("steps_per_interval", "0: at least 1 is needed"));
        }
        if options.query_sample_size == Some(0) {
            return Err(bad("query_sample_size", "0: at least 1 is needed"));
        }
        let kinds = search_kinds(options, kind)?;
        let wanted = wanted_metrics(options)?;
        graded::allows_graded_data(options, kind)?;
        let watched = is_watched(all);
        Ok(Self {
            distance: Distance::parse(options.distance.as_str())?,
            prefix: prefix(options, kinds),
            options: options.clone(),
            kinds,
            wanted,
            watched,
            similarity_before: None,
            set: None,
        })
    }

    /// Evaluates, and reports the results for a stage of the run.
    fn evaluate_stage(&mut self, context: &mut Context<'_>, stage: Stage) -> Result<()> {
        let Measured {
            metrics,
            examples,
            mut found,
            similarity,
        } = self.evaluate(context)?;
        report(context, stage, &metrics);
        match stage {
            Stage::Before => self.similarity_before = similarity,
            Stage::After => {
                let collapsed = verdict::collapse(self.similarity_before, similarity);
                let worse = verdict::decline_warning(&context.before, &metrics);
                for warning in collapsed.into_iter().chain(worse) {
                    context.log(Level::Warning, warning);
                }
            }
        }
        if self.options.gather_examples {
            let searched = self.options.index_data.as_ref();
            found.data = searched.unwrap_or(&self.options.query_data).clone();
            context.observer.event(Event::Examples {
                stage,
                examples,
                found: Some(found),
            });
        }
        Ok(())
    }

    fn evaluate(&mut self, context: &mut Context<'_>) -> Result<Measured> {
        let set = match self.set.take() {
            Some(set) => set,
            None => self.read_set(context)?,
        };
        let set = self.set.insert(set);
        let (options, wanted) = (&self.options, &self.wanted);
        let mut measured = match set {
            Set::Search(set) => measure(context.trainer, options, self.distance, wanted, set)?,
            Set::Graded(graded) => {
                let (metrics, found, dim) = graded.measure(context.trainer, options)?;
                Measured {
                    metrics,
                    similarity: verdict::mean_similarity(&found, dim),
                    ..Measured::default()
                }
            }
        };
        let metrics = std::mem::take(&mut measured.metrics).into_iter();
        measured.metrics = metrics
            .map(|(name, value)| (format!("{}{name}", self.prefix), value))
            .collect();
        Ok(measured)
    }

    fn read_set(&self, context: &mut Context<'_>) -> Result<Set> {
        let set = read_whole_set(
            &self.options,
            self.kinds,
            context.data,
            context.modalities,
            context.images,
        )?;
        let mut set = match set {
            Set::Search(set) => set,
            graded @ Set::Graded(_) => return Ok(graded),
        };
        if let Some(warning) = check_relevance(&self.options, &set)? {
            context.log(Level::Warning, warning);
        }
        if let Some(size) = self.options.query_sample_size.map(|size| size as usize)
            && size < set.queries.len()
        {
            // Use the same sample each time, so that metrics are comparable.
            let mut chosen = shuffled_order(set.queries.len(), 0, 0);
            chosen.truncate(size);
            chosen.sort_unstable();
            let mut place = 0;
            set.queries.retain(|_| {
                place += 1;
                chosen.binary_search(&(place - 1)).is_ok()
            });
        }
        Ok(Set::Search(set))
    }
}

/// Reads and checks the evaluation data before a run. Returns the names of the metrics.
pub(crate) fn check_evaluation(
    options: &EvaluationCallback,
    kind: ModelKind,
    modalities: &Modalities,
    documents: &dyn Fn(&str) -> Result<Documents>,
) -> Result<Vec<String>> {
    let kinds = search_kinds(options, kind)?;
    let set = read_whole_set(options, kinds, documents, modalities, &Images::Checked)?;
    let wanted = match set {
        Set::Search(set) => {
            check_relevance(options, &set)?;
            wanted_metrics(options)?
        }
        Set::Graded(graded) => graded.wanted(options),
    };
    let prefix = prefix(options, kinds);
    Ok(wanted
        .iter()
        .map(|name| format!("{prefix}{name}"))
        .collect())
}

fn read_whole_set(
    options: &EvaluationCallback,
    kinds: SearchKinds,
    documents: &dyn Fn(&str) -> Result<Documents>,
    modalities: &Modalities,
    images: &Images,
) -> Result<Set> {
    let (queries, index) = evaluation_data_names(options);
    let mut query_data = documents(queries.name)?;
    let one_kind = kinds.queries == kinds.index;
    if one_kind && graded::allows_graded_data(options, kinds.queries)? {
        match graded::read(options, kinds.queries, query_data, images)? {
            graded::Read::Graded(graded) => return Ok(Set::Graded(graded)),
            graded::Read::Other(documents) => query_data = documents,
        }
    }
    let set = read_search_set(
        (query_data, queries),
        match index {
            Some(index) => Some((documents(index.name)?, index)),
            None => None,
        },
        kinds,
        modalities,
        images,
    )?;
    Ok(Set::Search(set))
}

/// Returns the names of the metrics that an evaluation measures.
///
/// If they depend on the data, returns all candidates.
pub(crate) fn measured_names(options: &EvaluationCallback, kind: ModelKind) -> Result<Vec<String>> {
    if kind == ModelKind::TextPairs {
        return super::reranking::measured_names(options);
    }
    let prefix = prefix(options, search_kinds(options, kind)?);
    let mut names = wanted_metrics(options)?;
    if graded::metric_names(options).is_none() && graded::allows_graded_data(options, kind)? {
        let kinds = [GradedKind::Scored, GradedKind::Binary, GradedKind::Triplets];
        names.extend(kinds.iter().flat_map(|kind| kind.default_names()));
    }
    names.sort();
    names.dedup();
    Ok(names.iter().map(|name| format!("{prefix}{name}")).collect())
}

/// Returns the metrics named in the options, or docarray's by default.
fn wanted_metrics(options: &EvaluationCallback) -> Result<Vec<String>> {
    let own = || METRICS.iter().map(|(name, _)| (*name).to_owned());
    let value = match options.extra.get("metrics") {
        None | Some(Value::Null) => return Ok(own().collect()),
        Some(value) => value,
    };
    let is_known = |name: &&str| {
        AtK::parse(name).is_some() || is_graded(name) || own().any(|known| known == **name)
    };
    let named = value.as_array().and_then(|list| {
        let named = list.iter().map(|name| name.as_str().filter(is_known));
        named.map(|name| name.map(str::to_owned)).collect()
    });
    named.ok_or_else(|| {
        let graded = ["spearman_cosine", "cosine_accuracy", "cosine_ap"].map(str::to_owned);
        let known: Vec<String> = own().chain(AtK::known()).chain(graded).collect();
        let reason = format!(
            "{value}: give a list of metrics from {}, where `k` is a number such as 10",
            known.join(", ")
        );
        bad("metrics", reason)
    })
}

/// Builds the metric prefix from the caption and, if requested, the model names.
fn prefix(options: &EvaluationCallback, kinds: SearchKinds) -> String {
    let mut prefix = String::new();
    if let Some(caption) = &options.caption {
        prefix = format!("{caption}_");
    }
    if options.output_model_names {
        let default = |kind: ModelKind| {
            let part = PARTS.iter().find(|(_, part)| *part == kind);
            match part {
                Some((name, _)) if kinds.queries != kinds.index => name,
                _ => "model",
            }
        };
        let name = options.model.as_deref().unwrap_or(default(kinds.queries));
        let index = options
            .index_model
            .as_deref()
            .unwrap_or(default(kinds.index));
        prefix += name;
        if index != name {
            prefix += &format!("-to-{index}");
        }
        prefix.push('_');
    }
    prefix
}

impl TrainingCallback for Evaluation {
    fn on_fit_begin(&mut self, context: &mut Context<'_>) -> Result<()> {
        self.evaluate_stage(context, Stage::Before)
    }

    fn wants_interval(&self, step: &Step) -> bool {
        is_interval(self.options.steps_per_interval, step)
    }

    fn on_interval(&mut self, context: &mut Context<'_>) -> Result<()> {
        let measured = self.evaluate(context)?;
        report_interval(context, measured.metrics);
        Ok(())
    }

    fn on_epoch_end(&mut self, context: &mut Context<'_>) -> Result<()> {
        if self.watched {
            let measured = self.evaluate(context)?;
            report_epoch(context, measured.metrics);
        }
        Ok(())
    }

    fn after_fit(&mut self, context: &mut Context<'_>) -> Result<()> {
        self.evaluate_stage(context, Stage::After)
    }

    fn state(&self) -> Value {
        self.similarity_before.into()
    }

    fn restore(&mut self, state: &Value) -> Result<()> {
        self.similarity_before = state.as_f64();
        Ok(())
    }
}

/// Results of an evaluation.
#[derive(Default)]
struct Measured {
    metrics: Metrics,
    /// Documents that the first queries found, if the options ask for examples.
    examples: BTreeMap<String, Vec<Value>>,
    /// Indices of these documents, their distances, and whether they are relevant.
    found: FoundDocuments,
    /// Mean similarity of the index documents.
    similarity: Option<f64>,
}

/// Embeds queries and index, searches, and compares the labels of the results.
fn measure(
    trainer: &Trainer,
    options: &EvaluationCallback,
    distance: Distance,
    wanted: &[String],
    set: &SearchSet,
) -> Result<Measured> {
    let (model, preparer) = (&trainer.model, &trainer.preparer);
    let encode = |searched: &[Searched], role: &str, place: usize| {
        let items: Vec<ItemRef<'_>> = searched.iter().map(|s| (&s.item).into()).collect();
        embed(
            model,
            &preparer.of_member(place),
            &items,
            options.batch_size as usize,
        )
        .map_err(|e| match e {
            Error::Item { place, reason } => {
                let id = &searched[place].id;
                Error::data(format!("{role} `{id}`: {reason}"))
            }
            other => other,
        })
    };
    let asked = encode(&set.queries, "query", 0)?;
    let found = encode(&set.index, "document of the index", 1)?;
    let deepest = wanted.iter().filter_map(|name| AtK::parse(name));
    let deepest = deepest.map(|metric| metric.k).max().unwrap_or(0);
    let limit = usize::try_from(options.limit).unwrap_or(usize::MAX);
    let depth = limit.max(deepest);
    // Search for one more, since the query itself may be excluded.
    let rankings = rank(
        &asked.values,
        &found.values,
        asked.dim,
        depth.saturating_add(1),
        distance,
    );
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for document in &set.index {
        *counts.entry(&document.label).or_default() += 1;
    }
    let own = match options.exclude_self {
        true => set.own_documents(),
        false => vec![None; set.queries.len()],
    };
    let (mut examples, mut documents) = (BTreeMap::new(), FoundDocuments::default());
    let relevance: Vec<Relevance> = rankings
        .iter()
        .zip(set.queries.iter().zip(own))
        .map(|(ranking, (query, own))| {
            let matches = || {
                let others = ranking.iter().filter(move |m| Some(m.index) != own);
                others.take(depth)
            };
            let found = || matches().map(|m| &set.index[m.index]);
            if options.gather_examples && (examples.len() as u64) < options.num_example_queries {
                let shown = found().take(limit).map(|document| {
                    match (&document.item, document.uri.as_str()) {
                        (Item::Text(text), _) => text.to_string().into(),
                        (_, "") => document.label.as_str().into(),
                        (_, uri) => uri.into(),
                    }
                });
                let name = query.name();
                examples.insert(name.clone(), shown.collect());
                let top = found().take(limit);
                let places = top.clone().map(|document| document.place as u64);
                documents.places.insert(name.clone(), places.collect());
                let hits = top.map(|document| document.label == query.label);
                documents.hits.insert(name.clone(), hits.collect());
                let distances = matches().take(limit).map(|m| m.distance.min(f32::MAX));
                documents.distances.insert(name, distances.collect());
            }
            // The query's own document in the index does not count as relevant.
            let own = own.is_some_and(|own| set.index[own].label == query.label);
            let relevant = counts.get(query.label.as_str()).copied().unwrap_or(0);
            Relevance {
                found: found()
                    .map(|document| document.label == query.label)
                    .collect(),
                max_relevant: relevant - usize::from(own),
            }
        })
        .collect();
    // docarray's metrics use the whole result list, cut to `limit`.
    let cut: Vec<Relevance> = relevance.iter().map(|r| r.within(limit)).collect();
    let metrics = wanted.iter().filter_map(|name| {
        let queries = match AtK::parse(name) {
            Some(_) => &relevance,
            None => &cut,
        };
        Some((name.clone(), Relevance::mean_metric(queries, name)?))
    });
    Ok(Measured {
        metrics: metrics.collect(),
        examples,
        found: documents,
        similarity: verdict::mean_similarity(&found.values, found.dim),
    })
}
