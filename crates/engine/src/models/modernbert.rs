//! ModernBERT (Warner et al. 2024, arXiv:2412.13663): rotary embeddings, local
//! attention in most layers, gated MLPs and no biases. Embedding models of
//! Nomic, GTE and Granite are based on it.
//!
//! Tensor names, shapes and behaviour follow `ModernBertModel` of Hugging
//! Face's `transformers` in evaluation.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;

use super::{
    Architecture, ModelKind, Network,
    classifier_head::{ClassifierHead, HeadActivation, HeadLayer},
    encoder::{TextEncoder, bad_config, check_heads, check_sizes},
    rates::{Rates, rate},
    rope::{LayerType, Ropes, check_head, check_scaling, layer_types},
    sizes::{Sizes, text_network},
};
use crate::{
    Result,
    modules::Activation,
    ops::{
        Activation as BlockActivation, AttentionConfig, BlockForm, BlockLayers, BlockRates,
        LayerName, LayerNorm, NormKind, Pooler, Positions, Rotary, TokenTables,
    },
    params::Params,
};

const TOKENS: &str = "embeddings.tok_embeddings.weight";
const FIRST_NORM: &str = "embeddings.norm";
const LAST_NORM: &str = "final_norm";

/// Default sizes.
const SIZES: Sizes = Sizes {
    vocab_size: 50_368,
    hidden_size: 768,
    num_hidden_layers: 22,
    num_attention_heads: 12,
    intermediate_size: 1152,
    max_position_embeddings: 8192,
};

/// The fields of a `config.json`, with the defaults of `transformers`.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
struct File {
    hidden_activation: BlockActivation,
    norm_eps: f32,
    norm_bias: bool,
    attention_bias: bool,
    mlp_bias: bool,
    /// Window of a local layer in tokens, half of it on each side.
    local_attention: usize,
    /// Half of `local_attention`, which it overrides.
    sliding_window: Option<usize>,
    /// The type of each layer; written by newer versions.
    layer_types: Option<Vec<LayerType>>,
    /// Written by older versions.
    global_attn_every_n_layers: usize,
    rope_parameters: Option<Ropes>,
    global_rope_theta: f32,
    local_rope_theta: Option<f32>,
    rope_scaling: Option<Value>,
    classifier_pooling: ClassifierPooling,
    classifier_bias: bool,
    classifier_activation: HeadActivation,
}

/// The pooling of a sequence classifier.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum ClassifierPooling {
    Cls,
    Mean,
}

impl Default for File {
    fn default() -> Self {
        Self {
            hidden_activation: BlockActivation::Gelu,
            norm_eps: 1e-5,
            norm_bias: false,
            attention_bias: false,
            mlp_bias: false,
            local_attention: 128,
            sliding_window: None,
            layer_types: None,
            global_attn_every_n_layers: 3,
            rope_parameters: None,
            global_rope_theta: 160_000.0,
            local_rope_theta: Some(10_000.0),
            rope_scaling: None,
            classifier_pooling: ClassifierPooling::Cls,
            classifier_bias: false,
            classifier_activation: HeadActivation(Activation::Gelu),
        }
    }
}

#[derive(Debug)]
struct ModernBert {
    sizes: Sizes,
    file: File,
    /// The type of each layer.
    types: Vec<LayerType>,
    /// Base frequencies of the rotary embeddings of global and local layers.
    thetas: [f32; 2],
    rates: Rates,
}

/// Parses a `config.json` of the type `modernbert`.
pub(super) fn parse(json: &Value) -> Result<Arc<dyn Architecture>> {
    let mut file = File::deserialize(json).map_err(bad_config)?;
    let sizes = SIZES.read(json)?;
    if let Some(half) = file.sliding_window {
        file.local_attention = half.saturating_mul(2);
    }
    check_heads("hidden_size", sizes.hidden_size, sizes.num_attention_heads)?;
    check_sizes(&[(
        "global_attn_every_n_layers",
        file.global_attn_every_n_layers,
    )])?;
    check_head(sizes.hidden_size / sizes.num_attention_heads)?;
    check_scaling(file.rope_scaling.as_ref())?;
    let types = layer_types(
        file.layer_types.as_deref(),
        sizes.num_hidden_layers,
        |layer| match layer.is_multiple_of(file.global_attn_every_n_layers) {
            true => LayerType::Global,
            false => LayerType::Local,
        },
    )?;
    let local = file.local_rope_theta.unwrap_or(file.global_rope_theta);
    let ropes = file.rope_parameters.clone().unwrap_or_default();
    let thetas = ropes.thetas(file.global_rope_theta, local)?;
    let attention = rate(json, &["attention_dropout"], 0.0)?;
    Ok(Arc::new(ModernBert {
        sizes,
        file,
        types,
        thetas,
        rates: Rates {
            embeddings: rate(json, &["embedding_dropout"], 0.0)?,
            blocks: BlockRates {
                attention,
                halves: [attention, 0.0],
                inner: rate(json, &["mlp_dropout"], 0.0)?,
                path: 0.0,
            },
            output: 0.0,
        },
    }))
}

