//! The list of backbones, the models that `fit` can start from.

use crate::{
    Task,
    model_option::{CLIP, CNN, MLP, POINTNET, TEXT, TOWERS},
    open_clip,
};

pub use crate::model_option::ModelOption;

/// A model that runs can start from.
///
/// ```
/// for backbone in finetuner_protocol::BACKBONES.iter() {
///     println!("{} for {}", backbone.name, backbone.task);
/// }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Backbone {
    /// The name for `fit`.
    pub name: &'static str,
    /// Other names of the same model: the one in the last Python client's table, or
    /// the name on the hub.
    pub aliases: &'static [&'static str],
    /// Task of the model.
    pub task: Task,
    /// Width in the Python client's table. For CLIP it is the width of the image
    /// tower; the embeddings have 512 values.
    pub output_dim: usize,
    /// Kind of network.
    pub architecture: &'static str,
    /// Data that the model was trained on.
    pub description: &'static str,
    /// Options allowed in `model_options`.
    pub options: &'static [ModelOption],
    /// Whether `finetuner-server` of this version can fine-tune it.
    pub trainable: bool,
    /// Whether it can be exported to ONNX.
    pub onnx: bool,
}

impl Backbone {
    /// Returns the name on the Hugging Face hub, or the name here if the hub does
    /// not have the model.
    #[must_use]
    pub fn hub_name(&self) -> &'static str {
        let names = std::iter::once(&self.name).chain(self.aliases);
        names
            .copied()
            .find(|name| name.contains('/'))
            .unwrap_or(self.name)
    }
}

/// Name of the small CLIP that ships with the backend.
pub const CLIP_SMALL: &str = "clip-small";

/// Name of the small text model that ships with the backend.
pub const MINILM_SMALL: &str = "minilm-small";

/// Name of the small image model that ships with the backend.
pub const EFFICIENTNET_SMALL: &str = "efficientnet-small";

/// Name of the small two-tower model that ships with the backend: [`MINILM_SMALL`]
/// and [`EFFICIENTNET_SMALL`] with a projection each.
pub const TWO_TOWERS_SMALL: &str = "two-towers-small";

