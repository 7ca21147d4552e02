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
    encoder::{TextEncoder, bad_config, check_sizes},
    rates::Rates,
    rope::{LayerType, Ropes, check_head, check_scaling, layer_types},
    sizes::{Sizes, text_network},
};
use crate::{
    Result,
    ops::{
        Activation, AttentionConfig, BlockForm, BlockLayers, FinishNames, LayerName, LayerNorm,
        NormKind, Pooler, Positions, Rotary, TokenTables,
    },
    params::Params,
};

const TOKENS: &str = "embed_tokens.weight";
const LAST_NORM: &str = "norm";
const NORM: NormKind = NormKind::RmsPlusOne;

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
    if !heads.is_multiple_of(kv_heads) {
        return Err(bad_config(format!(
            "`num_attention_heads` is {heads}, not a multiple of `num_key_value_heads`, {kv_heads}"
        )));
    }
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

    fn form(&self) -> BlockForm {
        let file = &self.file;
        let heads = self.sizes.num_attention_heads;
        BlockForm {
            width: self.sizes.hidden_size,
            hidden: self.sizes.intermediate_size,
            activation: file.hidden_activation,
            norm: NORM,
            eps: file.rms_norm_eps,
            norm_first: true,
            attention: AttentionConfig {
                kv_heads: file.num_key_value_heads,
                scale: 1.0 / file.query_pre_attn_scalar.sqrt(),
                causal: !self.is_bidirectional(),
                ..AttentionConfig::new(heads * file.head_dim, heads)
            },
            rates: self.rates.blocks,
        }
    }

    fn layers(&self) -> BlockLayers {
        let attention = |name| LayerName::new(name).with_bias(self.file.attention_bias);
        let mlp = |name| LayerName::new(name).with_bias(false);
        BlockLayers {
            norm1: Some("input_layernorm"),
            query: attention("self_attn.q_proj"),
            key: attention("self_attn.k_proj"),
            value: attention("self_attn.v_proj"),
            out: attention("self_attn.o_proj"),
            head_norms: Some(["self_attn.q_norm", "self_attn.k_norm"]),
            norm2: "pre_feedforward_layernorm",
            fc1: mlp("mlp.gate_proj"),
            gate: Some(mlp("mlp.up_proj")),
            fc2: mlp("mlp.down_proj"),
            finish: Some(FinishNames::Norms([
                "post_attention_layernorm",
                "post_feedforward_layernorm",
            ])),
        }
    }
}

impl Architecture for Gemma3 {
    text_network!();

    fn prefixes(&self) -> &'static [&'static str] {
        &["model."]
    }

    fn has_dropout(&self) -> bool {
        self.rates.any()
    }

    fn layer_prefixes(&self) -> &'static [&'static str] {
        &["layers."]
    }

    fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let width = self.sizes.hidden_size;
        let mut all = vec![(TOKENS.to_owned(), vec![self.sizes.vocab_size, width])];
        let (layers, form) = (self.layers(), self.form());
        for layer in 0..self.sizes.num_hidden_layers {
            all.extend(layers.tensors(&format!("layers.{layer}"), &form));
        }
        all.extend(NORM.tensors(LAST_NORM, width));
        all
    }

    fn build(&self, params: &Params, pooler: Pooler) -> Result<Box<dyn Network>> {
        let (file, width) = (&self.file, self.sizes.hidden_size);
        let longest = self.sizes.max_position_embeddings;
        let rotary = self.thetas.map(|theta| Rotary::new(theta, file.head_dim));
        let block = |(layer, kind): (usize, &LayerType)| {
            let mut form = self.form();
            let local = *kind == LayerType::Local;
            form.attention.rotary = Some(rotary[usize::from(local)].clone());
            form.attention.reach = local.then(|| self.reach());
            self.layers()
                .load(params, &format!("layers.{layer}"), &form)
        };
        let last_norm = LayerNorm::load_kind(params, LAST_NORM, width, file.rms_norm_eps, NORM)?;
        Ok(Box::new(TextEncoder {
            tables: TokenTables {
                token: params.get(TOKENS, &[self.sizes.vocab_size, width])?,
                position: Positions::None { longest },
                kind: None,
            },
            scale: Some((width as f64).sqrt()),
            first_norm: None,
            blocks: self
                .types
                .iter()
                .enumerate()
                .map(block)
                .collect::<Result<_>>()?,
            last_norm: Some(last_norm),
            pooler,
            rates: self.rates,
        }))
    }
}
