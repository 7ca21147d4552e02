//! The catalogue of backbones: what `fit` can start from.

use crate::Task;

/// A model to start from.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Backbone {
    /// The name for `fit`.
    pub name: &'static str,
    /// What it compares.
    pub task: Task,
    /// The width that the Python client's table shows. For CLIP that is the
    /// width of the picture tower; its embeddings have 512 values.
    pub output_dim: usize,
    /// The kind of network.
    pub architecture: &'static str,
    /// What it was trained on before.
    pub description: &'static str,
    /// Whether the backend of this version can fine-tune it.
    pub trainable: bool,
}

/// The name of the small CLIP that ships with the backend.
pub const CLIP_SMALL: &str = "clip-small";

/// All backbones: those of the Python client's guide in its order, then ours.
pub const BACKBONES: &[Backbone] = &[
    Backbone {
        name: "resnet50",
        task: Task::ImageToImage,
        output_dim: 2048,
        architecture: "CNN",
        description: "Pretrained on ImageNet",
        trainable: false,
    },
    Backbone {
        name: "resnet152",
        task: Task::ImageToImage,
        output_dim: 2048,
        architecture: "CNN",
        description: "Pretrained on ImageNet",
        trainable: false,
    },
    Backbone {
        name: "efficientnet_b0",
        task: Task::ImageToImage,
        output_dim: 1280,
        architecture: "CNN",
        description: "Pretrained on ImageNet",
        trainable: false,
    },
    Backbone {
        name: "efficientnet_b4",
        task: Task::ImageToImage,
        output_dim: 1280,
        architecture: "CNN",
        description: "Pretrained on ImageNet",
        trainable: false,
    },
    Backbone {
        name: "openai/clip-vit-base-patch32",
        task: Task::TextToImage,
        output_dim: 768,
        architecture: "transformer",
        description: "Pretrained on millions of text image pairs by OpenAI",
        trainable: true,
    },
    Backbone {
        name: "bert-base-cased",
        task: Task::TextToText,
        output_dim: 768,
        architecture: "transformer",
        description: "Pretrained on BookCorpus and English Wikipedia",
        trainable: false,
    },
    Backbone {
        name: "sentence-transformers/msmarco-distilbert-base-v3",
        task: Task::TextToText,
        output_dim: 768,
        architecture: "transformer",
        description: "Pretrained on Bert, fine-tuned on MS Marco",
        trainable: false,
    },
    Backbone {
        name: CLIP_SMALL,
        task: Task::TextToImage,
        output_dim: 128,
        architecture: "transformer",
        description: "Pretrained on emoji drawings, ships with Finetuner",
        trainable: true,
    },
];

/// The backbone of that name.
#[must_use]
pub fn find_backbone(name: &str) -> Option<&'static Backbone> {
    BACKBONES.iter().find(|backbone| backbone.name == name)
}
