//! Kinds of data that models embed.

use finetuner_protocol::Task;

/// The kind of data that a model embeds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModelKind {
    /// Texts and images, in one embedding space.
    TextImage,
    /// Texts.
    Text,
    /// Images.
    Image,
    /// Feature vectors.
    Features,
    /// Point clouds: lists of 3D points.
    PointCloud,
    /// Pairs of texts, for a cross-encoder, which scores them instead of
    /// embedding them.
    TextPairs,
}

impl ModelKind {
    /// Returns the kind of model that a task needs.
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

    /// Returns the task of this kind of model.
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

    /// Returns the kind without a classification head: a cross-encoder's
    /// network reads texts.
    pub(crate) fn of_network(self) -> Self {
        match self {
            Self::TextPairs => Self::Text,
            other => other,
        }
    }

    /// Returns the inputs in words, for messages.
    pub(crate) fn inputs(self) -> &'static str {
        match self {
            Self::TextImage => "texts and images",
            Self::Text => "texts",
            Self::Image => "images",
            Self::Features => "features",
            Self::PointCloud => "point clouds",
            Self::TextPairs => "pairs of texts",
        }
    }
}
