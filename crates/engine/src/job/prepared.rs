//! The data of a run after reading and checking.

use crate::data::TrainingSet;

/// The training and validation examples of a run.
pub(super) struct Data {
    pub(super) train: TrainingSet,
    pub(super) validation: TrainingSet,
    /// Number of classes in the training data.
    pub(super) classes: usize,
    /// Whether a data set consists of single texts, each embedded twice.
    ///
    /// SimCSE; Gao et al. 2021, arXiv:2104.08821.
    pub(super) is_twice: bool,
    /// Problems in the data that the log mentions.
    pub(super) warnings: Vec<String>,
}

/// Explains how single texts are trained on.
pub(super) const TWICE: &str =
    "the training data holds unlabelled texts, which are embedded twice under dropout (SimCSE)";
