//! Choice of a batch size that fits into memory.

use std::{cmp::Reverse, ops::Range};

use super::{
    batches::{Batches, Guide},
    step::{self, BatchSettings},
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

/// The batch size to use if it fits.
const PREFERRED: usize = 32;
/// Numbers of examples of two trial steps. Their difference gives the memory
/// per example, the rest is the memory per step.
const TRIAL_SIZES: [usize; 2] = [2, 8];
/// Share of the free memory that a step may use.
const MEMORY_SHARE: f64 = 0.6;

/// Memory use of a step, in bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
struct MemoryUse {
    /// Independent of the number of examples.
    fixed: f64,
    each: f64,
}

impl MemoryUse {
    /// Estimates memory use from trial steps: numbers of examples, and bytes.
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

    /// Returns the preferred batch size, or the largest smaller power of two
    /// whose step needs at most `left` bytes.
    fn fitting(self, left: f64) -> usize {
        let mut size = PREFERRED;
        while size > TRIAL_SIZES[0] && self.step(size) > left {
            size /= 2;
        }
        size
    }
}

/// Chooses a batch size if the user gave none: 32, or the largest smaller power
/// of two whose step fits into the free memory. To measure it, runs whole
/// training steps on the longest examples and then restores the model. Also
/// returns a note on the choice and its reason.
///
/// `moments` is the number of values that the optimizer stores per weight, and
/// `limit` the process's memory limit in bytes.
///
/// # Errors
/// If the examples can't be read.
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
            "`batch_size` not given: using {size} examples, {why}. If the loss compares the examples of \
             a batch, results depend on it: set it to reproduce them on other machines"
        );
        (size, note)
    };
    let memory = StepMemory::of(model.params().device(), limit);
    let (Some(free), Some(before)) = (memory.free(), memory.held()) else {
        return Ok(chosen(PREFERRED, "since the free memory is unknown"));
    };
    let weights = (model.params().trained_count() + criterion.params().trained_count()) as f64;
    let left = free as f64 * MEMORY_SHARE - (4 * moments) as f64 * weights;
    let longest = longest(set);
    let moved = running(model.params())?;
    let mut tried: Vec<(usize, u64)> = Vec::new();
    for count in TRIAL_SIZES.map(|count| count.min(longest.len())) {
        let known = MemoryUse::of(&tried);
        let is_new = tried.last().is_none_or(|(before, _)| count > *before);
        // Skip a step that may not fit.
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
        let settings = BatchSettings {
            number: 0,
            share: 1.0,
            dropout: None,
            adapters: None,
        };
        let guide_model = guide.map(|guide| &guide.model);
        let (peak, trained) = memory.peak_of(|| {
            step::train(model, guide_model, &mut criterion, &batch, settings).map(drop)
        });
        // A loss may find nothing to compare among these examples. The memory
        // of the embeddings has been measured nevertheless.
        if let Err(error) = trained {
            tracing::debug!("trying a step of {count} examples: {error}");
        }
        tried.push((count, peak.unwrap_or(before).saturating_sub(before)));
    }
    model.params().zero_grad();
    for (param, values) in moved {
        param.update(|own| own.copy_from_slice(&values))?;
    }
    let memory_use = MemoryUse::of(&tried);
    let size = memory_use.fitting(left);
    let megabytes = |bytes: f64| (bytes / 1e6).round();
    let why = format!(
        "which need about {} of {} MB of {}, measured in steps of the longest examples",
        megabytes(memory_use.step(size)),
        megabytes(free as f64),
        memory.name()
    );
    Ok(chosen(size, &why))
}

/// Returns the indices of the longest examples for the trial steps, longest
/// first. Since a batch comes from one data set, they are from the set whose
/// longest examples are largest.
fn longest(set: &TrainingSet) -> Vec<usize> {
    let held = |indices: &Vec<usize>| -> (usize, usize) {
        let examples = indices.iter().map(|index| &set.examples[*index]);
        let texts = examples.clone().map(|example| length(example).1).sum();
        (texts, examples.map(|example| example.parts.len()).sum())
    };
    let of_sets = set.ranges().into_iter().map(|range| longest_of(set, range));
    of_sets.max_by_key(held).unwrap_or_default()
}

/// Returns the indices of the longest examples of one data set.
fn longest_of(set: &TrainingSet, range: Range<usize>) -> Vec<usize> {
    let most = TRIAL_SIZES[1].min(range.len());
    let mut indices: Vec<usize> = range.collect();
    let by_length = |index: &usize| (Reverse(length(&set.examples[*index])), *index);
    if most < indices.len() {
        indices.select_nth_unstable_by_key(most, by_length);
        indices.truncate(most);
    }
    indices.sort_by_key(by_length);
    indices
}

/// Returns the length of an example's longest text, which determines its number
/// of tokens, and the total length of its texts. Prepared images and features
/// all have one size.
fn length(example: &Example) -> (usize, usize) {
    let lengths = example.parts.iter().map(|part| match part {
        Item::Text(text) => text.len(),
        _ => 0,
    });
    (lengths.clone().max().unwrap_or(0), lengths.sum())
}

/// Returns the running statistics of normalisations, which every training pass
/// changes.
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
    fn trial_examples_are_from_one_data_set() {
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
        // The first set has the longest text, the second more texts.
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
    fn memory_use_follows_from_two_steps() {
        let memory_use = MemoryUse::of(&[(2, 120), (8, 180)]);
        assert_eq!((memory_use.fixed, memory_use.each), (100.0, 10.0));
        assert_eq!(memory_use.step(32), 420.0);
        assert_eq!(memory_use.fitting(420.0), 32);
        assert_eq!(memory_use.fitting(419.0), 16);
        // The smallest batch is a pair.
        assert_eq!(memory_use.fitting(0.0), 2);
        // Without a second step, all memory counts as per example.
        assert_eq!(MemoryUse::of(&[(2, 120)]).step(4), 240.0);
        assert_eq!(MemoryUse::of(&[]).step(4), 0.0);
        // Memory that was used before is not freed by more examples.
        assert_eq!(MemoryUse::of(&[(2, 120), (8, 110)]).step(32), 120.0);
    }
}
