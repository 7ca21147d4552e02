//! Samplers: the choice of examples for each batch of an epoch.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet, VecDeque},
    ops::Range,
};

use finetuner_protocol::Sampler as SamplerName;
use rand_chacha::rand_core::Rng;

use super::mix;
use crate::{
    data::TrainingSet,
    draw::{generator, shuffled_order},
};

/// Postponed examples are tried again for later batches, at most this many
/// times the batch size per batch.
const TRIES: usize = 16;

/// The choice of examples for batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sampling {
    /// Random order.
    Random,
    /// Random order, but examples that share a label, a text or an image are in
    /// different batches, where they would count as each other's negatives.
    /// Examples for which that is impossible are in the last batches.
    NoDuplicates,
    /// The same number of examples of each class in a batch.
    Class {
        /// Number of examples per class in a batch.
        items_per_class: usize,
    },
}

impl Sampling {
    /// Chooses a sampler, and returns notes on settings that it changed.
    /// `needs_pairs` tells whether the loss compares the examples of a batch.
    #[must_use]
    pub fn choose(
        asked: &SamplerName,
        needs_pairs: bool,
        batch_size: usize,
        items_per_class: usize,
        classes: &[u32],
    ) -> (Self, Vec<String>) {
        let mut notes = Vec::new();
        let by_class = match asked {
            SamplerName::Class => true,
            SamplerName::Random if needs_pairs => {
                notes.push(
                    "`sampler` is `random`: a batch without two examples of one class teaches this \
                     loss nothing"
                        .to_owned(),
                );
                false
            }
            SamplerName::Random => false,
            _ => needs_pairs,
        };
        let mut distinct = classes.to_vec();
        distinct.sort_unstable();
        distinct.dedup();
        let batch_size = batch_size.min(classes.len().max(1));
        if !by_class || distinct.is_empty() {
            return (Self::Random, notes);
        }
        // A batch of one class has no negatives.
        let most = (batch_size / 2).max(2);
        let mut per_class = items_per_class.max(1);
        if per_class > most {
            notes.push(format!(
                "`num_items_per_class` is {most}, not {per_class}: a batch of {batch_size} must hold \
                 at least two classes"
            ));
            per_class = most;
        }
        let mut per_class = per_class.clamp(1, batch_size);
        if !batch_size.is_multiple_of(per_class) {
            let fits = (1..=per_class)
                .rev()
                .find(|n| batch_size.is_multiple_of(*n));
            let fits = fits.unwrap_or(1).max(2.min(batch_size));
            notes.push(format!(
                "`num_items_per_class` is {fits}, not {per_class}: a batch of {batch_size} \
                 can't be divided into classes of {per_class}"
            ));
            per_class = fits;
        }
        let needed = batch_size / per_class;
        if distinct.len() < needed {
            let more = batch_size.div_ceil(distinct.len());
            notes.push(format!(
                "`num_items_per_class` is {more}, not {per_class}: there are {} classes, and a \
                 batch of {batch_size} would need {needed}",
                distinct.len()
            ));
            per_class = more;
        }
        let class = Self::Class {
            items_per_class: per_class,
        };
        (class, notes)
    }

    /// Describes how batches are sampled, unless at random.
    pub(crate) fn describe(
        self,
        set: &TrainingSet,
        batch_size: usize,
        seed: u64,
    ) -> Option<String> {
        match self {
            Self::Random => None,
            Self::NoDuplicates => {
                let crowded_of = |range: Range<usize>| {
                    let order = shuffled_order(range.len(), seed, 0);
                    let order = order.into_iter().map(|index| index + range.start);
                    without_duplicates(order.collect(), set, batch_size).1
                };
                let crowded: usize = set.ranges().into_iter().map(crowded_of).sum();
                let mut text = format!(
                    "Batches of {batch_size} hold no two examples that share a text, an image or \
                     a label"
                );
                if crowded > 0 {
                    text += &format!(
                        ", except for {crowded} of {} examples at the end of an epoch: the data has too \
                         many duplicates",
                        set.len()
                    );
                }
                Some(text)
            }
            Self::Class { items_per_class } => Some(format!(
                "Batches of {batch_size} hold {items_per_class} examples of each class in them"
            )),
        }
    }

