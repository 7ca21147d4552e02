//! Options of the known backbones: names, kinds of values and defaults.

/// An option of a backbone, for `model_options` of a run.
///
/// ```
/// for backbone in finetuner_protocol::BACKBONES.iter() {
///     for option in backbone.options {
///         println!("{}: {}", backbone.name, option.name);
///     }
/// }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ModelOption {
    /// Name of the option.
    pub name: &'static str,
    /// Kind of value.
    pub kind: &'static str,
    /// Default value as JSON; `None` if the option is required.
    pub default: Option<&'static str>,
}

const fn option(name: &'static str, kind: &'static str, default: &'static str) -> ModelOption {
    ModelOption {
        name,
        kind,
        default: Some(default),
    }
}

const SEED: ModelOption = option("seed", "whole number", "0");
const AUGMENTATION: ModelOption = option("augmentation", "none or light", "\"none\"");
const DROPOUT: ModelOption = option("dropout", "true or false", "false");
const PRECISION: ModelOption = option("precision", "float32 or bfloat16", "\"float32\"");
const LORA: ModelOption = option("lora", "object", "null");
const COLLATE: ModelOption = option("collate_options", "object", "{}");
pub(crate) const TEXT: &[ModelOption] = &[
    COLLATE,
    option(
        "pooler",
        "mean, max, cls, mean_sqrt_len_tokens, weightedmean, lasttoken or GeM",
        "\"mean\"",
    ),
    option("pooler_options", "object", "{}"),
    SEED,
    DROPOUT,
    PRECISION,
    LORA,
];
pub(crate) const CNN: &[ModelOption] = &[
    option("pooler", "null or GeM", "null"),
    option("pooler_options", "object", "{}"),
    SEED,
    AUGMENTATION,
    DROPOUT,
    PRECISION,
];
pub(crate) const CLIP: &[ModelOption] = &[COLLATE, SEED, AUGMENTATION, DROPOUT, PRECISION, LORA];
pub(crate) const TOWERS: &[ModelOption] = &[
    ModelOption {
        name: "text_model",
        kind: "name of a text model",
        default: None,
    },
    ModelOption {
        name: "image_model",
        kind: "name of an image model",
        default: None,
    },
    COLLATE,
    SEED,
    AUGMENTATION,
    DROPOUT,
    PRECISION,
    LORA,
];
pub(crate) const MLP: &[ModelOption] = &[
    ModelOption {
        name: "input_size",
        kind: "whole number",
        default: None,
    },
    option("hidden_sizes", "list of whole numbers", "[]"),
    option("bias", "true or false", "true"),
    option("activation", "null, relu, tanh or sigmoid", "null"),
    option("l2", "true or false", "false"),
    SEED,
    PRECISION,
];
pub(crate) const POINTNET: &[ModelOption] = &[
    option("hidden_dim", "whole number", "1024"),
    option("embed_dim", "whole number", "512"),
    option("input_shape", "bnc or bcn", "\"bnc\""),
    option("dropout_rate", "number", "0.1"),
    SEED,
    AUGMENTATION,
    option("dropout", "true or false", "true"),
    PRECISION,
];
