//! `two-towers-small`: the projections that put the texts of `minilm-small` and
//! the images of `efficientnet-small` into one space. The towers are in the
//! crates of these models.
//!
//! The README of this crate is the model's card: its origin, licence, training
//! and limits. `finetuner-engine` reads the files when its feature
//! `two-towers-small` is on.

/// The name that `fit` takes.
pub const NAME: &str = "two-towers-small";

/// The model's files: path in the model's folder, and content.
pub const FILES: &[(&str, &[u8])] = &[
    ("config.json", include_bytes!("../files/config.json")),
    (
        "model.safetensors",
        include_bytes!("../files/model.safetensors"),
    ),
];
