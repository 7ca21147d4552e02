//! Reads the examples of a run and checks that a model can learn from them.
//!
//! The server runs the same checks when a run is submitted as the worker does when it
//! starts.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    ops::RangeInclusive,
};

use finetuner_protocol::{Loss, Sampler, text::start_of};

use super::{
    labels::warn_of_variants,
    negatives,
    prepared::{Data, TWICE},
};
use crate::{
    Error, Result,
    callbacks::{check_evaluation, check_pairs, measured_names},
    data::{self, Classes, DataName, Documents, Example, Images, Item, Layout, Part},
    loss::LossKind,
    models::ModelKind,
    plan::Plan,
    train::Sampling,
};

impl Data {
    pub(super) fn describe(&self, layout: &Layout) -> String {
        let what = match layout {
            _ if self.train.examples.iter().all(Example::is_twice) => "texts".to_owned(),
            Layout::TextImage(_) | Layout::Pairs(_) | Layout::Ranking(_) | Layout::Scored(_) => {
                "pairs".to_owned()
            }
            Layout::Items(_) => "examples".to_owned(),
            Layout::Negatives(_) | Layout::Margins(_) => {
                let members = self.train.examples.first().map_or(0, |e| e.parts.len());
                match members {
                    0..=3 => "triplets".to_owned(),
                    n => format!("pairs with {} negatives each", n - 2),
                }
            }
            Layout::Labelled(_) => format!("examples of {} classes", self.classes),
        };
        let train = self.train.len();
        let of = match self.train.parts.len() {
            0 | 1 => String::new(),
            n => format!(" of {n} data sets"),
        };
        match self.validation.len() {
            0 => format!("{train} {what}{of} to train on"),
            n => format!("{train} {what}{of} to train on, {n} to validate with"),
        }
    }
}

/// Checks that a run can train and evaluate on its data, and keeps none of it.
///
/// # Errors
/// [`Error::Data`] names the documents at fault. [`Error::Config`] names a setting that
/// does not fit the data.
pub fn check_data(plan: &Plan, documents: &dyn Fn(&str) -> Result<Documents>) -> Result<()> {
    let data = read_data(plan, documents, &Images::Checked)?;
    if plan.mining.is_some() {
        negatives::pairs_of(&data.train.examples)?;
        negatives::pairs_of(&data.validation.examples)?;
    }
    // Mining changes the number of examples.
    if let Some(batch_size) = plan.batch_size.filter(|_| plan.mining.is_none()) {
        // The number of steps per epoch is known here, so the schedule can be checked.
        let (sampling, _) = choose_sampling(plan, batch_size, &data);
        let batches = sampling.batches(&data.train, batch_size, plan.seed, 0);
        let steps = batches.len().div_ceil(plan.accumulation_steps);
        plan.schedule
            .build(plan.epochs, steps, plan.learning_rate)?;
    }
    drop(data);
    if let Some(name) = plan.corpus() {
        negatives::corpus(plan, name, documents, &Images::Checked)?;
    }
    let mut measured = Vec::new();
    for evaluation in plan.evaluations() {
        if plan.kind == ModelKind::TextPairs {
            check_pairs(evaluation, documents)?;
            measured.extend(measured_names(evaluation, plan.kind)?);
            continue;
        }
        let names = check_evaluation(evaluation, plan.kind, &plan.modalities, documents)?;
        measured.extend(names);
    }
    // The names of an evaluation's metrics may depend on its data.
    for (callback, monitor) in plan.watched_metrics() {
        if !measured.iter().any(|name| name == monitor) {
            return Err(Error::config(
                format!("callbacks.{callback}.monitor"),
                format!(
                    "`{monitor}`: it is not measured; the run measures {}",
                    measured.join(", ")
                ),
            ));
        }
    }
    Ok(())
}

/// Chooses how batches are sampled. Returns notes on settings that it changed.
pub(super) fn choose_sampling(
    plan: &Plan,
    batch_size: usize,
    data: &Data,
) -> (Sampling, Vec<String>) {
    if !matches!(plan.layout, Layout::Labelled(_)) {
        let has_negatives = matches!(plan.loss.kind(), LossKind::Clip | LossKind::Ranking);
        let sampling = match has_negatives && plan.sampler != Sampler::Random {
            true => Sampling::NoDuplicates,
            false => Sampling::Random,
        };
        return (sampling, Vec::new());
    }
    Sampling::choose(
        &plan.sampler,
        !plan.loss.has_classes(),
        batch_size,
        plan.items_per_class,
        &data.train.classes,
    )
}

