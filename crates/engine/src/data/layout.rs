//! Layouts of the documents of a data set.

use crate::models::ModelKind;

/// Modalities that mark the text chunk and the image chunk of a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Modalities {
    /// Modality of text chunks.
    pub text: String,
    /// Modality of image chunks.
    pub image: String,
}

impl Default for Modalities {
    fn default() -> Self {
        Self {
            text: "text".to_owned(),
            image: "image".to_owned(),
        }
    }
}

/// Layout of the documents of a data set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Layout {
    /// Documents with a text chunk and an image chunk.
    TextImage(Modalities),
    /// Documents with the tag `finetuner_label`, or documents with related chunks.
    Labelled(ModelKind),
    /// Documents with one item each, or with the same number of chunks each.
    Items(ModelKind),
    /// Documents with two chunks, or documents that share labels.
    Pairs(ModelKind),
    /// As [`Layout::Pairs`].
    ///
    /// Further chunks are negatives, the same number in each document.
    Ranking(ModelKind),
    /// Documents with two chunks and the tag `finetuner_score`.
    Scored(ModelKind),
    /// Documents with at least three chunks: an anchor, a positive and negatives.
    ///
    /// All documents have the same number of negatives.
    Negatives(ModelKind),
    /// As [`Layout::Negatives`], with the tag `finetuner_score`.
    ///
    /// The tag holds a margin for each negative, or the scores of the positive and of
    /// each negative.
    Margins(ModelKind),
}

impl Layout {
    /// Describes documents of this layout, in plural.
    pub(super) fn describe(&self) -> &'static str {
        match self {
            Self::TextImage(_) => "text-image pairs",
            Self::Labelled(_) => "labelled documents",
            Self::Items(_) => "items to embed",
            Self::Pairs(_) | Self::Ranking(_) => "pairs",
            Self::Scored(_) => "pairs with a score",
            Self::Negatives(_) => "documents of an anchor, a match and negatives",
            Self::Margins(_) => "documents of an anchor, a match and negatives with margins",
        }
    }
}
