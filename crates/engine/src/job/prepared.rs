//! The data of a run when it has been read and checked.

use crate::data::TrainingSet;

/// The training and validation examples of a run.
pub(super) struct Data {
    pub(super) train: TrainingSet,
    pub(super) validation: TrainingSet,
    /// How many classes the training data has.
    pub(super) classes: usize,
    /// Whether some data set is of texts alone, each embedded twice (Gao et al. 2021,
    /// arXiv:2104.08821).
    pub(super) is_twice: bool,
    /// Oddities of the data, for the log.
    pub(super) warnings: Vec<String>,
}

/// Says how texts alone are trained on.
pub(super) const TWICE: &str =
    "the training data holds texts without labels, which are embedded twice under dropout (SimCSE)";
