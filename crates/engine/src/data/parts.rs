//! Several data sets in one.

use std::ops::Range;

use super::TrainingSet;

/// One data set of several.
#[derive(Clone, Debug, PartialEq)]
pub struct Part {
    /// Its name.
    pub name: String,
    /// How many examples it has.
    pub len: usize,
    /// How often an epoch goes through it.
    pub weight: f64,
}

/// How batches of several data sets follow each other, as sentence-transformers has
/// it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mixing {
    /// All batches of each data set, as often as its weight says, in a random order.
    #[default]
    Proportional,
    /// One batch of each data set in turn, until one is used up.
    RoundRobin,
}

impl TrainingSet {
    /// Where the examples of each data set are; one range where there is a single
    /// data set.
    pub(crate) fn ranges(&self) -> Vec<Range<usize>> {
        if self.parts.len() < 2 {
            return std::iter::once(0..self.len()).collect();
        }
        let mut start = 0;
        let range = |part: &Part| {
            start += part.len;
            start - part.len..start
        };
        self.parts.iter().map(range).collect()
    }
}
