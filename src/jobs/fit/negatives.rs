//! Settings for mining hard negatives.

use finetuner_protocol::HardNegatives;

use super::Fit;
use crate::data::DataSource;

impl Fit {
    /// Mines hard negatives for each pair of the training data before training.
    ///
    /// A hard negative is a document that the model finds similar to the pair's
    /// query and that does not belong to it. Candidates are the matches of all pairs
    /// and the documents of [`Fit::corpus`]. The loss must accept negatives, as
    /// `MultipleNegativeRankingLoss` does.
    pub fn mine_hard_negatives(mut self, options: HardNegatives) -> Self {
        self.hyper().mine_hard_negatives = Some(options);
        self
    }

    /// Sets further documents to mine hard negatives from.
    ///
    /// Enables mining with default options unless [`Fit::mine_hard_negatives`] is
    /// set.
    pub fn corpus(mut self, data: impl Into<DataSource>) -> Self {
        self.corpus = Some(data.into());
        self
    }
}
