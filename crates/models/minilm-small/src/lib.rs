//! `minilm-small`: paraphrase-MiniLM-L3-v2, packed into four bits a value.
//!
//! The README of this crate is the model's card: its origin, licence, training
//! and limits. `finetuner-engine` reads the files when its feature
//! `minilm-small` is on.

/// The name that `fit` takes.
pub const NAME: &str = "minilm-small";

/// The model's files: path in the model's folder, and content.
pub const FILES: &[(&str, &[u8])] = &[
    ("config.json", include_bytes!("../files/config.json")),
    (
        "model.safetensors",
        include_bytes!("../files/model.safetensors"),
    ),
    ("modules.json", include_bytes!("../files/modules.json")),
    (
        "1_Pooling/config.json",
        include_bytes!("../files/1_Pooling/config.json"),
    ),
    (
        "sentence_bert_config.json",
        include_bytes!("../files/sentence_bert_config.json"),
    ),
    ("tokenizer.json", include_bytes!("../files/tokenizer.json")),
    (
        "tokenizer_config.json",
        include_bytes!("../files/tokenizer_config.json"),
    ),
];
