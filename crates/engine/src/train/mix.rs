//! Batches from several data sets, each batch from one of them.

use std::ops::Range;

use crate::{
    data::{Mixing, TrainingSet},
    draw::shuffled_order,
};

/// Returns the batches of an epoch. `of` returns those of one pass over a range
/// of examples with a given seed. They depend only on `seed` and `epoch`.
pub(super) fn batches(
    set: &TrainingSet,
    seed: u64,
    epoch: usize,
    of: impl Fn(Range<usize>, u64) -> Vec<Vec<usize>>,
) -> Vec<Vec<usize>> {
    let passes = |(number, range): (usize, Range<usize>)| {
        let weight = set.parts.get(number).map_or(1.0, |part| part.weight);
        let pass = |pass: u64| {
            let own = (number as u64) << 32 | pass;
            of(
                range.clone(),
                seed ^ own.wrapping_mul(0xA24B_AED4_963E_E407),
            )
        };
        let mut found = pass(0);
        let wanted = ((found.len() as f64 * weight).round() as usize).max(1);
        let mut next = 1;
        while found.len() < wanted && !range.is_empty() {
            found.extend(pass(next));
            next += 1;
        }
        found.truncate(wanted);
        found
    };
    let parts: Vec<Vec<Vec<usize>>> = set.ranges().into_iter().enumerate().map(passes).collect();
    let order: Vec<usize> = match set.mixing {
        Mixing::Proportional => {
            let numbers = parts.iter().enumerate();
            let all: Vec<usize> = numbers
                .flat_map(|(number, batches)| std::iter::repeat_n(number, batches.len()))
                .collect();
            let shuffled = shuffled_order(all.len(), seed ^ 0x006D_6978, epoch);
            shuffled.into_iter().map(|index| all[index]).collect()
        }
        Mixing::RoundRobin => {
            let turns = parts.iter().map(Vec::len).min().unwrap_or(0);
            (0..turns).flat_map(|_| 0..parts.len()).collect()
        }
    };
    let mut parts: Vec<_> = parts.into_iter().map(Vec::into_iter).collect();
    order
        .into_iter()
        .filter_map(|number| parts.get_mut(number)?.next())
        .collect()
}

/// Describes how many batches of an epoch come from each data set; `None` if
/// there is only one.
pub(crate) fn describe(set: &TrainingSet, batches: &[Vec<usize>]) -> Option<String> {
    if set.parts.len() < 2 {
        return None;
    }
    let shares = set
        .ranges()
        .into_iter()
        .zip(&set.parts)
        .map(|(range, part)| {
            let is_of = |batch: &&Vec<usize>| batch.first().is_some_and(|i| range.contains(i));
            let count = batches.iter().filter(is_of).count();
            let share = 100.0 * count as f64 / batches.len().max(1) as f64;
            format!("{count} of `{}` ({share:.0} %)", part.name)
        });
    let shares: Vec<String> = shares.collect();
    Some(format!(
        "Each batch comes from one data set. Of the {} batches of an epoch, {}",
        batches.len(),
        shares.join(", ")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        data::{Example, Item, Part},
        train::Sampling,
    };

    fn set(parts: &[(usize, f64)], mixing: Mixing) -> TrainingSet {
        let count = parts.iter().map(|(len, _)| len).sum();
        let example = |i: usize| Example {
            id: i.to_string(),
            parts: vec![Item::Text(i.to_string().into())],
            label: (i / 2).to_string(),
            scores: Vec::new(),
        };
        let part = |(number, (len, weight)): (usize, &(usize, f64))| Part {
            name: format!("set {number}"),
            len: *len,
            weight: *weight,
        };
        TrainingSet {
            examples: (0..count).map(example).collect(),
            classes: (0..count as u32).map(|i| i / 2).collect(),
            parts: parts.iter().enumerate().map(part).collect(),
            mixing,
        }
    }

    /// Returns the data set of each batch.
    fn of_batches(set: &TrainingSet, batches: &[Vec<usize>]) -> Vec<usize> {
        let ranges = set.ranges();
        let of = |batch: &Vec<usize>| {
            let number = ranges
                .iter()
                .position(|range| range.contains(&batch[0]))
                .unwrap();
            assert!(
                batch.iter().all(|i| ranges[number].contains(i)),
                "{batch:?}"
            );
            number
        };
        batches.iter().map(of).collect()
    }

    #[test]
    fn every_batch_comes_from_one_data_set_reproducibly() {
        for sampling in [
            Sampling::Random,
            Sampling::NoDuplicates,
            Sampling::Class { items_per_class: 2 },
        ] {
            let set = set(&[(40, 1.0), (16, 1.0)], Mixing::Proportional);
            let batches = |epoch| sampling.batches(&set, 4, 7, epoch);
            let mut all = batches(0).concat();
            all.sort_unstable();
            assert_eq!(all, (0..56).collect::<Vec<_>>(), "{sampling:?}");
            let of = of_batches(&set, &batches(0));
            assert_eq!(of.iter().filter(|number| **number == 1).count(), 4);
            assert!(of[..10].contains(&1), "{of:?}");
            assert_eq!(batches(3), batches(3));
            assert_ne!(batches(3), batches(4));
            of_batches(&set, &sampling.fixed_batches(&set, 4));
        }
    }

    #[test]
    fn weights_set_the_passes_over_a_data_set_per_epoch() {
        let set = set(&[(40, 0.5), (16, 2.5), (4, 0.01)], Mixing::Proportional);
        let batches = Sampling::Random.batches(&set, 4, 7, 0);
        let of = of_batches(&set, &batches);
        let counts = [0, 1, 2].map(|wanted| of.iter().filter(|n| **n == wanted).count());
        assert_eq!(counts, [5, 10, 1]);
        // Each pass over a data set has its own order.
        let second: Vec<usize> = batches
            .concat()
            .into_iter()
            .filter(|i| (40..56).contains(i))
            .collect();
        assert_ne!(second[..16], second[16..32]);
        let mut twice = second[..32].to_vec();
        twice.sort_unstable();
        assert_eq!(twice, (40..56).flat_map(|i| [i, i]).collect::<Vec<_>>());
        let described = describe(&set, &batches).unwrap();
        assert!(
            described.contains("16 batches of an epoch, 5 of `set 0` (31 %), 10 of `set 1`"),
            "{described}"
        );
    }

    #[test]
    fn data_sets_take_turns_until_one_is_used_up() {
        let set = set(&[(40, 1.0), (8, 1.0)], Mixing::RoundRobin);
        let batches = Sampling::Random.batches(&set, 4, 7, 0);
        assert_eq!(of_batches(&set, &batches), [0, 1, 0, 1]);
    }
}
