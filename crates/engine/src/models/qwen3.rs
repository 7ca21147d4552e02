//! Qwen3 (Yang et al. 2025, arXiv:2505.09388) as a text encoder:
//! Qwen3-Embedding. It is a decoder: each token attends only to itself and
//! earlier ones.
//!
//! Tensor names, shapes and behaviour follow `Qwen3Model` of Hugging Face's
//! `transformers` in evaluation.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;

use super::{
    Architecture, ModelKind, Network,
    encoder::{bad_config, check_sizes},
    llama::{Llama, check_causal, check_kv_heads, layers},
    rates::Rates,
    rope::{LayerType, Rope, check_head, check_scaling, layer_types},
    sizes::{Sizes, text_network},
};
use crate::{
    Result,
    ops::{Activation, AttentionConfig, BlockForm, NormKind, Pooler, Rotary},
    params::Params,
};

/// Default sizes.
const SIZES: Sizes = Sizes {
    vocab_size: 151_936,
    hidden_size: 4096,
    num_hidden_layers: 32,
    num_attention_heads: 32,
    intermediate_size: 22_016,
    max_position_embeddings: 32_768,
};

/// The fields of a `config.json`, with the defaults of `transformers`.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
struct File {
    num_key_value_heads: usize,
    head_dim: usize,
    hidden_act: Activation,
    rms_norm_eps: f32,
    attention_bias: bool,
    /// Whether attention is causal; only `true` is supported.
    is_causal: Option<bool>,
    use_sliding_window: bool,
    sliding_window: Option<usize>,
    /// The first layer with a sliding window, if the model uses one.
    max_window_layers: usize,
    layer_types: Option<Vec<LayerType>>,
    rope_parameters: Option<Rope>,
    rope_theta: f32,
    rope_scaling: Option<Value>,
}

impl Default for File {
    fn default() -> Self {
        Self {
            num_key_value_heads: 32,
            head_dim: 128,
            hidden_act: Activation::Silu,
            rms_norm_eps: 1e-6,
            attention_bias: false,
            is_causal: None,
            use_sliding_window: false,
            sliding_window: Some(4096),
            max_window_layers: 28,
            layer_types: None,
            rope_parameters: None,
            rope_theta: 10_000.0,
            rope_scaling: None,
        }
    }
}

#[derive(Debug)]
struct Qwen3 {
    sizes: Sizes,
    file: File,
    types: Vec<LayerType>,
    theta: f32,
    rates: Rates,
}

/// Parses a `config.json` of the type `qwen3`.
pub(super) fn parse(json: &Value) -> Result<Arc<dyn Architecture>> {
    let file = File::deserialize(json).map_err(bad_config)?;
    let sizes = SIZES.read(json)?;
    let (heads, kv_heads) = (sizes.num_attention_heads, file.num_key_value_heads);
    check_sizes(&[("num_key_value_heads", kv_heads)])?;
    check_kv_heads(heads, kv_heads)?;
    check_head(file.head_dim)?;
    check_causal(file.is_causal)?;
    check_scaling(file.rope_scaling.as_ref())?;
    let window = file.sliding_window.filter(|_| file.use_sliding_window);
    let listed = file.layer_types.as_deref();
    let types = layer_types(listed, sizes.num_hidden_layers, |layer| {
        match window.is_some() && layer >= file.max_window_layers {
            true => LayerType::Local,
            false => LayerType::Global,
        }
    })?;
    if types.contains(&LayerType::Local) && window.is_none_or(|window| window == 0) {
        return Err(bad_config(
            "`layer_types` contains `sliding_attention`, but `sliding_window` is missing or 0",
        ));
    }
    let rope = file.rope_parameters.clone().unwrap_or_default();
    let theta = rope.theta(file.rope_theta)?;
    Ok(Arc::new(Qwen3 {
        sizes,
        file,
        types,
        theta,
        rates: Rates::attention(json)?,
    }))
}

impl Qwen3 {
    fn llama(&self) -> Llama<'_> {
        let file = &self.file;
        let heads = self.sizes.num_attention_heads;
        Llama {
            sizes: &self.sizes,
            layers: layers(file.attention_bias, "post_attention_layernorm", None),
            form: BlockForm {
                width: self.sizes.hidden_size,
                hidden: self.sizes.intermediate_size,
                activation: file.hidden_act,
                norm: NormKind::Rms,
                eps: file.rms_norm_eps,
                norm_first: true,
                attention: AttentionConfig {
                    kv_heads: file.num_key_value_heads,
                    causal: true,
                    ..AttentionConfig::new(heads * file.head_dim, heads)
                },
                rates: self.rates.blocks,
            },
            scale: None,
            rates: self.rates,
        }
    }
}

impl Architecture for Qwen3 {
    text_network!(["model."], ["layers."]);

    fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        self.llama().tensors()
    }

    fn build(&self, params: &Params, pooler: Pooler) -> Result<Box<dyn Network>> {
        let rotary = Rotary::new(self.theta, self.file.head_dim);
        let types = &self.types;
        self.llama()
            .build(params, pooler, types, |kind, attention| {
                attention.rotary = Some(rotary.clone());
                // The window includes the token itself.
                let window = self.file.sliding_window;
                let window = window.filter(|_| kind == LayerType::Local);
                attention.reach = window.map(|window| window - 1);
            })
    }
}
