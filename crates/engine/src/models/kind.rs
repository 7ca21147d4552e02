//! What a model embeds.

use finetuner_protocol::Task;

/// The kind of data that a model embeds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModelKind {
    /// Texts and pictures, into one space.
    TextImage,
    /// Texts.
    Text,
    /// Pictures.
    Image,
    /// Features: lists of numbers.
    Features,
    /// Point clouds: lists of places in space.
    PointCloud,
    /// Pairs of texts, which it scores in place of embedding them: a
    /// cross-encoder.
    TextPairs,
}

impl ModelKind {
    /// The kind of model that compares this.
    #[must_use]
    pub fn of_task(task: &Task) -> Self {
        match task {
            Task::TextToImage => Self::TextImage,
            Task::ImageToImage => Self::Image,
            Task::TextToText => Self::Text,
            Task::MeshToMesh => Self::PointCloud,
            _ => Self::Features,
        }
    }

    /// Returns the task of a model of this kind: the items that it compares.
    #[must_use]
    pub fn task(self) -> Task {
        match self {
            Self::TextImage => Task::TextToImage,
            Self::Image => Task::ImageToImage,
            Self::Text | Self::TextPairs => Task::TextToText,
            Self::PointCloud => Task::MeshToMesh,
            Self::Features => Task::Any,
        }
    }

    /// The kind of the network alone: that of a sequence classifier reads texts.
    pub(crate) fn of_network(self) -> Self {
        match self {
            Self::TextPairs => Self::Text,
            other => other,
        }
    }

    /// What it embeds, in words.
    pub(crate) fn inputs(self) -> &'static str {
        match self {
            Self::TextImage => "texts and pictures",
            Self::Text => "texts",
            Self::Image => "pictures",
            Self::Features => "features",
            Self::PointCloud => "point clouds",
            Self::TextPairs => "pairs of texts",
        }
    }
}
