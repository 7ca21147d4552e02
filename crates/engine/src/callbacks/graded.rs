//! Evaluation on scored pairs or on triplets.
//!
//! The layout of the data decides which metrics are measured.

use finetuner_protocol::{Document, SCORE_TAG, callback::EvaluationCallback};
use serde_json::Value;

use super::relevance::evaluation_data_names;
use crate::{
    Error, Result,
    data::{self, Documents, Example, Images, Item, Layout},
    evaluation::{GradedKind, GradedSet, Metrics, is_graded},
    infer::{ItemRef, embed},
    models::ModelKind,
    train::Trainer,
};

/// Graded evaluation data, and the kind of metrics that fits its layout.
pub(super) struct Graded {
    kind: GradedKind,
    examples: Vec<Example>,
}

fn bad(reason: impl Into<String>) -> Error {
    Error::config("callbacks.EvaluationCallback.metrics", reason)
}

/// Returns the metrics named in the options, if any.
pub(super) fn metric_names(options: &EvaluationCallback) -> Option<Vec<&str>> {
    let list = options.extra.get("metrics").and_then(Value::as_array)?;
    Some(list.iter().filter_map(Value::as_str).collect())
}

/// Returns whether the evaluation data may be graded.
///
/// That requires that neither an index nor retrieval metrics are given.
///
/// # Errors
/// [`Error::Config`] if metrics of both kinds are named, or if an index is given for
/// graded metrics.
pub(super) fn allows_graded_data(options: &EvaluationCallback, kind: ModelKind) -> Result<bool> {
    let named = metric_names(options).unwrap_or_default();
    let graded: Vec<&str> = named
        .iter()
        .copied()
        .filter(|name| is_graded(name))
        .collect();
    let Some(first) = graded.first() else {
        let one_kind = kind != ModelKind::TextImage;
        return Ok(named.is_empty() && options.index_data.is_none() && one_kind);
    };
    if kind == ModelKind::TextImage {
        let reason = format!("`{first}` is measured on items of one kind, not on texts and images");
        return Err(bad(reason));
    }
    if let Some(other) = named.iter().find(|name| !graded.contains(name)) {
        return Err(bad(format!(
            "`{first}` is measured on pairs or triplets and `{other}` by retrieval: give each an \
             `EvaluationCallback` of its own"
        )));
    }
    if options.index_data.is_some() {
        let reason = format!("`{first}` is measured on the query data only: remove `index_data`");
        return Err(bad(reason));
    }
    Ok(true)
}

/// Returns the layout of graded data that starts with this document.
///
/// Returns `None` if it is not graded.
fn layout(document: &Document, kind: ModelKind) -> Option<Layout> {
    let has_score = document
        .tags
        .get(SCORE_TAG)
        .is_some_and(|score| !score.is_null());
    match document.chunks.len() {
        2 if has_score => Some(Layout::Scored(kind)),
        0..=2 => None,
        _ => Some(Layout::Ranking(kind)),
    }
}

/// Graded evaluation data, or the unread documents if they are not graded.
pub(super) enum Read {
    Graded(Graded),
    Other(Documents),
}

/// Reads the evaluation data if the layout of its first document is graded.
///
/// # Errors
/// [`Error::Data`] lists documents with another layout. [`Error::Config`] names a
/// metric that does not fit the data.
pub(super) fn read(
    options: &EvaluationCallback,
    kind: ModelKind,
    mut documents: Documents,
    images: &Images,
) -> Result<Read> {
    let first = documents.next().transpose()?;
    let layout = first.as_ref().and_then(|document| layout(document, kind));
    let documents = Box::new(first.into_iter().map(Ok).chain(documents));
    let named = metric_names(options);
    let Some(layout) = layout else {
        let Some(name) = named.as_ref().and_then(|names| names.first()) else {
            return Ok(Read::Other(documents));
        };
        return Err(bad(format!(
            "`{name}` is measured on pairs with a `finetuner_score` or on triplets; the first \
             document of the query data is neither"
        )));
    };
    let (name, _) = evaluation_data_names(options);
    let examples = data::read(documents, &layout, name, images)?;
    let is_binary = examples
        .iter()
        .flat_map(|e| &e.scores)
        .all(|score| [0.0, 1.0].contains(score));
    let found = match layout {
        Layout::Scored(_) if is_binary => GradedKind::Binary,
        Layout::Scored(_) => GradedKind::Scored,
        _ => GradedKind::Triplets,
    };
    let known = found.names();
    let unknown = |name: &&&str| !known.iter().any(|known| known == **name);
    if let Some(name) = named.iter().flatten().find(unknown) {
        return Err(bad(format!(
            "`{name}` can't be measured on {}; the metrics for them are {}",
            found.describe(),
            known.join(", ")
        )));
    }
    Ok(Read::Graded(Graded {
        kind: found,
        examples,
    }))
}

impl Graded {
    /// Returns the names of the metrics to measure.
    pub(super) fn wanted(&self, options: &EvaluationCallback) -> Vec<String> {
        match metric_names(options) {
            Some(names) if !names.is_empty() => names.into_iter().map(str::to_owned).collect(),
            _ => self.kind.default_names(),
        }
    }

    /// Measures the metrics.
    ///
    /// Returns them with the embeddings of the positives and their dimension.
    pub(super) fn measure(
        &self,
        trainer: &Trainer,
        options: &EvaluationCallback,
    ) -> Result<(Metrics, Vec<f32>, usize)> {
        let count = self
            .examples
            .first()
            .map_or(0, |example| example.parts.len());
        let encode = |place: usize| -> Result<Vec<f32>> {
            let items = self.examples.iter().filter_map(|e| e.parts.get(place));
            let items: Vec<ItemRef<'_>> = items.map(|item: &Item| item.into()).collect();
            let (model, preparer) = (&trainer.model, &trainer.preparer);
            let preparer = preparer.of_member(place);
            let found = embed(model, &preparer, &items, options.batch_size as usize);
            let found = found.map_err(|e| match e {
                Error::Item { place, reason } => {
                    let id = &self.examples[place].id;
                    Error::Data(format!("document `{id}`: {reason}"))
                }
                other => other,
            });
            Ok(found?.values)
        };
        let mut parts: Vec<Vec<f32>> = (0..count).map(encode).collect::<Result<_>>()?;
        let negatives = parts.split_off(2.min(count));
        let scores = self.examples.iter().flat_map(|e| &e.scores);
        let scores = scores.map(|score| f64::from(*score));
        let scores: Vec<f64> = scores.collect();
        let dim = trainer.model.dim();
        let (Some(matches), Some(anchors)) = (parts.pop(), parts.pop()) else {
            return Ok((Metrics::new(), Vec::new(), dim));
        };
        let set = GradedSet {
            kind: self.kind,
            dim,
            anchors: &anchors,
            matches: &matches,
            negatives: &negatives,
            scores: &scores,
        };
        Ok((set.measure(&self.wanted(options)), matches, dim))
    }
}
