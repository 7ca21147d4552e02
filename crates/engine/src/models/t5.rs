//! The encoder of T5 (Raffel et al. 2020, arXiv:1910.10683), used by
//! sentence-t5, GTR and the first embedding models of Jina AI.
//!
//! Tensor names, shapes and behaviour follow `T5EncoderModel` of Hugging Face's
//! `transformers` in evaluation. A checkpoint's decoder is ignored.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;

use super::{
    Architecture, ModelKind, Network,
    encoder::{TextEncoder, bad_config, check_sizes, load_blocks},
    rates::{Rates, rate},
};
use crate::{
    Result,
    ops::{
        Activation, AttentionConfig, BlockForm, BlockLayers, BlockRates, LayerName, LayerNorm,
        NormKind, Pooler, PositionBias, Positions, TokenTables,
    },
    params::Params,
};

const TOKENS: &str = "shared.weight";
/// All blocks share the first block's position bias.
const BIAS: &str = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight";
const LAST_NORM: &str = "encoder.final_layer_norm";

/// The fields of a `config.json`, with the defaults of `transformers`.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
struct T5Config {
    vocab_size: usize,
    d_model: usize,
    /// Elements of an attention head.
    d_kv: usize,
    d_ff: usize,
    num_layers: usize,
    num_heads: usize,
    relative_attention_num_buckets: usize,
    relative_attention_max_distance: usize,
    layer_norm_epsilon: f32,
    feed_forward_proj: FeedForward,
    is_decoder: bool,
    /// Length of the training texts. T5 has no position table, so longer texts
    /// are possible.
    n_positions: usize,
    /// Dropout rates in training.
    #[serde(skip)]
    rates: Rates,
}

impl Default for T5Config {
    fn default() -> Self {
        Self {
            vocab_size: 32_128,
            d_model: 512,
            d_kv: 64,
            d_ff: 2048,
            num_layers: 6,
            num_heads: 8,
            relative_attention_num_buckets: 32,
            relative_attention_max_distance: 128,
            layer_norm_epsilon: 1e-6,
            feed_forward_proj: FeedForward {
                is_gated: false,
                activation: Activation::Relu,
            },
            is_decoder: false,
            n_positions: 512,
            rates: Rates::default(),
        }
    }
}

/// An activation, or `gated-` and an activation.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(try_from = "String")]
struct FeedForward {
    is_gated: bool,
    activation: Activation,
}

impl TryFrom<String> for FeedForward {
    type Error = String;

    fn try_from(name: String) -> std::result::Result<Self, String> {
        let gated = name.strip_prefix("gated-");
        let activation = match gated {
            // In T5 this name means the tanh approximation.
            Some("gelu") => Activation::GeluTanh,
            Some(gated) => gated.to_owned().try_into()?,
            None => name.clone().try_into()?,
        };
        Ok(Self {
            is_gated: gated.is_some(),
            activation,
        })
    }
}

/// The parts of `feed_forward_proj` as separate fields.
#[derive(Deserialize)]
struct FeedForwardParts {
    dense_act_fn: Option<Activation>,
    is_gated_act: Option<bool>,
}

/// Parses a `config.json` of the type `t5`.
pub(super) fn parse(json: &Value) -> Result<Arc<dyn Architecture>> {
    let mut config = T5Config::deserialize(json).map_err(bad_config)?;
    if config.is_decoder {
        return Err(bad_config(
            "`is_decoder` is true; only encoders with bidirectional attention are supported",
        ));
    }
    // `transformers` also writes the parts of `feed_forward_proj`, and they
    // win.
    let parts = FeedForwardParts::deserialize(json).map_err(bad_config)?;
    if let Some(activation) = parts.dense_act_fn {
        config.feed_forward_proj.activation = activation;
    }
    if let Some(is_gated) = parts.is_gated_act {
        config.feed_forward_proj.is_gated = is_gated;
    }
    check_sizes(&[
        ("vocab_size", config.vocab_size),
        ("d_model", config.d_model),
        ("d_kv", config.d_kv),
        ("d_ff", config.d_ff),
        ("num_heads", config.num_heads),
        ("n_positions", config.n_positions),
    ])?;
    let (buckets, distance) = (
        config.relative_attention_num_buckets,
        config.relative_attention_max_distance,
    );
    if buckets < 4 || distance <= buckets / 4 {
        return Err(bad_config(format!(
            "`relative_attention_num_buckets` is {buckets} and `relative_attention_max_distance` \
             {distance}; give at least 4 buckets and a distance above a quarter of the buckets"
        )));
    }
    let dropped = rate(json, &["dropout_rate"], 0.1)?;
    config.rates = Rates {
        embeddings: dropped,
        blocks: BlockRates {
            inner: dropped,
            ..BlockRates::new(dropped, dropped)
        },
        output: dropped,
    };
    Ok(Arc::new(config))
}

