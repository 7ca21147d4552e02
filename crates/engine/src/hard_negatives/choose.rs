//! Which of a query's best documents become its negatives.

use finetuner_protocol::{HardNegatives, SamplingStrategy};
use rand_chacha::{
    ChaCha8Rng,
    rand_core::{Rng, SeedableRng},
};

use super::{rows::Format, top::Top};

/// The options, with what follows from the pairs.
pub(super) struct Rules {
    pub(super) format: Format,
    pub(super) num_negatives: usize,
    /// Documents of each query that are looked at: `range_max` and the most
    /// pairs of a query.
    pub(super) width: usize,
    pub(super) range_min: usize,
    pub(super) range_max: usize,
    /// Whether `range_max` was not given.
    pub(super) range_was_set: bool,
    pub(super) pairs: usize,
    pub(super) queries: usize,
    pub(super) most_pairs: usize,
    pub(super) absolute_margin: Option<f64>,
    pub(super) relative_margin: Option<f64>,
    pub(super) max_score: Option<f64>,
    pub(super) min_score: Option<f64>,
    include_positives: bool,
    random: bool,
    seed: u64,
}

/// Why candidates were left out, in the order in which they are.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Skipped {
    /// The option.
    pub(super) option: &'static str,
    /// Its value.
    pub(super) value: f64,
    /// How many candidates were left out.
    pub(super) count: usize,
    /// Their part of the candidates.
    pub(super) part: f64,
}

/// The place of `min_score` among the options that leave candidates out.
const MIN_SCORE: usize = 3;

/// What was chosen.
pub(super) struct Chosen {
    /// Place and score of the negatives of each query, the best first.
    pub(super) negatives: Vec<Vec<(u32, f32)>>,
    pub(super) skipped: Vec<Skipped>,
}

impl Rules {
    /// `pairs` says how many pairs each query has.
    pub(super) fn new(options: &HardNegatives, pairs: &[usize], seed: u64) -> Self {
        let most_pairs = pairs.iter().copied().max().unwrap_or(0);
        let num_negatives = options.num_negatives as usize;
        let range_min = options.range_min as usize;
        // Some are left out by a limit of scores.
        let has_limit = options.absolute_margin.is_some()
            || options.relative_margin.is_some()
            || options.max_score.is_some();
        let wanted = if has_limit {
            num_negatives * 10
        } else {
            num_negatives
        };
        let range_max = match options.range_max {
            Some(range_max) => range_max as usize,
            None => range_min + wanted + most_pairs,
        };
        Self {
            format: match options.include_positives {
                true => Format::Tuple,
                false => Format::of(&options.output_format),
            },
            num_negatives,
            width: range_max + most_pairs,
            range_min,
            range_max,
            range_was_set: options.range_max.is_none(),
            pairs: pairs.iter().sum(),
            queries: pairs.len(),
            most_pairs,
            absolute_margin: options.absolute_margin,
            relative_margin: options.relative_margin,
            max_score: options.max_score,
            min_score: options.min_score,
            include_positives: options.include_positives,
            random: options.sampling_strategy == SamplingStrategy::Random,
            seed: options.seed.unwrap_or(seed),
        }
    }

    /// Chooses from the best documents of each query. `scores` are those of its
    /// matches, `own` the places that are no candidates.
    pub(super) fn choose(&self, tops: Vec<Top>, scores: &[Vec<f32>], own: &[Vec<u32>]) -> Chosen {
        let mut counts = [0; 4];
        let candidates = tops.len() * self.width;
        let negatives = tops.into_iter().enumerate().map(|(query, top)| {
            let mut left = top.into_sorted();
            if !self.include_positives {
                left.retain(|(place, _)| !own[query].contains(place));
            }
            // The worst match, so that a negative is below all of them.
            let worst = scores[query].iter().copied().fold(f32::INFINITY, f32::min);
            let mut keep = |number: usize, test: &dyn Fn(f32) -> bool| {
                let before = match number {
                    // The library counts here what was left out before as well.
                    MIN_SCORE => self.width,
                    _ => left.len(),
                };
                left.retain(|(_, score)| test(*score));
                counts[number] += before - left.len();
            };
            if let Some(margin) = self.absolute_margin {
                keep(0, &|score| score + margin as f32 <= worst);
            }
            if let Some(margin) = self.relative_margin {
                let most = worst - worst.abs() * margin as f32;
                keep(1, &|score| score <= most);
            }
            if let Some(most) = self.max_score {
                keep(2, &|score| score <= most as f32);
            }
            if let Some(least) = self.min_score {
                keep(MIN_SCORE, &|score| score >= least as f32);
            }
            left.truncate(self.range_max);
            left.drain(..self.range_min.min(left.len()));
            if self.random {
                self.draw(&mut left, query);
            }
            left.truncate(self.num_negatives);
            left
        });
        let negatives = negatives.collect();
        Chosen {
            negatives,
            skipped: self.skipped(counts, candidates),
        }
    }

    /// As the library counts: what the margins leave out is no candidate for
    /// what follows.
    fn skipped(&self, counts: [usize; 4], mut candidates: usize) -> Vec<Skipped> {
        let options = [
            ("absolute_margin", self.absolute_margin),
            ("relative_margin", self.relative_margin),
            ("max_score", self.max_score),
            ("min_score", self.min_score),
        ];
        let mut skipped = Vec::new();
        for (number, ((option, value), count)) in options.into_iter().zip(counts).enumerate() {
            if let Some(value) = value.filter(|_| count > 0) {
                skipped.push(Skipped {
                    option,
                    value,
                    count,
                    part: count as f64 / candidates as f64,
                });
                if number < 2 {
                    candidates -= count;
                }
            }
        }
        skipped
    }

    /// Keeps some that are drawn at random, in their order.
    fn draw(&self, left: &mut Vec<(u32, f32)>, query: usize) {
        if left.len() <= self.num_negatives {
            return;
        }
        let seed = self.seed ^ (query as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let n = left.len();
        let mut places: Vec<usize> = (0..n).collect();
        for i in 0..self.num_negatives {
            let j = i + (rng.next_u64() % (n - i) as u64) as usize;
            places.swap(i, j);
        }
        places.truncate(self.num_negatives);
        places.sort_unstable();
        *left = places.into_iter().map(|place| left[place]).collect();
    }
}
