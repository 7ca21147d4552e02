//! Training sets that combine several data sets.

use std::ops::Range;

use super::TrainingSet;

/// One of several data sets.
#[derive(Clone, Debug, PartialEq)]
pub struct Part {
    /// Name of the data set.
    pub name: String,
    /// Number of examples.
    pub len: usize,
    /// Passes over the data set per epoch.
    pub weight: f64,
}

/// Order of the batches from several data sets, as in sentence-transformers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mixing {
    /// All batches of each data set, repeated by its weight, in random order.
    #[default]
    Proportional,
    /// One batch of each data set in turn, until one data set is exhausted.
    RoundRobin,
}

impl TrainingSet {
    /// Returns the index range of each data set's examples.
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
