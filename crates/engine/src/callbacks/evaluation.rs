//! `EvaluationCallback`: retrieval metrics before and after the training.

use std::collections::BTreeMap;

use finetuner_protocol::{
    Callback, DocumentArray, Event, FoundDocuments, Stage, callback::EvaluationCallback,
};
use serde_json::Value;

use super::{Context, TrainingCallback, report};
use crate::{
    Error, Result,
    data::{Modalities, search_set},
    evaluation::{Distance, Metrics, Relevance, rank},
    infer::{encode_images, encode_texts},
    train::Trainer,
};

pub(crate) struct Evaluation {
    options: EvaluationCallback,
    distance: Distance,
    /// Whether another callback watches one of the metrics, so that they are
    /// wanted after every epoch.
    watched: bool,
    data: Option<(DocumentArray, Option<DocumentArray>)>,
}

impl Evaluation {
    /// Checks the options; `all` are the callbacks of the run.
    pub(crate) fn new(options: &EvaluationCallback, all: &[Callback]) -> Result<Self> {
        let bad = |field: &str, reason: String| {
            Err(Error::config(
                format!("callbacks.EvaluationCallback.{field}"),
                reason,
            ))
        };
        if options.query_data.is_empty() {
            return bad("query_data", "empty: name the query data".to_owned());
        }
        if options.limit == 0 {
            return bad(
                "limit",
                "0: a query must find at least 1 document".to_owned(),
            );
        }
        if options.batch_size == 0 {
            return bad("batch_size", "0: at least 1 is needed".to_owned());
        }
        if options.steps_per_interval.is_some() {
            return bad(
                "steps_per_interval",
                "this version evaluates before and after the training; leave it out".to_owned(),
            );
        }
        for (field, model, wanted) in [
            ("model", &options.model, "clip-text"),
            ("index_model", &options.index_model, "clip-vision"),
        ] {
            if model.as_deref().is_some_and(|model| model != wanted) {
                let reason =
                    format!("this version searches pictures by text: `{wanted}` or nothing");
                return bad(field, reason);
            }
        }
        let watched = all.iter().any(|callback| match callback {
            Callback::BestModelCheckpoint(best) => !best.monitor.ends_with("_loss"),
            _ => false,
        });
        Ok(Self {
            distance: Distance::parse(&options.distance)?,
            options: options.clone(),
            watched,
            data: None,
        })
    }

    /// Measures, and reports with it what belongs to a stage of the run.
    fn evaluate_stage(&mut self, context: &mut Context<'_>, stage: Stage) -> Result<()> {
        let Measured {
            metrics,
            examples,
            places,
        } = self.evaluate(context)?;
        report(context, stage, &metrics);
        if self.options.gather_examples {
            let searched = self.options.index_data.as_ref();
            let found = Some(FoundDocuments {
                data: searched.unwrap_or(&self.options.query_data).clone(),
                places,
            });
            context.observer.event(Event::Examples {
                stage,
                examples,
                found,
            });
        }
        Ok(())
    }

    fn evaluate(&mut self, context: &mut Context<'_>) -> Result<Measured> {
        if self.data.is_none() {
            let queries = (context.data)(&self.options.query_data)?;
            let index = self.options.index_data.as_deref();
            let index = index.map(|name| (context.data)(name)).transpose()?;
            self.data = Some((queries, index));
        }
        let Some((queries, index)) = &self.data else {
            return Ok(Measured::default());
        };
        let mut measured = measure(
            context.trainer,
            &self.options,
            self.distance,
            queries,
            index.as_ref(),
            context.modalities,
        )?;
        if let Some(caption) = &self.options.caption {
            let metrics = std::mem::take(&mut measured.metrics).into_iter();
            let captioned = metrics.map(|(name, value)| (format!("{caption}_{name}"), value));
            measured.metrics = captioned.collect();
        }
        Ok(measured)
    }
}

impl TrainingCallback for Evaluation {
    fn on_fit_begin(&mut self, context: &mut Context<'_>) -> Result<()> {
        self.evaluate_stage(context, Stage::Before)
    }

    fn on_epoch_end(&mut self, context: &mut Context<'_>) -> Result<()> {
        if self.watched {
            let measured = self.evaluate(context)?;
            context.metrics.extend(measured.metrics);
        }
        Ok(())
    }

    fn after_fit(&mut self, context: &mut Context<'_>) -> Result<()> {
        self.evaluate_stage(context, Stage::After)
    }
}

/// What an evaluation found.
#[derive(Default)]
struct Measured {
    metrics: Metrics,
    /// What the first queries found, where examples are wanted.
    examples: BTreeMap<String, Vec<Value>>,
    /// Where it lies.
    places: BTreeMap<String, Vec<u64>>,
}

/// Embeds queries and index, searches, and compares what is found with the
/// labels.
fn measure(
    trainer: &Trainer,
    options: &EvaluationCallback,
    distance: Distance,
    queries: &DocumentArray,
    index: Option<&DocumentArray>,
    modalities: &Modalities,
) -> Result<Measured> {
    let set = search_set(queries, index, modalities, &options.query_data)?;
    let texts: Vec<&str> = set.queries.iter().map(|q| q.text).collect();
    let images: Vec<&[u8]> = set.index.iter().map(|d| d.image).collect();
    let (model, batch) = (&trainer.model, options.batch_size);
    let asked = encode_texts(model, &trainer.tokenizer, &texts, batch)?;
    let found = encode_images(model, &trainer.processor, &images, batch)?;
    // One more than wanted, since the query itself may have to go.
    let rankings = rank(
        &asked.values,
        &found.values,
        asked.dim,
        options.limit.saturating_add(1),
        distance,
    );
    let (mut examples, mut places) = (BTreeMap::new(), BTreeMap::new());
    let relevance: Vec<Relevance> = rankings
        .iter()
        .zip(&set.queries)
        .map(|(ranking, query)| {
            let itself = |index: usize| options.exclude_self && set.index[index].id == query.id;
            let found = || {
                let others = ranking.iter().filter(|m| !itself(m.index));
                others.take(options.limit).map(|m| &set.index[m.index])
            };
            if options.gather_examples && examples.len() < options.num_example_queries {
                let shown = found().map(|document| match document.uri {
                    "" => document.label.as_str().into(),
                    uri => uri.into(),
                });
                examples.insert(query.text.to_owned(), shown.collect());
                let lie = found().map(|document| document.place as u64);
                places.insert(query.text.to_owned(), lie.collect());
            }
            Relevance {
                found: found()
                    .map(|document| document.label == query.label)
                    .collect(),
                max_relevant: (0..set.index.len())
                    .filter(|i| !itself(*i) && set.index[*i].label == query.label)
                    .count(),
            }
        })
        .collect();
    Ok(Measured {
        metrics: Relevance::mean_metrics(&relevance),
        examples,
        places,
    })
}