impl T5Config {
    fn form(&self) -> BlockForm {
        BlockForm {
            width: self.d_model,
            hidden: self.d_ff,
            activation: self.feed_forward_proj.activation,
            norm: NormKind::Rms,
            eps: self.layer_norm_epsilon,
            norm_first: true,
            attention: AttentionConfig {
                // T5 does not scale attention scores: its initial weights
                // account for that.
                scale: 1.0,
                ..AttentionConfig::new(self.num_heads * self.d_kv, self.num_heads)
            },
            rates: self.rates.blocks,
        }
    }

    fn layers(&self) -> BlockLayers {
        let name = |name| LayerName::new(name).with_bias(false);
        let (fc1, gate) = if self.feed_forward_proj.is_gated {
            let gate = name("layer.1.DenseReluDense.wi_1");
            (name("layer.1.DenseReluDense.wi_0"), Some(gate))
        } else {
            (name("layer.1.DenseReluDense.wi"), None)
        };
        BlockLayers {
            norm1: Some("layer.0.layer_norm"),
            query: name("layer.0.SelfAttention.q"),
            key: name("layer.0.SelfAttention.k"),
            value: name("layer.0.SelfAttention.v"),
            out: name("layer.0.SelfAttention.o"),
            head_norms: None,
            norm2: "layer.1.layer_norm",
            fc1,
            gate,
            fc2: name("layer.1.DenseReluDense.wo"),
            finish: None,
        }
    }

    fn bias_shape(&self) -> [usize; 2] {
        [self.relative_attention_num_buckets, self.num_heads]
    }
}

impl Architecture for T5Config {
    fn kind(&self) -> ModelKind {
        ModelKind::Text
    }

    fn dim(&self) -> usize {
        self.d_model
    }

    fn family(&self) -> &'static str {
        "transformer"
    }

    fn max_tokens(&self) -> Option<usize> {
        Some(self.n_positions)
    }

    fn vocab_size(&self) -> Option<usize> {
        Some(self.vocab_size)
    }

    fn aliases(&self) -> &'static [(&'static str, &'static str)] {
        &[("encoder.embed_tokens.weight", TOKENS)]
    }

    fn has_dropout(&self) -> bool {
        self.rates.any()
    }

    fn layer_prefixes(&self) -> &'static [&'static str] {
        &["encoder.block."]
    }

    fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let mut all = vec![
            (TOKENS.to_owned(), vec![self.vocab_size, self.d_model]),
            (BIAS.to_owned(), self.bias_shape().to_vec()),
        ];
        let (layers, form) = (self.layers(), self.form());
        for layer in 0..self.num_layers {
            all.extend(layers.tensors(&format!("encoder.block.{layer}"), &form));
        }
        all.extend(NormKind::Rms.tensors(LAST_NORM, self.d_model));
        all
    }

    fn build(&self, params: &Params, pooler: Pooler) -> Result<Box<dyn Network>> {
        let (width, eps) = (self.d_model, self.layer_norm_epsilon);
        let mut form = self.form();
        form.attention.bias = Some(PositionBias::Buckets {
            table: params.get(BIAS, &self.bias_shape())?,
            max_distance: self.relative_attention_max_distance,
        });
        let last_norm = LayerNorm::load_kind(params, LAST_NORM, width, eps, NormKind::Rms)?;
        let count = self.num_layers;
        Ok(Box::new(TextEncoder {
            tables: TokenTables {
                token: params.get(TOKENS, &[self.vocab_size, width])?,
                position: Positions::None {
                    longest: self.n_positions,
                },
                kind: None,
            },
            scale: None,
            first_norm: None,
            blocks: load_blocks(params, &self.layers(), "encoder.block", count, &form)?,
            last_norm: Some(last_norm),
            pooler,
            rates: self.rates,
        }))
    }
}
