//! Text networks of `transformers` in open_clip models, such as the XLM-RoBERTa
//! in `xlm-roberta-base-ViT-B-32`.
//!
//! The checkpoint holds the network's weights, but only names a model on the
//! hub for its sizes.

use std::path::{Component, Path};

use serde_json::{Value, json};

use super::part::{Part, invalid_config};
use crate::Result;

/// The text tower of a two-tower `config.json`.
pub(super) struct TextNetwork {
    /// The network's own `config.json`.
    pub(super) config: Value,
    /// Pooling of the tokens.
    pub(super) pooler: &'static str,
    /// Width between the projection's two layers, if it has two.
    pub(super) hidden: Option<u64>,
    /// The longest text in tokens.
    pub(super) longest: u64,
}

/// Returns the `config.json` of a network that is known by name.
fn known(name: &str) -> Option<Value> {
    let roberta = |kind: &str, tokens: u64, width: u64, layers: u64| {
        json!({
            "model_type": kind,
            "vocab_size": tokens,
            "hidden_size": width,
            "intermediate_size": 4 * width,
            "num_hidden_layers": layers,
            "num_attention_heads": width / 64,
            "max_position_embeddings": 514,
            "type_vocab_size": 1,
            "layer_norm_eps": 1e-5,
            "pad_token_id": 1,
        })
    };
    match name.strip_prefix("FacebookAI/").unwrap_or(name) {
        "xlm-roberta-base" => Some(roberta("xlm-roberta", 250_002, 768, 12)),
        "xlm-roberta-large" => Some(roberta("xlm-roberta", 250_002, 1024, 24)),
        "roberta-base" => Some(roberta("roberta", 50_265, 768, 12)),
        _ => None,
    }
}

impl TextNetwork {
    /// Reads `text_cfg` if it names a model of `transformers`, and returns
    /// `None` otherwise. `read` reads a file of the model; `embedding` is the
    /// embedding dimension.
    pub(super) fn of(
        text: &Part<'_>,
        embedding: u64,
        read: &dyn Fn(&str) -> Result<Option<Value>>,
    ) -> Result<Option<Self>> {
        let Some(name) = text.get("hf_model_name") else {
            return Ok(None);
        };
        // These describe open_clip's own text tower and have no effect here.
        let own = ["width", "heads", "layers", "mlp_ratio", "vocab_size"];
        let mut fields = vec![
            "hf_model_name",
            "hf_tokenizer_name",
            "hf_pooler_type",
            "hf_proj_type",
            "hf_model_pretrained",
            "context_length",
            "output_tokens",
        ];
        fields.extend(own);
        text.refuse_others(&fields, &[])?;
        let unknown = || {
            invalid_config(format!(
                "`text_cfg.hf_model_name` is {name}, which is unknown; supported are \
                 xlm-roberta-base, xlm-roberta-large, roberta-base, and folders with a \
                 config.json next to this file"
            ))
        };
        let name = name.as_str().ok_or_else(unknown)?;
        let config = match known(name) {
            Some(config) => config,
            None => {
                let mut parts = Path::new(name).components();
                let inside = parts.all(|part| matches!(part, Component::Normal(_)));
                let file = format!("{name}/config.json");
                let found = if inside { read(&file)? } else { None };
                found.ok_or_else(unknown)?
            }
        };
        let choice = |field: &str, usual: &'static str| match text.fields.get(field) {
            None => usual,
            Some(value) => value.as_str().unwrap_or_default(),
        };
        let pooler = match choice("hf_pooler_type", "mean_pooler") {
            "mean_pooler" => "mean",
            "max_pooler" => "max",
            "cls_last_hidden_state_pooler" => "cls",
            "cls_pooler" => "pooler_output",
            other => {
                return Err(invalid_config(format!(
                    "`text_cfg.hf_pooler_type` is `{other}`; mean_pooler, max_pooler, cls_pooler \
                     and cls_last_hidden_state_pooler are supported"
                )));
            }
        };
        let width = config["hidden_size"].as_u64().unwrap_or(768);
        let hidden = match choice("hf_proj_type", "mlp") {
            "mlp" => Some((width + embedding) / 2),
            "linear" => None,
            other => {
                return Err(invalid_config(format!(
                    "`text_cfg.hf_proj_type` is `{other}`; mlp and linear are supported"
                )));
            }
        };
        Ok(Some(Self {
            config,
            pooler,
            hidden,
            longest: text.count("context_length", 77)?,
        }))
    }
}