pub(super) fn read_data(
    plan: &Plan,
    documents: &dyn Fn(&str) -> Result<Documents>,
    images: &Images,
) -> Result<Data> {
    let read = |name: DataName<'_>| -> Result<Vec<Example>> {
        let examples = data::read(documents(name.name)?, &plan.layout, name, images)?;
        match plan.loss.base() {
            Loss::CosineSimilarity => check_scores(
                &examples,
                name,
                -1.0..=1.0,
                "`CosineSimilarityLoss` compares the score with a cosine; divide all scores by the largest \
                 possible score",
            )?,
            Loss::BinaryCrossEntropy => check_scores(
                &examples,
                name,
                0.0..=1.0,
                "`BinaryCrossEntropyLoss` reads the score as a probability: 1 if the texts belong \
                 together, 0 if they don't. `MSELoss` accepts any score",
            )?,
            _ => {}
        }
        Ok(examples)
    };
    let eval_name = plan.eval_data.as_deref().map(|name| DataName {
        field: "eval_data",
        name,
    });
    let (mut train, mut validation) = (Vec::new(), Vec::new());
    let (mut parts, mut held_out) = (Vec::new(), Vec::new());
    let names = train_names(plan);
    let train_name = names[0].0;
    for (name, weight) in &names {
        let examples = read(*name)?;
        let (own, split_off) = match eval_name {
            Some(_) => (examples, Vec::new()),
            None => split(plan, *name, examples)?,
        };
        check_examples(plan, *name, &own)?;
        let part = |len: usize, weight: f64| Part {
            name: name.name.to_owned(),
            len,
            weight,
        };
        parts.push(part(own.len(), *weight));
        held_out.push(part(split_off.len(), 1.0));
        train.extend(own);
        validation.extend(split_off);
    }
    if let Some(name) = eval_name {
        validation = read(name)?;
        held_out.clear();
    }
    if names.len() == 1 {
        parts.clear();
        held_out.clear();
    }
    let mut warnings = Vec::new();
    let is_twice = train.iter().any(Example::is_twice);
    if is_twice && plan.dropout == Some(false) {
        let reason = format!("`dropout` is false: {TWICE}. Remove the option, or give pairs");
        return Err(Error::config("model_options", reason));
    }
    if is_twice && plan.freeze {
        let reason = format!("true: {TWICE}, and a frozen network applies no dropout. Give pairs");
        return Err(Error::config("freeze", reason));
    }
    let mut numbers = Classes::default();
    let mut train = numbers.number(train);
    (train.parts, train.mixing) = (parts, plan.mixing);
    let classes = numbers.len();
    if matches!(plan.layout, Layout::Labelled(_)) {
        if !plan.loss.has_classes()
            && let Some(reason) = compares_nothing(&validation)
        {
            let (field, source) = match eval_name {
                Some(name) => ("eval_data", name),
                None => ("val_split", train_name),
            };
            let reason = format!(
                "of the {} validation examples of {source} {reason}: the validation loss \
                 would always be 0",
                validation.len()
            );
            if plan.eval_data.is_some() {
                let remedy = "give data in which some examples share a label and others don't, or \
                              remove it";
                return Err(Error::config(field, format!("{reason}; {remedy}")));
            }
            warnings.push(format!(
                "`{field}`: {reason}; raise it, or give `eval_data`"
            ));
        }
        warnings.extend(contradictions(&train.examples));
        let labels = train.examples.iter().chain(&validation);
        warnings.extend(warn_of_variants(
            labels.map(|example| example.label.as_str()),
        ));
    }
    if plan.loss.is_limited_to_trained_classes() {
        let all = validation.len();
        let mut start = 0;
        for part in &mut held_out {
            let own = &validation[start..start + part.len];
            start += part.len;
            part.len = own.iter().filter(|e| numbers.knows(&e.label)).count();
        }
        validation.retain(|example| numbers.knows(&example.label));
        let unknown = all - validation.len();
        let source = eval_name.unwrap_or(train_name);
        let reason = format!(
            "{unknown} of the {all} validation examples of {source} have labels that no \
             training example has; `{}` has weights for the classes of the training data only",
            plan.loss.loss
        );
        if all > 0 && validation.is_empty() {
            return Err(Error::config(
                "eval_data",
                format!("{reason}. Give data with the same labels, or remove it"),
            ));
        }
        if unknown > 0 {
            warnings.push(format!("{reason}: they are left out"));
        }
    }
    if plan.loss.kind() == LossKind::Clip {
        warnings.extend(shared_captions(&train.examples));
    }
    let mut validation = numbers.number(validation);
    validation.parts = held_out;
    Ok(Data {
        train,
        validation,
        classes,
        is_twice,
        warnings,
    })
}

/// Returns the training data sets, each with its weight.
///
/// The weight is the number of passes over the data set per epoch.
fn train_names(plan: &Plan) -> Vec<(DataName<'_>, f64)> {
    let first = DataName {
        field: "train_data",
        name: &plan.train_data,
    };
    let more = plan.more_train_data.iter().map(|data| {
        let field = "more_train_data";
        let name = &data.name;
        (DataName { field, name }, data.weight)
    });
    std::iter::once((first, plan.train_data_weight))
        .chain(more)
        .collect()
}

