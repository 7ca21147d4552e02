//! Selects negatives from the best-scoring documents of each query.

use finetuner_protocol::{HardNegatives, SamplingStrategy};
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};

use super::{format::Format, top::Top};
use crate::draw::sample;

/// The options, resolved for the given pairs.
pub(super) struct Rules {
    pub(super) format: Format,
    pub(super) num_negatives: usize,
    /// Number of candidates per query.
    ///
    /// This is `range_max` plus the largest number of pairs of a query.
    pub(super) width: usize,
    pub(super) range_min: usize,
    pub(super) range_max: usize,
    /// Whether `range_max` was derived, because the options have none.
    pub(super) range_is_derived: bool,
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

/// Candidates that one option excluded.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Skipped {
    /// Name of the option.
    pub(super) option: &'static str,
    /// Value of the option.
    pub(super) value: f64,
    /// Number of excluded candidates.
    pub(super) count: usize,
    /// Excluded share of the candidates.
    pub(super) share: f64,
}

/// Index of `min_score` among the excluding options.
const MIN_SCORE: usize = 3;

/// The selected negatives of all queries.
pub(super) struct Chosen {
    /// Corpus index and score of each query's negatives, best first.
    pub(super) negatives: Vec<Vec<(u32, f32)>>,
    pub(super) skipped: Vec<Skipped>,
}

impl Rules {
    /// Resolves the options. `pairs` holds the number of pairs of each query.
    pub(super) fn new(options: &HardNegatives, pairs: &[usize], seed: u64) -> Self {
        let most_pairs = pairs.iter().copied().max().unwrap_or(0);
        let num_negatives = options.num_negatives as usize;
        let range_min = options.range_min as usize;
        // The score limits exclude some candidates, so more of them are needed.
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
            range_is_derived: options.range_max.is_none(),
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

    /// Selects from the best documents of each query.
    ///
    /// `scores` holds the scores of the query's positives, `own` the corpus indices
    /// that are not candidates.
    pub(super) fn choose(&self, tops: Vec<Top>, scores: &[Vec<f32>], own: &[Vec<u32>]) -> Chosen {
        let mut counts = [0; 4];
        let candidates = tops.len() * self.width;
        let negatives = tops.into_iter().enumerate().map(|(query, top)| {
            let mut left = top.into_sorted();
            if !self.include_positives {
                left.retain(|(place, _)| !own[query].contains(place));
            }
            // Use the lowest positive score, so that a negative is below all positives.
            let worst = scores[query].iter().copied().fold(f32::INFINITY, f32::min);
            let mut keep = |number: usize, test: &dyn Fn(f32) -> bool| {
                let before = match number {
                    // The library also counts the candidates that earlier options
                    // excluded.
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

    /// Counts as the library does.
    ///
    /// Candidates that a margin excludes do not count for later options.
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
                    share: count as f64 / candidates as f64,
                });
                if number < 2 {
                    candidates -= count;
                }
            }
        }
        skipped
    }

    /// Keeps a random sample, in the original order.
    fn draw(&self, left: &mut Vec<(u32, f32)>, query: usize) {
        if left.len() <= self.num_negatives {
            return;
        }
        let seed = self.seed ^ (query as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut indices: Vec<usize> = (0..left.len()).collect();
        sample(&mut indices, self.num_negatives, &mut rng);
        indices.sort_unstable();
        *left = indices.into_iter().map(|index| left[index]).collect();
    }
}