    /// Returns the batches of an epoch as lists of indices. They depend only on
    /// `seed` and `epoch`.
    #[must_use]
    pub fn batches(
        self,
        set: &TrainingSet,
        batch_size: usize,
        seed: u64,
        epoch: usize,
    ) -> Vec<Vec<usize>> {
        let of = |range, seed| self.batches_of(set, range, batch_size, seed, epoch);
        match set.parts.len() {
            0 | 1 => of(0..set.len(), seed),
            _ => mix::batches(set, seed, epoch, of),
        }
    }

    /// Returns the batches of the examples in a range.
    fn batches_of(
        self,
        set: &TrainingSet,
        range: Range<usize>,
        batch_size: usize,
        seed: u64,
        epoch: usize,
    ) -> Vec<Vec<usize>> {
        let start = range.start;
        let shuffled = || {
            let mut order = shuffled_order(range.len(), seed, epoch);
            order.iter_mut().for_each(|index| *index += start);
            order
        };
        match self {
            Self::Random => split_into_batches(shuffled(), batch_size),
            Self::NoDuplicates => without_duplicates(shuffled(), set, batch_size).0,
            Self::Class { items_per_class } => {
                let classes = &set.classes[range.clone()];
                let mut batches = by_class(classes, batch_size, items_per_class, seed, epoch);
                batches
                    .iter_mut()
                    .flatten()
                    .for_each(|index| *index += start);
                batches
            }
        }
    }

    /// Returns the batches of a whole set in its own order, as far as the
    /// sampling allows. They are always the same.
    #[must_use]
    pub(crate) fn fixed_batches(self, set: &TrainingSet, batch_size: usize) -> Vec<Vec<usize>> {
        let of = |range: Range<usize>| match self {
            Self::Random => split_into_batches(range.collect(), batch_size),
            Self::NoDuplicates => without_duplicates(range.collect(), set, batch_size).0,
            Self::Class { .. } => self.batches_of(set, range, batch_size, 0, 0),
        };
        set.ranges().into_iter().flat_map(of).collect()
    }
}

/// Splits examples into batches of `size`. A last batch of a single example
/// joins the batch before it, since it would teach a contrastive loss nothing.
pub(crate) fn split_into_batches(order: Vec<usize>, size: usize) -> Vec<Vec<usize>> {
    join_last(
        order.chunks(size.max(1)).map(<[usize]>::to_vec).collect(),
        size,
    )
}

fn join_last(mut batches: Vec<Vec<usize>>, size: usize) -> Vec<Vec<usize>> {
    if size > 1
        && batches.len() > 1
        && let Some(last) = batches.pop()
    {
        match (last.len(), batches.last_mut()) {
            (1, Some(before)) => before.extend(last),
            _ => batches.push(last),
        }
    }
    batches
}

/// Returns the batches of [`Sampling::NoDuplicates`], as many as
/// [`split_into_batches`] makes, and the number of examples that share a batch with a
/// duplicate.
fn without_duplicates(
    order: Vec<usize>,
    set: &TrainingSet,
    size: usize,
) -> (Vec<Vec<usize>>, usize) {
    let size = size.max(1);
    // The examples are a contiguous range.
    let start = order.iter().copied().min().unwrap_or(0);
    let keys = set.shared_keys(start..start + order.len());
    let mut fresh = order.into_iter();
    let mut put_off: VecDeque<usize> = VecDeque::new();
    let mut batches = Vec::new();
    let rest = loop {
        let mut batch = Vec::with_capacity(size);
        let mut held: HashSet<u64> = HashSet::new();
        let mut take = |index: usize, batch: &mut Vec<usize>| {
            let keys = &keys[index - start];
            let is_free = !keys.iter().any(|key| held.contains(key));
            if is_free {
                held.extend(keys);
                batch.push(index);
            }
            is_free
        };
        for _ in 0..put_off.len().min(TRIES * size) {
            if batch.len() == size {
                break;
            }
            if let Some(index) = put_off.pop_front()
                && !take(index, &mut batch)
            {
                put_off.push_back(index);
            }
        }
        while batch.len() < size
            && let Some(index) = fresh.next()
        {
            if !take(index, &mut batch) {
                put_off.push_back(index);
            }
        }
        if batch.len() < size {
            break (batch, put_off);
        }
        batches.push(batch);
    };
    // The last batch holds the rest. If there are many duplicates, it becomes
    // several.
    let (mut last, put_off) = rest;
    let crowded = put_off.len();
    last.extend(put_off);
    batches.extend(last.chunks(size).map(<[usize]>::to_vec));
    (join_last(batches, size), crowded)
}

