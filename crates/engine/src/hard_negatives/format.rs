//! Output formats of mined negatives.

use finetuner_protocol::NegativesFormat;

/// Output format of mined negatives: the members of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// A query, its positive and one negative.
    Triplet,
    /// A query, its positive and all its negatives.
    ///
    /// Queries with too few negatives are omitted.
    Tuple,
    /// A query and a document, labelled as positive or negative.
    LabeledPair,
    /// A query, its positive and as many negatives as were found.
    LabeledList,
}

impl Format {
    /// Returns the format of validated options.
    pub(super) fn of(format: &NegativesFormat) -> Self {
        match format {
            NegativesFormat::NTuple => Self::Tuple,
            NegativesFormat::LabeledPair => Self::LabeledPair,
            NegativesFormat::LabeledList => Self::LabeledList,
            _ => Self::Triplet,
        }
    }
}