impl ModernBert {
    fn norm(&self) -> NormKind {
        match self.file.norm_bias {
            true => NormKind::Layer,
            false => NormKind::LayerWithoutBias,
        }
    }

    fn form(&self) -> BlockForm {
        let file = &self.file;
        BlockForm {
            width: self.sizes.hidden_size,
            hidden: self.sizes.intermediate_size,
            activation: file.hidden_activation,
            norm: self.norm(),
            eps: file.norm_eps,
            norm_first: true,
            attention: AttentionConfig::new(self.sizes.hidden_size, self.sizes.num_attention_heads),
            rates: self.rates.blocks,
        }
    }

    /// The norm after the embeddings also serves as the first layer's attention
    /// norm.
    fn layers(&self, layer: usize) -> BlockLayers {
        let qkv = LayerName::new("attn.Wqkv").with_bias(self.file.attention_bias);
        let wi = LayerName::new("mlp.Wi").with_bias(self.file.mlp_bias);
        BlockLayers {
            norm1: (layer > 0).then_some("attn_norm"),
            query: qkv.part(0, 3),
            key: qkv.part(1, 3),
            value: qkv.part(2, 3),
            out: LayerName::new("attn.Wo").with_bias(self.file.attention_bias),
            head_norms: None,
            norm2: "mlp_norm",
            fc1: wi.part(0, 2),
            gate: Some(wi.part(1, 2)),
            fc2: LayerName::new("mlp.Wo").with_bias(self.file.mlp_bias),
            finish: None,
        }
    }
}

impl Architecture for ModernBert {
    text_network!(["model."], ["layers."]);

    fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let width = self.sizes.hidden_size;
        let mut all = vec![(TOKENS.to_owned(), vec![self.sizes.vocab_size, width])];
        all.extend(self.norm().tensors(FIRST_NORM, width));
        let form = self.form();
        for layer in 0..self.sizes.num_hidden_layers {
            let name = format!("layers.{layer}");
            all.extend(self.layers(layer).tensors(&name, &form));
        }
        all.extend(self.norm().tensors(LAST_NORM, width));
        all
    }

    fn classifier(&self) -> Option<ClassifierHead> {
        let file = &self.file;
        let pooler = match file.classifier_pooling {
            ClassifierPooling::Cls => Pooler::Cls,
            ClassifierPooling::Mean => Pooler::Mean,
        };
        Some(ClassifierHead {
            prefix: "model.",
            pooler,
            layers: vec![
                HeadLayer::Dense {
                    name: "head.dense",
                    bias: file.classifier_bias,
                    activation: file.classifier_activation.0,
                },
                HeadLayer::Norm {
                    name: "head.norm",
                    kind: self.norm(),
                    eps: file.norm_eps,
                },
                HeadLayer::scores("classifier"),
            ],
        })
    }

    fn build(&self, params: &Params, pooler: Pooler) -> Result<Box<dyn Network>> {
        let file = &self.file;
        let width = self.sizes.hidden_size;
        let longest = self.sizes.max_position_embeddings;
        let norm = |name: &str| {
            LayerNorm::load_kind(params, name, width, file.norm_eps, self.norm()).map(Some)
        };
        let head = width / self.sizes.num_attention_heads;
        let rotary = self.thetas.map(|theta| Rotary::new(theta, head));
        let block = |(layer, kind): (usize, &LayerType)| {
            let mut form = self.form();
            let local = *kind == LayerType::Local;
            form.attention.rotary = Some(rotary[usize::from(local)].clone());
            form.attention.reach = local.then_some(file.local_attention / 2);
            let name = format!("layers.{layer}");
            self.layers(layer).load(params, &name, &form)
        };
        Ok(Box::new(TextEncoder {
            tables: TokenTables {
                token: params.get(TOKENS, &[self.sizes.vocab_size, width])?,
                position: Positions::None { longest },
                kind: None,
            },
            scale: None,
            first_norm: norm(FIRST_NORM)?,
            blocks: self
                .types
                .iter()
                .enumerate()
                .map(block)
                .collect::<Result<_>>()?,
            last_norm: norm(LAST_NORM)?,
            pooler,
            rates: self.rates,
        }))
    }
}
