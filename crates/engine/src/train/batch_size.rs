//! Choosing a batch size that fits into memory.

use std::{cmp::Reverse, ops::Range};

use super::{
    batches::{Batches, Guide},
    step::{self, Turn},
};
use crate::{
    Result,
    data::{Example, Item, TrainingSet},
    loss::Criterion,
    memory::StepMemory,
    models::Model,
    params::Params,
    prepare::Preparer,
};

/// The batch size that is taken where it fits.
const WANTED: usize = 32;
/// Examples of the two steps that are tried. The difference says what an example
/// needs, the rest what a step needs beside them.
const TRIED: [usize; 2] = [2, 8];
/// The part of the free memory that a step may take.
const SHARE: f64 = 0.6;

/// What a step of a number of examples needs, in bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Need {
    /// However many examples it has.
    fixed: f64,
    each: f64,
}

impl Need {
    /// By the bytes that steps of some numbers of examples took.
    fn of(tried: &[(usize, u64)]) -> Self {
        let &[(few, small), .., (many, large)] = tried else {
            let (count, bytes) = tried.first().copied().unwrap_or((1, 0));
            return Self {
                fixed: 0.0,
                each: bytes as f64 / count.max(1) as f64,
            };
        };
        let more = large.saturating_sub(small) as f64;
        let each = more / (many - few).max(1) as f64;
        Self {
            fixed: (small as f64 - each * few as f64).max(0.0),
            each,
        }
    }

    fn step(self, examples: usize) -> f64 {
        self.fixed + self.each * examples as f64
    }

    /// The batch size that is wanted, or the largest smaller power of two whose
    /// step needs no more than `left`.
    fn fitting(self, left: f64) -> usize {
        let mut size = WANTED;
        while size > TRIED[0] && self.step(size) > left {
            size /= 2;
        }
        size
    }
}

/// A batch size where none was given: 32, or the largest smaller power of two
/// whose step fits into the free memory. Whole steps of the longest examples are
/// tried for it, with the loss and the way back; the model stays as it was. Also
/// says in words what was chosen and why.
///
/// `moments` are the numbers that the optimizer keeps for each weight in training,
/// and `limit` the most bytes that the process may hold.
///
/// # Errors
/// Where the examples can't be read.
pub(crate) fn choose_batch_size(
    model: &Model,
    mut criterion: Criterion,
    preparer: &Preparer,
    guide: Option<&Guide>,
    set: &TrainingSet,
    moments: usize,
    limit: Option<u64>,
) -> Result<(usize, String)> {
    let chosen = |size: usize, why: &str| {
        let note = format!(
            "`batch_size` not given: {size} examples, {why}. A loss that compares the examples of \
             a batch depends on it: give it to have the same elsewhere"
        );
        (size, note)
    };
    let memory = StepMemory::of(model.params().device(), limit);
    let (Some(free), Some(before)) = (memory.free(), memory.held()) else {
        return Ok(chosen(
            WANTED,
            "since it is not known how much memory is free",
        ));
    };
    let weights = (model.params().trained_count() + criterion.params().trained_count()) as f64;
    let left = free as f64 * SHARE - (4 * moments) as f64 * weights;
    let longest = longest(set);
    let moved = running(model.params())?;
    let mut tried: Vec<(usize, u64)> = Vec::new();
    for count in TRIED.map(|count| count.min(longest.len())) {
        let known = Need::of(&tried);
        let is_new = tried.last().is_none_or(|(before, _)| count > *before);
        // A step that may not fit is not tried.
        if !is_new || !tried.is_empty() && known.step(count) > left {
            continue;
        }
        let batches = Batches {
            set,
            order: vec![longest[..count].to_vec()].into(),
            preparer,
            guide,
            device: model.params().device().clone(),
            draws: None,
        };
        let batch = batches.prepare(&longest[..count])?;
        let turn = Turn {
            number: 0,
            share: 1.0,
            dropout: None,
            adapters: None,
        };
        let asked = guide.map(|guide| &guide.model);
        let (peak, trained) =
            memory.peak_of(|| step::train(model, asked, &mut criterion, &batch, turn).map(drop));
        // A loss may find nothing to compare among these examples; what the
        // embeddings need was seen.
        if let Err(error) = trained {
            tracing::debug!("trying a step of {count} examples: {error}");
        }
        tried.push((count, peak.unwrap_or(before).saturating_sub(before)));
    }
    model.params().zero_grad();
    for (param, values) in moved {
        param.update(|own| own.copy_from_slice(&values))?;
    }
    let need = Need::of(&tried);
    let size = need.fitting(left);
    let megabytes = |bytes: f64| (bytes / 1e6).round();
    let why = format!(
        "which need about {} of {} MB of {}, as steps of the longest examples say",
        megabytes(need.step(size)),
        megabytes(free as f64),
        memory.name()
    );
    Ok(chosen(size, &why))
}

