//! The BERT variant of jina-embeddings-v2 (Günther et al. 2023,
//! arXiv:2310.19923): ALiBi position biases in the attention, and gated MLPs.
//! Its `config.json` has the type `bert` and the `position_embedding_type`
//! `alibi`.
//!
//! Tensor names, shapes and behaviour follow the code that Jina AI publishes
//! with the models.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;

use super::{
    Architecture, ModelKind, Network,
    encoder::{TextEncoder, bad_config, check_heads, check_sizes, load_blocks},
    rates::Rates,
    sizes::{Sizes, text_network},
};
use crate::{
    Result,
    ops::{
        Activation, AttentionConfig, BlockForm, BlockLayers, LayerName, LayerNorm, NormKind,
        Pooler, PositionBias, Positions, TokenTables,
    },
    params::Params,
};

/// Default sizes.
const SIZES: Sizes = Sizes {
    vocab_size: 30_522,
    hidden_size: 768,
    num_hidden_layers: 12,
    num_attention_heads: 12,
    intermediate_size: 3072,
    max_position_embeddings: 512,
};

/// The fields of a `config.json`, with the defaults of the published code.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
struct AlibiConfig {
    type_vocab_size: usize,
    layer_norm_eps: f32,
    feed_forward_type: String,
}

impl Default for AlibiConfig {
    fn default() -> Self {
        Self {
            type_vocab_size: 2,
            layer_norm_eps: 1e-12,
            feed_forward_type: "original".to_owned(),
        }
    }
}

#[derive(Debug)]
struct AlibiBert {
    sizes: Sizes,
    config: AlibiConfig,
    activation: Activation,
    rates: Rates,
}

/// Parses a `config.json` of the type `bert` with ALiBi.
pub(super) fn parse(json: &Value) -> Result<Arc<dyn Architecture>> {
    let config = AlibiConfig::deserialize(json).map_err(bad_config)?;
    let sizes = SIZES.read(json)?;
    check_heads("hidden_size", sizes.hidden_size, sizes.num_attention_heads)?;
    check_sizes(&[("type_vocab_size", config.type_vocab_size)])?;
    let activation = match config.feed_forward_type.as_str() {
        "geglu" => Activation::Gelu,
        "reglu" => Activation::Relu,
        other => {
            return Err(bad_config(format!(
                "`feed_forward_type` is `{other}`; with ALiBi `geglu` and `reglu` are known"
            )));
        }
    };
    let mut rates = Rates::bert(json, 0.1)?;
    // The published code applies dropout inside the MLP and none after it.
    let [_, hidden] = rates.blocks.halves;
    rates.blocks.halves[1] = 0.0;
    rates.blocks.inner = hidden;
    Ok(Arc::new(AlibiBert {
        sizes,
        config,
        activation,
        rates,
    }))
}

const LAYERS: BlockLayers = BlockLayers {
    norm1: Some("attention.output.LayerNorm"),
    query: LayerName::new("attention.self.query"),
    key: LayerName::new("attention.self.key"),
    value: LayerName::new("attention.self.value"),
    out: LayerName::new("attention.output.dense"),
    head_norms: None,
    norm2: "mlp.layernorm",
    fc1: LayerName::new("mlp.gated_layers")
        .with_bias(false)
        .part(0, 2),
    gate: Some(
        LayerName::new("mlp.gated_layers")
            .with_bias(false)
            .part(1, 2),
    ),
    fc2: LayerName::new("mlp.wo"),
    finish: None,
};

impl AlibiBert {
    fn form(&self) -> BlockForm {
        let (width, heads) = (self.sizes.hidden_size, self.sizes.num_attention_heads);
        BlockForm {
            width,
            hidden: self.sizes.intermediate_size,
            activation: self.activation,
            norm: NormKind::Layer,
            eps: self.config.layer_norm_eps,
            norm_first: false,
            attention: AttentionConfig {
                bias: Some(PositionBias::alibi(heads)),
                ..AttentionConfig::new(width, heads)
            },
            rates: self.rates.blocks,
        }
    }
}

impl Architecture for AlibiBert {
    text_network!(["bert."], ["encoder.layer."]);

    fn pooler_output(&self) -> Option<(Pooler, Option<&'static str>)> {
        Some((Pooler::Cls, Some("pooler.dense")))
    }

    /// The pooler's layer, which embeddings don't use.
    fn keeps(&self, name: &str) -> bool {
        name.starts_with("pooler.dense.")
    }

    fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let width = self.sizes.hidden_size;
        let table = |name: &str, rows| (format!("embeddings.{name}.weight"), vec![rows, width]);
        let mut all = vec![
            table("word_embeddings", self.sizes.vocab_size),
            table("token_type_embeddings", self.config.type_vocab_size),
        ];
        all.extend(NormKind::Layer.tensors("embeddings.LayerNorm", width));
        let form = self.form();
        for layer in 0..self.sizes.num_hidden_layers {
            all.extend(LAYERS.tensors(&format!("encoder.layer.{layer}"), &form));
        }
        all
    }

    fn build(&self, params: &Params, pooler: Pooler) -> Result<Box<dyn Network>> {
        let config = &self.config;
        let (width, eps) = (self.sizes.hidden_size, config.layer_norm_eps);
        let table =
            |name: &str, rows| params.get(&format!("embeddings.{name}.weight"), &[rows, width]);
        let (count, form) = (self.sizes.num_hidden_layers, self.form());
        Ok(Box::new(TextEncoder {
            tables: TokenTables {
                token: table("word_embeddings", self.sizes.vocab_size)?,
                position: Positions::None {
                    longest: self.sizes.max_position_embeddings,
                },
                kind: Some(table("token_type_embeddings", config.type_vocab_size)?),
            },
            scale: None,
            first_norm: Some(LayerNorm::load(params, "embeddings.LayerNorm", width, eps)?),
            blocks: load_blocks(params, &LAYERS, "encoder.layer", count, &form)?,
            last_norm: None,
            pooler,
            rates: self.rates,
        }))
    }
}
