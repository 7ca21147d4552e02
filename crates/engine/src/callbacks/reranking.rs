//! `EvaluationCallback` of a cross-encoder: reranking and correlation metrics.
//!
//! The query data are pairs with scores, as in training. The metrics are those of
//! `CrossEncoderRerankingEvaluator` and `CrossEncoderCorrelationEvaluator` of
//! sentence-transformers.

use std::collections::HashMap;

use finetuner_protocol::{Callback, Level, Stage, callback::EvaluationCallback};
use serde_json::Value;

use super::{
    context::{Context, TrainingCallback},
    monitor::{WITHOUT_RANK, is_watched},
    relevance::evaluation_data_names,
    report::{is_interval, report, report_epoch, report_interval},
    verdict,
};
use crate::{
    Error, Result,
    data::{self, Documents, Example, Images, Item, Layout},
    evaluation::{AtK, Metrics, Relevance, largest_first, pearson, spearman},
    infer::score,
    models::ModelKind,
    modules::Activation,
    train::{Step, Trainer},
};

/// Texts with a given score above this are relevant to their query.
const RELEVANT: f32 = 0.5;
/// Metrics that are measured by default.
const DEFAULT: [&str; 5] = ["map", "mrr@10", "ndcg@10", "pearson", "spearman"];

pub(crate) struct Reranking {
    options: EvaluationCallback,
    wanted: Vec<String>,
    prefix: String,
    /// Whether another callback monitors a metric.
    watched: bool,
    /// The pairs to score, once they have been read.
    pairs: Option<Vec<Example>>,
}

fn bad(field: &str, reason: impl Into<String>) -> Error {
    Error::config(format!("callbacks.EvaluationCallback.{field}"), reason)
}

/// Returns the names of the metrics that a cross-encoder's evaluation measures.
pub(super) fn measured_names(options: &EvaluationCallback) -> Result<Vec<String>> {
    let prefix = prefix(options);
    let wanted = wanted_metrics(options)?.into_iter();
    Ok(wanted.map(|name| format!("{prefix}{name}")).collect())
}

fn wanted_metrics(options: &EvaluationCallback) -> Result<Vec<String>> {
    let value = match options.extra.get("metrics") {
        None | Some(Value::Null) => return Ok(DEFAULT.map(str::to_owned).to_vec()),
        Some(value) => value,
    };
    let is_known = |name: &&str| WITHOUT_RANK.contains(name) || AtK::parse(name).is_some();
    let named = value.as_array().and_then(|list| {
        let named = list.iter().map(|name| name.as_str().filter(is_known));
        named.map(|name| name.map(str::to_owned)).collect()
    });
    named.ok_or_else(|| {
        let known: Vec<String> = AtK::known().collect();
        let reason = format!(
            "{value}: give a list of metrics from map, pearson, spearman, {}, where `k` is a number \
             such as 10",
            known.join(", ")
        );
        bad("metrics", reason)
    })
}

fn prefix(options: &EvaluationCallback) -> String {
    let caption = options.caption.iter().map(|caption| format!("{caption}_"));
    caption.collect()
}

/// Checks the data of an evaluation.
pub(crate) fn check_pairs(
    options: &EvaluationCallback,
    documents: &dyn Fn(&str) -> Result<Documents>,
) -> Result<()> {
    read(options, documents, &Images::Checked).map(drop)
}

fn read(
    options: &EvaluationCallback,
    documents: &dyn Fn(&str) -> Result<Documents>,
    images: &Images,
) -> Result<Vec<Example>> {
    let (name, _) = evaluation_data_names(options);
    let layout = Layout::Scored(ModelKind::Text);
    let pairs = data::read(documents(name.name)?, &layout, name, images)?;
    match pairs.is_empty() {
        true => Err(Error::data(format!(
            "{name} contains no pairs to evaluate on"
        ))),
        false => Ok(pairs),
    }
}

impl Reranking {
    /// Checks the options; `all` are the callbacks of the run.
    pub(crate) fn new(options: &EvaluationCallback, all: &[Callback]) -> Result<Self> {
        if options.query_data.is_empty() {
            return Err(bad("query_data", "empty: name the pairs to evaluate on"));
        }
        if let Some(index) = &options.index_data {
            let reason = format!(
                "`{index}`: a cross-encoder does not search an index. Give pairs with scores as \
                 `query_data`, each query with its texts"
            );
            return Err(bad("index_data", reason));
        }
        if options.gather_examples {
            let reason = "true: a cross-encoder has no search results to show; remove it";
            return Err(bad("gather_examples", reason));
        }
        if let Some(size) = options.query_sample_size {
            let reason = format!("{size}: a cross-encoder scores all pairs; remove it");
            return Err(bad("query_sample_size", reason));
        }
        let positive = [
            ("batch_size", options.batch_size),
            (
                "steps_per_interval",
                options.steps_per_interval.unwrap_or(1),
            ),
        ];
        if let Some((field, _)) = positive.iter().find(|(_, value)| *value == 0) {
            return Err(bad(field, "0: at least 1 is needed"));
        }
        Ok(Self {
            wanted: wanted_metrics(options)?,
            prefix: prefix(options),
            watched: is_watched(all),
            options: options.clone(),
            pairs: None,
        })
    }

