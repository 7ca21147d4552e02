//! The settings of a job that give its pairs hard negatives.

use finetuner_protocol::HardNegatives;

use super::Fit;
use crate::data::DataSource;

impl Fit {
    /// Gives each pair of the training data hard negatives before the training:
    /// documents that the model finds similar to the pair's query and that
    /// don't belong to it. They are mined from the matches of all pairs, and
    /// from [`Fit::corpus`]. The loss must take negatives, as
    /// `MultipleNegativeRankingLoss` does.
    pub fn mine_hard_negatives(mut self, options: HardNegatives) -> Self {
        self.hyper().mine_hard_negatives = Some(options);
        self
    }

    /// Documents to mine hard negatives from, beside the matches of all pairs;
    /// with the default options, unless [`Fit::mine_hard_negatives`] gives
    /// others.
    pub fn corpus(mut self, data: impl Into<DataSource>) -> Self {
        self.corpus = Some(data.into());
        self
    }
}