/// Groups `per_class` examples of one class, shuffles the groups, and fills
/// batches with them. An incomplete group gets further examples of its class.
/// An incomplete last batch is dropped unless it is the only one.
fn by_class(
    classes: &[u32],
    batch_size: usize,
    per_class: usize,
    seed: u64,
    epoch: usize,
) -> Vec<Vec<usize>> {
    let mut members: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
    for index in shuffled_order(classes.len(), seed, epoch) {
        members.entry(classes[index]).or_default().push(index);
    }
    let mut groups: Vec<(u32, Vec<usize>)> = Vec::new();
    let mut rng = generator(seed ^ 0x5851_F42D, epoch);
    for (class, members) in members {
        for (number, group) in members.chunks(per_class).enumerate() {
            let mut group = group.to_vec();
            // First examples of earlier groups, each once; then random repeats.
            let mut others = members[..number * per_class].iter();
            while group.len() < per_class {
                let again = || members[(rng.next_u64() % members.len() as u64) as usize];
                group.push(others.next().copied().unwrap_or_else(again));
            }
            groups.push((class, group));
        }
    }
    for i in (1..groups.len()).rev() {
        let j = (rng.next_u64() % (i as u64 + 1)) as usize;
        groups.swap(i, j);
    }
    // The groups of each class in order, and the first group of each class.
    let mut queues: BTreeMap<u32, VecDeque<(usize, Vec<usize>)>> = BTreeMap::new();
    for (number, (class, group)) in groups.into_iter().enumerate() {
        queues.entry(class).or_default().push_back((number, group));
    }
    let next = |class: u32, queue: &VecDeque<(usize, Vec<usize>)>| {
        queue.front().map(|(number, _)| (*number, class))
    };
    let mut firsts: BTreeSet<(usize, u32)> = queues
        .iter()
        .filter_map(|(class, queue)| next(*class, queue))
        .collect();
    let wanted = (batch_size / per_class).max(1);
    let mut batches: Vec<Vec<usize>> = Vec::new();
    while !firsts.is_empty() {
        let (mut batch, mut count) = (Vec::new(), 0);
        // A class is in a batch only once while other classes remain.
        while count < wanted && !firsts.is_empty() {
            let mut used = Vec::new();
            while count < wanted
                && let Some((_, class)) = firsts.pop_first()
            {
                if let Some((_, group)) = queues.get_mut(&class).and_then(VecDeque::pop_front) {
                    batch.extend(group);
                    count += 1;
                }
                used.push(class);
            }
            let left = |class: u32| queues.get(&class).and_then(|queue| next(class, queue));
            firsts.extend(used.into_iter().filter_map(left));
        }
        if count == wanted || batches.is_empty() {
            batches.push(batch);
        }
    }
    batches
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Example, Item};

    fn set(classes: &[u32]) -> TrainingSet {
        let example = |(i, class): (usize, &u32)| Example {
            id: i.to_string(),
            parts: vec![Item::Text(i.to_string().into())],
            label: class.to_string(),
            scores: Vec::new(),
        };
        TrainingSet {
            examples: classes.iter().enumerate().map(example).collect(),
            classes: classes.to_vec(),
            ..TrainingSet::default()
        }
    }

    #[test]
    fn random_batches_contain_every_example_once_and_none_alone() {
        let classes = set(&[0; 13]);
        let batches = Sampling::Random.batches(&classes, 4, 1, 0);
        assert_eq!(batches.iter().map(Vec::len).collect::<Vec<_>>(), [4, 4, 5]);
        let mut all: Vec<usize> = batches.concat();
        all.sort_unstable();
        assert_eq!(all, (0..13).collect::<Vec<_>>());
        assert_eq!(batches, Sampling::Random.batches(&classes, 4, 1, 0));
        assert_ne!(batches, Sampling::Random.batches(&classes, 4, 1, 1));
    }

    #[test]
    fn class_batches_hold_as_many_of_each_class_and_every_example() {
        // Ten classes of four examples, and one of a single example.
        let mut classes: Vec<u32> = (0..40).map(|i| i / 4).collect();
        classes.push(10);
        let sampling = Sampling::Class { items_per_class: 2 };
        let set = set(&classes);
        let batches = sampling.batches(&set, 6, 3, 0);
        assert_eq!(batches.len(), 7);
        for batch in &batches {
            let mut counts = std::collections::BTreeMap::new();
            for index in batch {
                *counts.entry(classes[*index]).or_insert(0) += 1;
            }
            assert!(counts.values().all(|n| *n == 2), "{counts:?}");
        }
        let mut seen: Vec<usize> = batches.concat();
        seen.sort_unstable();
        seen.dedup();
        assert!(seen.len() >= 40);
        assert_eq!(batches, sampling.batches(&set, 6, 3, 0));
    }

    #[test]
    fn a_short_group_is_topped_up_with_others_of_its_class() {
        let classes = set(&[0, 0, 0, 1, 1, 1]);
        let sampling = Sampling::Class { items_per_class: 2 };
        for batch in sampling.batches(&classes, 4, 9, 2) {
            let mut indices = batch.clone();
            indices.sort_unstable();
            indices.dedup();
            assert_eq!(indices.len(), 4, "{batch:?}");
        }
    }

    #[test]
    fn duplicates_are_in_different_batches() {
        // Each class twice, and the first ten texts twice.
        let mut set = set(&(0..40).map(|i| i / 2).collect::<Vec<u32>>());
        for i in 0..10 {
            set.examples[39 - i].parts = set.examples[i].parts.clone();
        }
        let sampling = Sampling::NoDuplicates;
        let keys = set.shared_keys(0..set.len());
        for seed in 0..20 {
            let batches = sampling.batches(&set, 8, seed, 0);
            assert_eq!(batches.len(), 5);
            // The last batch takes the rest.
            for batch in &batches[..4] {
                let mut shared = HashSet::new();
                let is_new = |index: &usize| keys[*index].iter().all(|key| shared.insert(*key));
                assert!(batch.iter().all(is_new), "{batch:?}");
            }
            let mut all = batches.concat();
            all.sort_unstable();
            assert_eq!(all, (0..40).collect::<Vec<_>>());
            assert_eq!(batches, sampling.batches(&set, 8, seed, 0));
        }
        assert_ne!(
            sampling.batches(&set, 8, 0, 0),
            sampling.batches(&set, 8, 0, 1)
        );
    }

    #[test]
    fn identical_examples_are_still_trained_on() {
        let set = set(&[7; 21]);
        let (batches, crowded) = without_duplicates((0..21).collect(), &set, 4);
        assert_eq!(
            batches.iter().map(Vec::len).collect::<Vec<_>>(),
            [4, 4, 4, 4, 5]
        );
        assert_eq!(crowded, 20);
        let mut all = batches.concat();
        all.sort_unstable();
        assert_eq!(all, (0..21).collect::<Vec<_>>());
    }

    #[test]
    fn two_large_classes_fill_batches_of_both() {
        let classes: Vec<u32> = (0..200_000).map(|i| i % 2).collect();
        let sampling = Sampling::Class { items_per_class: 4 };
        let batches = sampling.batches(&set(&classes), 32, 0, 0);
        assert_eq!(batches.len(), 200_000 / 32);
        let of_first = |batch: &Vec<usize>| batch.iter().filter(|i| classes[**i] == 0).count();
        assert!(batches.iter().all(|batch| of_first(batch) == 16));
    }

    #[test]
    fn impossible_settings_are_changed_with_a_note() {
        let classes: Vec<u32> = (0..100).map(|i| i / 10).collect();
        let choose = |asked: SamplerName, needs, batch, per| {
            Sampling::choose(&asked, needs, batch, per, &classes)
        };
        let auto = |needs| choose(SamplerName::Auto, needs, 32, 4);
        let class = |n| Sampling::Class { items_per_class: n };
        assert_eq!(auto(true), (class(4), vec![]));
        assert_eq!(auto(false), (Sampling::Random, vec![]));
        let (sampling, notes) = choose(SamplerName::Class, true, 32, 5);
        assert_eq!((sampling, notes.len()), (class(4), 1));
        let (sampling, notes) = choose(SamplerName::Auto, true, 64, 4);
        assert_eq!((sampling, notes.len()), (class(7), 1));
        assert!(notes[0].contains("there are 10 classes"), "{notes:?}");
        let (sampling, notes) = choose(SamplerName::Auto, true, 8, 1000);
        assert_eq!((sampling, notes.len()), (class(4), 1));
        assert!(notes[0].contains("at least two classes"), "{notes:?}");
        let (sampling, notes) = choose(SamplerName::Random, true, 32, 4);
        assert_eq!((sampling, notes.len()), (Sampling::Random, 1));
    }
}