/// All backbones: first those of the Python client's guide in its order, then those
/// of its last version, then our own.
pub const BACKBONES: &[Backbone] = &[
    Backbone {
        name: "resnet50",
        aliases: &["resnet-base", "microsoft/resnet-50"],
        task: Task::ImageToImage,
        output_dim: 2048,
        architecture: "CNN",
        description: "Pretrained on ImageNet",
        options: CNN,
        trainable: true,
        onnx: true,
    },
    Backbone {
        name: "resnet152",
        aliases: &["resnet-large", "microsoft/resnet-152"],
        task: Task::ImageToImage,
        output_dim: 2048,
        architecture: "CNN",
        description: "Pretrained on ImageNet",
        options: CNN,
        trainable: true,
        onnx: true,
    },
    Backbone {
        name: "efficientnet_b0",
        aliases: &["google/efficientnet-b0"],
        task: Task::ImageToImage,
        output_dim: 1280,
        architecture: "CNN",
        description: "Pretrained on ImageNet",
        options: CNN,
        trainable: true,
        onnx: true,
    },
    Backbone {
        name: "efficientnet_b4",
        aliases: &["efficientnet-base", "google/efficientnet-b4"],
        task: Task::ImageToImage,
        output_dim: 1280,
        architecture: "CNN",
        description: "Pretrained on ImageNet",
        options: CNN,
        trainable: true,
        onnx: true,
    },
    Backbone {
        name: "openai/clip-vit-base-patch32",
        aliases: &["clip-base-en"],
        task: Task::TextToImage,
        output_dim: 768,
        architecture: "transformer",
        description: "Pretrained on millions of text image pairs by OpenAI",
        options: CLIP,
        trainable: true,
        onnx: true,
    },
    Backbone {
        name: "bert-base-cased",
        aliases: &["bert-base-en", "google-bert/bert-base-cased"],
        task: Task::TextToText,
        output_dim: 768,
        architecture: "transformer",
        description: "Pretrained on BookCorpus and English Wikipedia",
        options: TEXT,
        trainable: true,
        onnx: true,
    },
    Backbone {
        name: "sentence-transformers/msmarco-distilbert-base-v3",
        aliases: &["sbert-base-en"],
        task: Task::TextToText,
        output_dim: 768,
        architecture: "transformer",
        description: "Pretrained on Bert, fine-tuned on MS Marco",
        options: TEXT,
        trainable: true,
        onnx: true,
    },
    Backbone {
        name: "jina-embedding-t-en-v1",
        aliases: &["jinaai/jina-embedding-t-en-v1"],
        task: Task::TextToText,
        output_dim: 312,
        architecture: "transformer",
        description: "Text embedding model trained by Jina AI, tiny",
        options: TEXT,
        trainable: true,
        onnx: true,
    },
    Backbone {
        name: "jina-embedding-s-en-v1",
        aliases: &["jinaai/jina-embedding-s-en-v1"],
        task: Task::TextToText,
        output_dim: 512,
        architecture: "transformer",
        description: "Text embedding model trained by Jina AI, small",
        options: TEXT,
        trainable: true,
        onnx: true,
    },
    Backbone {
        name: "jina-embedding-b-en-v1",
        aliases: &["jinaai/jina-embedding-b-en-v1"],
        task: Task::TextToText,
        output_dim: 768,
        architecture: "transformer",
        description: "Text embedding model trained by Jina AI, base",
        options: TEXT,
        trainable: true,
        onnx: true,
    },
    Backbone {
        name: "jina-embedding-l-en-v1",
        aliases: &["jinaai/jina-embedding-l-en-v1"],
        task: Task::TextToText,
        output_dim: 1024,
        architecture: "transformer",
        description: "Text embedding model trained by Jina AI, large",
        options: TEXT,
        trainable: true,
        onnx: true,
    },
    Backbone {
        name: "bert-base-multi",
        aliases: &[
            "bert-base-multilingual-cased",
            "google-bert/bert-base-multilingual-cased",
        ],
        task: Task::TextToText,
        output_dim: 768,
        architecture: "transformer",
        description: "BERT pretrained on the Wikipedia of 104 languages",
        options: TEXT,
        trainable: true,
        onnx: true,
    },
    Backbone {
        name: "distiluse-base-multi",
        aliases: &["sentence-transformers/distiluse-base-multilingual-cased-v1"],
        task: Task::TextToText,
        output_dim: 512,
        architecture: "transformer",
        description: "Distilled sentence encoder for 15 languages",
        options: TEXT,
        trainable: true,
        onnx: true,
    },
    Backbone {
        name: "efficientnet-large",
        aliases: &["efficientnet_b7", "google/efficientnet-b7"],
        task: Task::ImageToImage,
        output_dim: 2560,
        architecture: "CNN",
        description: "EfficientNet B7 pretrained on ImageNet",
        options: CNN,
        trainable: true,
        onnx: true,
    },
    Backbone {
        name: "clip-large-en",
        aliases: &["openai/clip-vit-large-patch14"],
        task: Task::TextToImage,
        output_dim: 1024,
        architecture: "transformer",
        description: "CLIP with a large image tower by OpenAI",
        options: CLIP,
        trainable: true,
        onnx: true,
    },
    Backbone {
        name: "clip-base-multi",
        aliases: &[
            "xlm-roberta-base-ViT-B-32::laion5b_s13b_b90k",
            "laion/CLIP-ViT-B-32-xlm-roberta-base-laion5B-s13B-b90k",
        ],
        task: Task::TextToImage,
        output_dim: 512,
        architecture: "transformer",
        description: "Open CLIP pretrained on LAION-5B, 100 languages",
        options: CLIP,
        trainable: true,
        onnx: false,
    },
    Backbone {
        name: "pointnet-base",
        aliases: &["pointnet++"],
        task: Task::MeshToMesh,
        output_dim: 512,
        architecture: "pointnet",
        description: "PointNet++ for point clouds of meshes, not pretrained",
        options: POINTNET,
        trainable: true,
        onnx: false,
    },
    Backbone {
        name: "mlp",
        aliases: &[],
        task: Task::Any,
        output_dim: 128,
        architecture: "MLP",
        description: "Perceptron over features, not pretrained",
        options: MLP,
        trainable: true,
        onnx: true,
    },
    Backbone {
        name: "sentence-transformers/all-MiniLM-L6-v2",
        aliases: &["all-MiniLM-L6-v2"],
        task: Task::TextToText,
        output_dim: 384,
        architecture: "transformer",
        description: "MiniLM of six layers, fine-tuned on a billion pairs",
        options: TEXT,
        trainable: true,
        onnx: true,
    },
    Backbone {
        name: CLIP_SMALL,
        aliases: &[],
        task: Task::TextToImage,
        output_dim: 128,
        architecture: "transformer",
        description: "Pretrained on emoji drawings, ships with Finetuner",
        options: CLIP,
        trainable: true,
        onnx: true,
    },
    Backbone {
        name: MINILM_SMALL,
        aliases: &[],
        task: Task::TextToText,
        output_dim: 384,
        architecture: "transformer",
        description: "MiniLM of three layers, ships with Finetuner",
        options: TEXT,
        trainable: true,
        onnx: true,
    },
    Backbone {
        name: EFFICIENTNET_SMALL,
        aliases: &[],
        task: Task::ImageToImage,
        output_dim: 1280,
        architecture: "CNN",
        description: "EfficientNet-Lite0, ships with Finetuner",
        options: CNN,
        trainable: true,
        onnx: true,
    },
    Backbone {
        name: TWO_TOWERS_SMALL,
        aliases: &[],
        task: Task::TextToImage,
        output_dim: 256,
        architecture: "two towers",
        description: "minilm-small and efficientnet-small, ships with Finetuner",
        options: CLIP,
        trainable: true,
        onnx: true,
    },
    Backbone {
        name: "two-towers",
        aliases: &[],
        task: Task::TextToImage,
        output_dim: 512,
        architecture: "two towers",
        description: "A text model and an image model of your choice",
        options: TOWERS,
        trainable: true,
        onnx: true,
    },
];

