//! The text network of Gemma 3 (Gemma Team 2025, arXiv:2503.19786), on which
//! EmbeddingGemma is based. With `use_bidirectional_attention` tokens attend in
//! both directions.
//!
//! Tensor names, shapes and behaviour follow `Gemma3TextModel` of Hugging
//! Face's `transformers` in evaluation.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;

use super::{
    Architecture, ModelKind, Network,
    encoder::{bad_config, check_sizes},
    llama::{Llama, check_causal, check_kv_heads, layers},
    rates::Rates,
    rope::{LayerType, Ropes, check_head, check_scaling, layer_types},
    sizes::{Sizes, text_network},
};
use crate::{
    Result,
    ops::{Activation, AttentionConfig, BlockForm, FinishNames, NormKind, Pooler, Rotary},
    params::Params,
};

/// Default sizes.
const SIZES: Sizes = Sizes {
    vocab_size: 262_208,
    hidden_size: 2304,
    num_hidden_layers: 26,
    num_attention_heads: 8,
    intermediate_size: 9216,
    max_position_embeddings: 131_072,
};

/// The fields of a `config.json`, with the defaults of `transformers`.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
struct File {
    num_key_value_heads: usize,
    head_dim: usize,
    hidden_activation: Activation,
    rms_norm_eps: f32,
    attention_bias: bool,
    /// Attention scores are divided by the square root of this.
    query_pre_attn_scalar: f32,
    sliding_window: usize,
    layer_types: Option<Vec<LayerType>>,
    /// Written by older versions: every n-th layer is global.
    #[serde(alias = "_sliding_window_pattern")]
    sliding_window_pattern: usize,
    use_bidirectional_attention: Option<bool>,
    is_causal: Option<bool>,
    attn_logit_softcapping: Option<f32>,
    rope_parameters: Option<Ropes>,
    rope_theta: f32,
    rope_local_base_freq: f32,
    rope_scaling: Option<Value>,
}

impl Default for File {
    fn default() -> Self {
        Self {
            num_key_value_heads: 4,
            head_dim: 256,
            hidden_activation: Activation::GeluTanh,
            rms_norm_eps: 1e-6,
            attention_bias: false,
            query_pre_attn_scalar: 256.0,
            sliding_window: 4096,
            layer_types: None,
            sliding_window_pattern: 6,
            use_bidirectional_attention: None,
            is_causal: None,
            attn_logit_softcapping: None,
            rope_parameters: None,
            rope_theta: 1_000_000.0,
            rope_local_base_freq: 10_000.0,
            rope_scaling: None,
        }
    }
}

#[derive(Debug)]
struct Gemma3 {
    sizes: Sizes,
    file: File,
    types: Vec<LayerType>,
    /// Base frequencies of the rotary embeddings of global and local layers.
    thetas: [f32; 2],
    rates: Rates,
}

/// Parses a `config.json` of the type `gemma3_text`.
pub(super) fn parse(json: &Value) -> Result<Arc<dyn Architecture>> {
    let file = File::deserialize(json).map_err(bad_config)?;
    let sizes = SIZES.read(json)?;
    let (heads, kv_heads) = (sizes.num_attention_heads, file.num_key_value_heads);
    check_sizes(&[
        ("num_key_value_heads", kv_heads),
        ("sliding_window", file.sliding_window),
        ("sliding_window_pattern", file.sliding_window_pattern),
    ])?;
    check_kv_heads(heads, kv_heads)?;
    if file.query_pre_attn_scalar.is_nan() || file.query_pre_attn_scalar <= 0.0 {
        return Err(bad_config(format!(
            "`query_pre_attn_scalar` is {}; it must be above 0",
            file.query_pre_attn_scalar
        )));
    }
    if let Some(cap) = file.attn_logit_softcapping {
        return Err(bad_config(format!(
            "`attn_logit_softcapping` is {cap}; only models without it are supported"
        )));
    }
    check_head(file.head_dim)?;
    if file.use_bidirectional_attention != Some(true) {
        check_causal(file.is_causal)?;
    }
    check_scaling(file.rope_scaling.as_ref())?;
    let listed = file.layer_types.as_deref();
    let types = layer_types(listed, sizes.num_hidden_layers, |layer| {
        match (layer + 1).is_multiple_of(file.sliding_window_pattern) {
            true => LayerType::Global,
            false => LayerType::Local,
        }
    })?;
    let ropes = file.rope_parameters.clone().unwrap_or_default();
    let thetas = ropes.thetas(file.rope_theta, file.rope_local_base_freq)?;
    Ok(Arc::new(Gemma3 {
        sizes,
        file,
        types,
        thetas,
        rates: Rates::attention(json)?,
    }))
}

impl Gemma3 {
    fn is_bidirectional(&self) -> bool {
        self.file.use_bidirectional_attention == Some(true)
    }

    /// Returns how many tokens away a local layer attends. The window includes
    /// the token itself; in bidirectional models half of it lies on each side.
    fn reach(&self) -> usize {
        let window = self.file.sliding_window;
        match self.is_bidirectional() {
            true => window / 2,
            false => window - 1,
        }
    }

    fn llama(&self) -> Llama<'_> {
        let file = &self.file;
        let (width, heads) = (self.sizes.hidden_size, self.sizes.num_attention_heads);
        let finish = FinishNames::Norms(["post_attention_layernorm", "post_feedforward_layernorm"]);
        Llama {
            sizes: &self.sizes,
            layers: layers(
                file.attention_bias,
                "pre_feedforward_layernorm",
                Some(finish),
            ),
            form: BlockForm {
                width,
                hidden: self.sizes.intermediate_size,
                activation: file.hidden_activation,
                norm: NormKind::RmsPlusOne,
                eps: file.rms_norm_eps,
                norm_first: true,
                attention: AttentionConfig {
                    kv_heads: file.num_key_value_heads,
                    scale: 1.0 / file.query_pre_attn_scalar.sqrt(),
                    causal: !self.is_bidirectional(),
                    ..AttentionConfig::new(heads * file.head_dim, heads)
                },
                rates: self.rates.blocks,
            },
            scale: Some((width as f64).sqrt()),
            rates: self.rates,
        }
    }
}

impl Architecture for Gemma3 {
    text_network!(["model."], ["layers."]);

    fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        self.llama().tensors()
    }

    fn build(&self, params: &Params, pooler: Pooler) -> Result<Box<dyn Network>> {
        let head = self.file.head_dim;
        let rotary = self.thetas.map(|theta| Rotary::new(theta, head));
        let types = &self.types;
        self.llama()
            .build(params, pooler, types, |kind, attention| {
                let local = kind == LayerType::Local;
                attention.rotary = Some(rotary[usize::from(local)].clone());
                attention.reach = local.then(|| self.reach());
            })
    }
}