/// Rejects a data set that a model can't learn from.
///
/// Each batch comes from one data set, so each must be sufficient on its own.
fn check_examples(plan: &Plan, name: DataName<'_>, examples: &[Example]) -> Result<()> {
    let bad = |what: &str| Err(Error::data(format!("{name}: {what}")));
    if examples.len() < 2 {
        return Err(Error::data(format!(
            "{name} holds {} example to train on; at least 2 are needed",
            examples.len()
        )));
    }
    if !matches!(plan.layout, Layout::Labelled(_)) {
        return Ok(());
    }
    let labels: BTreeSet<&str> = examples.iter().map(|e| e.label.as_str()).collect();
    if labels.len() < 2 {
        return bad("all examples have the same label; at least 2 labels are needed");
    }
    if !plan.loss.has_classes() && labels.len() == examples.len() {
        return bad("no two examples share a label; the loss needs examples that share one");
    }
    Ok(())
}

/// Returns a warning if some texts have several labels.
fn contradictions(examples: &[Example]) -> Option<String> {
    // Keep one label per text: a set for each text would take more memory than the
    // data.
    let mut labels: HashMap<&str, &str> = HashMap::new();
    let mut several: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for example in examples {
        if let [Item::Text(text)] = &*example.parts {
            let known = *labels.entry(text).or_insert(&example.label);
            if known != example.label {
                several
                    .entry(text)
                    .or_default()
                    .extend([known, &example.label]);
            }
        }
    }
    let (text, first) = several.iter().next()?;
    let shown: Vec<String> = first
        .iter()
        .take(3)
        .map(|label| format!("`{}`", start_of(label)))
        .collect();
    Some(format!(
        "{} of {} texts have several labels, such as `{}` ({}): these labels contradict each other. Give \
         each text one label",
        several.len(),
        labels.len(),
        start_of(text),
        shown.join(", ")
    ))
}

/// Returns why a loss finds nothing to compare in the examples, if so.
///
/// Such a loss compares examples within a class and across classes.
fn compares_nothing(examples: &[Example]) -> Option<&'static str> {
    let labels: BTreeSet<&str> = examples.iter().map(|e| e.label.as_str()).collect();
    match labels.len() {
        0 => None,
        1 => Some("all have the same label"),
        n if n == examples.len() => Some("no two share a label"),
        _ => None,
    }
}

/// Rejects scores outside of a range.
fn check_scores(
    examples: &[Example],
    name: DataName<'_>,
    range: RangeInclusive<f32>,
    reason: &str,
) -> Result<()> {
    let score = |example: &Example| example.scores.first().copied().unwrap_or_default();
    let beyond = |example: &&Example| !range.contains(&score(example));
    let Some(first) = examples.iter().find(beyond) else {
        return Ok(());
    };
    Err(Error::data(format!(
        "{} of {} documents of {name} have a `finetuner_score` outside of {} to {}, such as {} of \
         document `{}`: {reason}",
        examples.iter().filter(beyond).count(),
        examples.len(),
        range.start(),
        range.end(),
        score(first),
        first.id,
    )))
}

/// Splits off the share `val_split` for validation. Neither part may be empty.
fn split(
    plan: &Plan,
    name: DataName<'_>,
    examples: Vec<Example>,
) -> Result<(Vec<Example>, Vec<Example>)> {
    let (all, part) = (examples.len(), plan.val_split);
    let (train, validation) = data::split(examples, part, plan.seed);
    let bad = |what: &str, remedy: &str| {
        let reason = format!(
            "{part:?}: this splits the {all} examples of {name} into {} for training and {} for \
             validation, and {what} needed; {remedy}",
            train.len(),
            validation.len()
        );
        Err(Error::config("val_split", reason))
    };
    if part > 0.0 && train.len() < 2 {
        return bad(
            "at least 2 for training are",
            "lower it, or give `eval_data`",
        );
    }
    if part > 0.0 && validation.is_empty() {
        return bad(
            "at least 1 for validation is",
            "raise it, or give `eval_data`",
        );
    }
    Ok((train, validation))
}

/// Returns a warning if images share a caption.
///
/// The loss treats all other pairs of a batch as negatives, including pairs with the
/// same caption.
fn shared_captions(examples: &[Example]) -> Option<String> {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for example in examples {
        if let Some(Item::Text(text)) = example.parts.first() {
            *counts.entry(text).or_default() += 1;
        }
    }
    let shared: usize = counts.values().filter(|count| **count > 1).sum();
    let (caption, most) = counts.iter().max_by_key(|(_, count)| **count)?;
    (shared > 0).then(|| {
        format!(
            "{shared} of {} pairs share their caption with another ({most} have `{}`): in a batch \
             the loss pushes them apart. Distinct captions train better",
            examples.len(),
            start_of(caption)
        )
    })
}