/// Returns the backbone with this name or alias.
///
/// ```
/// use finetuner_protocol::find_backbone;
///
/// // By alias.
/// let clip = find_backbone("clip-base-en").map(|backbone| backbone.name);
/// assert_eq!(clip, Some("openai/clip-vit-base-patch32"));
/// ```
#[must_use]
pub fn find_backbone(name: &str) -> Option<&'static Backbone> {
    BACKBONES
        .iter()
        .find(|backbone| backbone.name == name || backbone.aliases.contains(&name))
}

/// Cross-encoders that the Python client names for data synthesis, with their names
/// on the hub.
const CROSS_ENCODERS: [(&str, &str); 2] = [
    (
        "crossencoder-base-en",
        "cross-encoder/ms-marco-MiniLM-L-6-v2",
    ),
    (
        "crossencoder-base-ml",
        "cross-encoder/mmarco-mMiniLMv2-L12-H384-v1",
    ),
];

/// Returns the hub name of a cross-encoder that the Python client names.
///
/// ```
/// use finetuner_protocol::cross_encoder_hub_name;
///
/// let name = cross_encoder_hub_name("crossencoder-base-en");
/// assert_eq!(name, Some("cross-encoder/ms-marco-MiniLM-L-6-v2"));
/// ```
#[must_use]
pub fn cross_encoder_hub_name(name: &str) -> Option<&'static str> {
    let found = CROSS_ENCODERS.iter().find(|(known, _)| *known == name);
    found.map(|(_, hub)| *hub)
}

/// Returns the task of a model in the list of backbones or of open_clip.
///
/// Any of the model's names is accepted, with or without `@revision`. Other models
/// state their task in their files.
///
/// ```
/// use finetuner_protocol::{Task, listed_task};
///
/// assert_eq!(listed_task("microsoft/resnet-50"), Some(Task::ImageToImage));
/// assert_eq!(listed_task("ViT-B-32::laion2b_e16"), Some(Task::TextToImage));
/// assert_eq!(listed_task("acme/my-resnet"), None);
/// ```
#[must_use]
pub fn listed_task(name: &str) -> Option<Task> {
    let name = name.split_once('@').map_or(name, |(plain, _)| plain);
    let mut backbones = BACKBONES.iter();
    let found = backbones.find(|backbone| {
        backbone.name == name || backbone.aliases.contains(&name) || backbone.hub_name() == name
    });
    match found {
        Some(backbone) => Some(backbone.task.clone()),
        None => open_clip::is_listed(name).then_some(Task::TextToImage),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_model_name_is_unique() {
        let mut names: Vec<&str> = BACKBONES
            .iter()
            .flat_map(|backbone| std::iter::once(backbone.name).chain(backbone.aliases.to_vec()))
            .collect();
        let all = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all);
        let clip = find_backbone("clip-base-en").unwrap();
        assert_eq!(clip.name, "openai/clip-vit-base-patch32");
        assert_eq!(
            find_backbone("clip-large-en").unwrap().hub_name(),
            "openai/clip-vit-large-patch14"
        );
    }
}
