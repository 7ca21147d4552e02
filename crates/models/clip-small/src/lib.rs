//! `clip-small`: a CLIP of 3.1 million parameters, pretrained on emoji drawings.
//!
//! The README of this crate is the model's card: its origin, licence, training
//! and limits. `finetuner-engine` reads the files when its feature
//! `clip-small` is on.

/// The name that `fit` takes.
pub const NAME: &str = "clip-small";

/// The model's files: path in the model's folder, and content.
pub const FILES: &[(&str, &[u8])] = &[
    ("config.json", include_bytes!("../files/config.json")),
    (
        "model.safetensors",
        include_bytes!("../files/model.safetensors"),
    ),
    (
        "preprocessor_config.json",
        include_bytes!("../files/preprocessor_config.json"),
    ),
    ("tokenizer.json", include_bytes!("../files/tokenizer.json")),
    (
        "tokenizer_config.json",
        include_bytes!("../files/tokenizer_config.json"),
    ),
];
