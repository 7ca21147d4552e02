//! The mined negatives.

use super::{format::Format, report::Report};
use crate::data::Item;

/// A query's positives and negatives.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Found {
    /// The query's positives.
    pub(super) matches: Vec<Match>,
    /// Corpus index and score of each negative, best first.
    pub(super) negatives: Vec<(u32, f32)>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Match {
    pub(super) pair: u32,
    pub(super) document: u32,
    pub(super) score: f32,
}

/// The mined negatives of all queries.
pub struct Mined {
    pub(super) queries: Vec<Item>,
    /// The corpus without duplicates: first the given corpus, then the positives.
    pub(super) corpus: Vec<Item>,
    pub(super) found: Vec<Found>,
    pub(super) format: Format,
    pub(super) output_scores: bool,
    pub(super) num_negatives: usize,
    /// Statistics of the mining.
    pub report: Report,
}