    fn evaluate(&mut self, context: &mut Context<'_>) -> Result<Metrics> {
        let pairs = match self.pairs.take() {
            Some(pairs) => pairs,
            None => read(&self.options, context.data, context.images)?,
        };
        let pairs = self.pairs.insert(pairs);
        let found = measure(
            context.trainer,
            pairs,
            self.options.batch_size as usize,
            &self.wanted,
        )?;
        let named = found.into_iter();
        Ok(named
            .map(|(name, value)| (format!("{}{name}", self.prefix), value))
            .collect())
    }

    fn evaluate_stage(&mut self, context: &mut Context<'_>, stage: Stage) -> Result<()> {
        let metrics = self.evaluate(context)?;
        report(context, stage, &metrics);
        if stage == Stage::After
            && let Some(warning) = verdict::decline_warning(&context.before, &metrics)
        {
            context.log(Level::Warning, warning);
        }
        Ok(())
    }
}

impl TrainingCallback for Reranking {
    fn on_fit_begin(&mut self, context: &mut Context<'_>) -> Result<()> {
        self.evaluate_stage(context, Stage::Before)
    }

    fn wants_interval(&self, step: &Step) -> bool {
        is_interval(self.options.steps_per_interval, step)
    }

    fn on_interval(&mut self, context: &mut Context<'_>) -> Result<()> {
        let metrics = self.evaluate(context)?;
        report_interval(context, metrics);
        Ok(())
    }

    fn on_epoch_end(&mut self, context: &mut Context<'_>) -> Result<()> {
        if self.watched {
            let metrics = self.evaluate(context)?;
            report_epoch(context, metrics);
        }
        Ok(())
    }

    fn after_fit(&mut self, context: &mut Context<'_>) -> Result<()> {
        self.evaluate_stage(context, Stage::After)
    }
}

/// Scores the pairs and compares the scores with the given ones.
fn measure(
    trainer: &Trainer,
    pairs: &[Example],
    batch: usize,
    wanted: &[String],
) -> Result<Metrics> {
    let texts = pairs.iter().map(|pair| match &pair.parts[..] {
        [Item::Text(query), Item::Text(text)] => Ok([&**query, &**text]),
        _ => Err(Error::data(format!(
            "document `{}`: it does not hold two texts",
            pair.id
        ))),
    });
    let texts: Vec<[&str; 2]> = texts.collect::<Result<_>>()?;
    let model = &trainer.model;
    let activation = model.setup().activation.unwrap_or(Activation::Identity);
    let scores = score(model, &trainer.preparer, &texts, batch, activation);
    let scores = scores.map_err(|e| match e {
        Error::Item { place, reason } => {
            Error::data(format!("document `{}`: {reason}", pairs[place].id))
        }
        other => other,
    })?;
    Ok(metrics(&texts, &scores, pairs, wanted))
}

/// Returns the target score of a pair.
fn given_score(pair: &Example) -> f32 {
    pair.scores.first().copied().unwrap_or_default()
}

fn metrics(texts: &[[&str; 2]], scores: &[f32], pairs: &[Example], wanted: &[String]) -> Metrics {
    let mut queries: HashMap<&str, Vec<usize>> = HashMap::new();
    for (place, [query, _]) in texts.iter().enumerate() {
        queries.entry(query).or_default().push(place);
    }
    // Sort, so that sums do not depend on the order of the hash map.
    let mut ranked: Vec<Vec<usize>> = queries.into_values().collect();
    ranked.sort();
    let relevance: Vec<Relevance> = ranked
        .into_iter()
        .map(|mut places| {
            places.sort_by(|a, b| largest_first(scores[*a], scores[*b]));
            let found: Vec<bool> = places
                .iter()
                .map(|place| given_score(&pairs[*place]) > RELEVANT)
                .collect();
            Relevance {
                max_relevant: found.iter().filter(|relevant| **relevant).count(),
                found,
            }
        })
        .collect();
    let found: Vec<f64> = scores.iter().copied().map(f64::from).collect();
    let given: Vec<f64> = pairs
        .iter()
        .map(|pair| f64::from(given_score(pair)))
        .collect();
    let value = |name: &str| match name {
        "pearson" => Some(pearson(&found, &given)),
        "spearman" => Some(spearman(&found, &given)),
        "map" => AtK::parse(&format!("map@{}", usize::MAX)).map(|map| map.mean(&relevance)),
        name => AtK::parse(name).map(|metric| metric.mean(&relevance)),
    };
    let measured = wanted.iter();
    measured
        .filter_map(|name| Some((name.clone(), value(name)?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_score_that_is_not_a_number_ranks_last() {
        let pair = |score: f32| Example {
            id: String::new(),
            parts: Vec::new(),
            label: String::new(),
            scores: vec![score],
        };
        let pairs = [pair(0.0), pair(1.0)];
        let texts = [["query", "irrelevant"], ["query", "relevant"]];
        for score in [f32::NAN, -f32::NAN] {
            let found = metrics(&texts, &[score, 0.5], &pairs, &["mrr@10".to_owned()]);
            assert_eq!(found["mrr@10"], 1.0);
        }
    }
}