/// The places of the longest examples, as many as are tried, the longest first. A
/// batch is of one data set: of several, they are those of the one whose longest
/// examples hold most.
fn longest(set: &TrainingSet) -> Vec<usize> {
    let held = |places: &Vec<usize>| -> (usize, usize) {
        let examples = places.iter().map(|place| &set.examples[*place]);
        let texts = examples.clone().map(|example| length(example).1).sum();
        (texts, examples.map(|example| example.parts.len()).sum())
    };
    let of_sets = set.ranges().into_iter().map(|range| longest_of(set, range));
    of_sets.max_by_key(held).unwrap_or_default()
}

/// The same of one data set.
fn longest_of(set: &TrainingSet, range: Range<usize>) -> Vec<usize> {
    let most = TRIED[1].min(range.len());
    let mut places: Vec<usize> = range.collect();
    let by_length = |place: &usize| (Reverse(length(&set.examples[*place])), *place);
    if most < places.len() {
        places.select_nth_unstable_by_key(most, by_length);
        places.truncate(most);
    }
    places.sort_by_key(by_length);
    places
}

/// The length of an example's items: of its longest text, which decides how many
/// tokens it has, and of all of them. Pictures and features of a set have one size
/// once they are prepared.
fn length(example: &Example) -> (usize, usize) {
    let lengths = example.parts.iter().map(|part| match part {
        Item::Text(text) => text.len(),
        _ => 0,
    });
    (lengths.clone().max().unwrap_or(0), lengths.sum())
}

/// The running moments of normalisations, which every pass in training moves.
fn running(params: &Params) -> Result<Vec<(&crate::params::Param, Vec<f32>)>> {
    let running = params.changing().filter(|param| !param.is_trainable());
    running
        .map(|param| Ok((&**param, param.to_vec()?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Part;

    #[test]
    fn the_examples_that_are_tried_are_of_one_data_set() {
        let example = |(i, (parts, length)): (usize, (usize, usize))| Example {
            id: i.to_string(),
            parts: vec![Item::Text("x".repeat(length).into()); parts],
            label: String::new(),
            scores: Vec::new(),
        };
        let part = |name: &str, len| Part {
            name: name.to_owned(),
            len,
            weight: 1.0,
        };
        // The first has the longest text, the second more texts.
        let rows = [(2, 9), (2, 1), (4, 7), (4, 8), (4, 6)];
        let set = TrainingSet {
            examples: rows.into_iter().enumerate().map(example).collect(),
            classes: vec![0; rows.len()],
            parts: vec![part("pairs", 2), part("negatives", 3)],
            ..TrainingSet::default()
        };
        assert_eq!(longest(&set), [3, 2, 4]);
    }

    #[test]
    fn what_a_step_needs_follows_from_two_of_them() {
        let need = Need::of(&[(2, 120), (8, 180)]);
        assert_eq!((need.fixed, need.each), (100.0, 10.0));
        assert_eq!(need.step(32), 420.0);
        assert_eq!(need.fitting(420.0), 32);
        assert_eq!(need.fitting(419.0), 16);
        // No batch is smaller than a pair.
        assert_eq!(need.fitting(0.0), 2);
        // Where a second step was not tried, all counts as the examples' own.
        assert_eq!(Need::of(&[(2, 120)]).step(4), 240.0);
        assert_eq!(Need::of(&[]).step(4), 0.0);
        // Memory that was held before is not freed by more examples.
        assert_eq!(Need::of(&[(2, 120), (8, 110)]).step(32), 120.0);
    }
}
