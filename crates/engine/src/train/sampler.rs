//! Samplers: which examples of an epoch come together in a batch.

use finetuner_protocol::Sampler as SamplerName;
use rand_chacha::{
    ChaCha8Rng,
    rand_core::{Rng, SeedableRng},
};

/// How batches are put together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sampling {
    /// In a random order.
    Random,
    /// With as many examples of each class that is in a batch.
    Class {
        /// Examples of one class in a batch.
        items_per_class: usize,
    },
}

impl Sampling {
    /// Decides how batches are put together, and says what of the settings was
    /// changed and why. `needs_pairs` is whether the loss compares the examples
    /// of a batch.
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
                    "`sampler` is `random`: batches may hold no two examples of one class, which \
                     teach this loss nothing"
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
        // A batch of one class has nothing to tell it from.
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
                 can't be split into classes of {per_class}"
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

    /// The batches of an epoch, each a list of places. They depend on `seed`
    /// and `epoch` alone.
    #[must_use]
    pub fn batches(
        self,
        classes: &[u32],
        batch_size: usize,
        seed: u64,
        epoch: usize,
    ) -> Vec<Vec<usize>> {
        match self {
            Self::Random => cut(shuffled_order(classes.len(), seed, epoch), batch_size),
            Self::Class { items_per_class } => {
                by_class(classes, batch_size, items_per_class, seed, epoch)
            }
        }
    }
}

/// Batches of `size`, one after the other. A last batch of a single example
/// would teach a contrastive loss nothing, so that it joins the batch before.
pub(crate) fn cut(order: Vec<usize>, size: usize) -> Vec<Vec<usize>> {
    let mut batches: Vec<Vec<usize>> = order.chunks(size.max(1)).map(<[usize]>::to_vec).collect();
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

/// Groups of `per_class` examples of one class, shuffled, so many in a batch
/// that it is full. A class that ends with a smaller group is topped up with
/// others of its own; a last batch that is not full is left out, unless it is
/// the only one.
fn by_class(
    classes: &[u32],
    batch_size: usize,
    per_class: usize,
    seed: u64,
    epoch: usize,
) -> Vec<Vec<usize>> {
    let order = shuffled_order(classes.len(), seed, epoch);
    let mut members: std::collections::BTreeMap<u32, Vec<usize>> =
        std::collections::BTreeMap::new();
    for place in order {
        members.entry(classes[place]).or_default().push(place);
    }
    let mut groups: Vec<(u32, Vec<usize>)> = Vec::new();
    let mut rng = generator(seed ^ 0x5851_F42D, epoch);
    for (class, members) in members {
        for group in members.chunks(per_class) {
            let mut group = group.to_vec();
            let others: Vec<usize> = members
                .iter()
                .copied()
                .filter(|place| !group.contains(place))
                .collect();
            while group.len() < per_class && !members.is_empty() {
                // Others first, each once; then the same again.
                let taken = group.len() - group.len().min(members.len() - others.len());
                let extra = match others.get(taken) {
                    Some(place) => *place,
                    None => members[(rng.next_u64() % members.len() as u64) as usize],
                };
                group.push(extra);
            }
            groups.push((class, group));
        }
    }
    for i in (1..groups.len()).rev() {
        let j = (rng.next_u64() % (i as u64 + 1)) as usize;
        groups.swap(i, j);
    }
    let wanted = (batch_size / per_class).max(1);
    let mut batches: Vec<Vec<usize>> = Vec::new();
    let mut waiting: std::collections::VecDeque<(u32, Vec<usize>)> = groups.into();
    while !waiting.is_empty() {
        let mut batch: Vec<(u32, Vec<usize>)> = Vec::new();
        let mut later = std::collections::VecDeque::new();
        while batch.len() < wanted
            && let Some((class, group)) = waiting.pop_front()
        {
            // A class comes once into a batch where others are left.
            if batch.iter().any(|(other, _)| *other == class) {
                later.push_back((class, group));
            } else {
                batch.push((class, group));
            }
        }
        while batch.len() < wanted && !later.is_empty() && waiting.is_empty() {
            batch.extend(later.pop_front());
        }
        later.extend(waiting);
        waiting = later;
        let full = batch.len() == wanted;
        if full || batches.is_empty() {
            batches.push(batch.into_iter().flat_map(|(_, group)| group).collect());
        }
    }
    batches
}

fn generator(seed: u64, epoch: usize) -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(seed ^ (epoch as u64).wrapping_mul(0x9E37_79B9))
}

/// The numbers below `n` in a random order that depends on `seed` and `epoch`
/// alone.
pub(crate) fn shuffled_order(n: usize, seed: u64, epoch: usize) -> Vec<usize> {
    let mut rng = generator(seed, epoch);
    let mut order: Vec<usize> = (0..n).collect();
    for i in (1..n).rev() {
        // The bias of the remainder is below 2^-40 for any data set.
        let j = (rng.next_u64() % (i as u64 + 1)) as usize;
        order.swap(i, j);
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_batches_hold_every_example_once_and_none_alone() {
        let classes = vec![0; 13];
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
        // Ten classes of four, and one of a single example.
        let mut classes: Vec<u32> = (0..40).map(|i| i / 4).collect();
        classes.push(10);
        let sampling = Sampling::Class { items_per_class: 2 };
        let batches = sampling.batches(&classes, 6, 3, 0);
        assert_eq!(batches.len(), 7);
        for batch in &batches {
            let mut counts = std::collections::BTreeMap::new();
            for place in batch {
                *counts.entry(classes[*place]).or_insert(0) += 1;
            }
            assert!(counts.values().all(|n| *n == 2), "{counts:?}");
        }
        let mut seen: Vec<usize> = batches.concat();
        seen.sort_unstable();
        seen.dedup();
        assert!(seen.len() >= 40);
        assert_eq!(batches, sampling.batches(&classes, 6, 3, 0));
    }

    #[test]
    fn a_short_group_is_topped_up_with_others_of_its_class() {
        let classes = [0, 0, 0, 1, 1, 1];
        let sampling = Sampling::Class { items_per_class: 2 };
        for batch in sampling.batches(&classes, 4, 9, 2) {
            let mut places = batch.clone();
            places.sort_unstable();
            places.dedup();
            assert_eq!(places.len(), 4, "{batch:?}");
        }
    }

    #[test]
    fn settings_that_do_not_fit_are_changed_and_said() {
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
