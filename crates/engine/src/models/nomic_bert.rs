//! NomicBERT (Nussbaum et al. 2024, arXiv:2402.01613): a BERT with rotary
//! embeddings and gated MLPs, the network of nomic-embed-text.
//!
//! Tensor names are those of its checkpoints, which `transformers` also reads
//! and writes. The behaviour follows the `NomicBertModel` of `transformers` in
//! evaluation.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;

use super::{
    Architecture, ModelKind, Network,
    encoder::{TextEncoder, bad_config, check_heads, load_blocks},
    rates::{Rates, rate},
    rope::{Rope, check_head, check_scaling},
    sizes::{Sizes, text_network},
};
use crate::{
    Result,
    ops::{
        Activation, AttentionConfig, BlockForm, BlockLayers, BlockRates, LayerName, LayerNorm,
        NormKind, Pooler, Positions, Rotary, TokenTables,
    },
    params::Params,
};

/// Default sizes.
const SIZES: Sizes = Sizes {
    vocab_size: 30_528,
    hidden_size: 768,
    num_hidden_layers: 12,
    num_attention_heads: 12,
    intermediate_size: 3072,
    max_position_embeddings: 2048,
};

/// The fields of a `config.json`, with the names of `transformers` or of the
/// published checkpoints.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
struct File {
    type_vocab_size: usize,
    #[serde(alias = "layer_norm_epsilon")]
    layer_norm_eps: f32,
    #[serde(alias = "activation_function")]
    hidden_act: String,
    rope_parameters: Option<Rope>,
    rotary_emb_base: f32,
    rope_scaling: Option<Value>,
    qkv_proj_bias: bool,
    mlp_fc1_bias: bool,
    mlp_fc2_bias: bool,
}

impl Default for File {
    fn default() -> Self {
        Self {
            type_vocab_size: 2,
            layer_norm_eps: 1e-12,
            hidden_act: "silu".to_owned(),
            rope_parameters: None,
            rotary_emb_base: 1000.0,
            rope_scaling: None,
            qkv_proj_bias: false,
            mlp_fc1_bias: false,
            mlp_fc2_bias: false,
        }
    }
}

/// Fields of published checkpoints that would change the network, with the only
/// supported value of each.
const FIXED: [(&str, Value); 7] = [
    ("prenorm", Value::Bool(false)),
    ("parallel_block", Value::Bool(false)),
    ("use_rms_norm", Value::Bool(false)),
    ("rotary_emb_interleaved", Value::Bool(false)),
    ("rotary_emb_scale_base", Value::Null),
    ("rotary_scaling_factor", Value::Null),
    ("num_experts", Value::Null),
];

#[derive(Debug)]
struct NomicBert {
    sizes: Sizes,
    file: File,
    activation: Activation,
    theta: f32,
    rates: Rates,
}

/// Parses a `config.json` of the type `nomic_bert`.
pub(super) fn parse(json: &Value) -> Result<Arc<dyn Architecture>> {
    let file = File::deserialize(json).map_err(bad_config)?;
    let sizes = SIZES.read(json)?;
    check_heads("hidden_size", sizes.hidden_size, sizes.num_attention_heads)?;
    for (name, known) in &FIXED {
        let given = json.get(*name).unwrap_or(&Value::Null);
        if given != known && !given.is_null() && *given != 0 {
            return Err(bad_config(format!(
                "`{name}` is {given}; only {known} is supported"
            )));
        }
    }
    let fraction = json.get("rotary_emb_fraction").and_then(Value::as_f64);
    if let Some(fraction) = fraction.filter(|fraction| *fraction != 1.0) {
        return Err(bad_config(format!(
            "`rotary_emb_fraction` is {fraction}; only 1 is supported"
        )));
    }
    check_head(sizes.hidden_size / sizes.num_attention_heads)?;
    check_scaling(file.rope_scaling.as_ref())?;
    let rope = file.rope_parameters.clone().unwrap_or_default();
    let theta = rope.theta(file.rotary_emb_base)?;
    let activation = match file.hidden_act.as_str() {
        "swiglu" => Activation::Silu,
        "geglu" => Activation::Gelu,
        other => Activation::try_from(other.to_owned()).map_err(bad_config)?,
    };
    Ok(Arc::new(NomicBert {
        sizes,
        file,
        activation,
        theta,
        rates: Rates {
            embeddings: rate(json, &["embd_pdrop", "hidden_dropout_prob"], 0.0)?,
            blocks: BlockRates::new(
                rate(json, &["attn_pdrop", "attention_probs_dropout_prob"], 0.0)?,
                rate(json, &["resid_pdrop", "hidden_dropout_prob"], 0.0)?,
            ),
            output: 0.0,
        },
    }))
}

impl NomicBert {
    fn form(&self) -> BlockForm {
        let (width, heads) = (self.sizes.hidden_size, self.sizes.num_attention_heads);
        BlockForm {
            width,
            hidden: self.sizes.intermediate_size,
            activation: self.activation,
            norm: NormKind::Layer,
            eps: self.file.layer_norm_eps,
            norm_first: false,
            attention: AttentionConfig::new(width, heads),
            rates: self.rates.blocks,
        }
    }

    fn layers(&self) -> BlockLayers {
        let qkv = LayerName::new("attn.Wqkv").with_bias(self.file.qkv_proj_bias);
        BlockLayers {
            norm1: Some("norm1"),
            query: qkv.part(0, 3),
            key: qkv.part(1, 3),
            value: qkv.part(2, 3),
            out: LayerName::new("attn.out_proj").with_bias(self.file.qkv_proj_bias),
            head_norms: None,
            norm2: "norm2",
            fc1: LayerName::new("mlp.fc12").with_bias(self.file.mlp_fc1_bias),
            gate: Some(LayerName::new("mlp.fc11").with_bias(self.file.mlp_fc1_bias)),
            fc2: LayerName::new("mlp.fc2").with_bias(self.file.mlp_fc2_bias),
            finish: None,
        }
    }
}

impl Architecture for NomicBert {
    text_network!(["bert.", "nomic_bert."], ["encoder.layers."]);

    fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let (file, width) = (&self.file, self.sizes.hidden_size);
        let table = |name: &str, rows| (format!("embeddings.{name}.weight"), vec![rows, width]);
        let mut all = vec![table("word_embeddings", self.sizes.vocab_size)];
        if file.type_vocab_size > 0 {
            all.push(table("token_type_embeddings", file.type_vocab_size));
        }
        all.extend(NormKind::Layer.tensors("emb_ln", width));
        let (layers, form) = (self.layers(), self.form());
        for layer in 0..self.sizes.num_hidden_layers {
            all.extend(layers.tensors(&format!("encoder.layers.{layer}"), &form));
        }
        all
    }

    fn build(&self, params: &Params, pooler: Pooler) -> Result<Box<dyn Network>> {
        let (file, width) = (&self.file, self.sizes.hidden_size);
        let table =
            |name: &str, rows| params.get(&format!("embeddings.{name}.weight"), &[rows, width]);
        let longest = self.sizes.max_position_embeddings;
        let mut form = self.form();
        form.attention.rotary = Some(Rotary::new(self.theta, form.attention.head));
        let (layers, count) = (self.layers(), self.sizes.num_hidden_layers);
        Ok(Box::new(TextEncoder {
            tables: TokenTables {
                token: table("word_embeddings", self.sizes.vocab_size)?,
                position: Positions::None { longest },
                kind: match file.type_vocab_size {
                    0 => None,
                    rows => Some(table("token_type_embeddings", rows)?),
                },
            },
            scale: None,
            first_norm: Some(LayerNorm::load(
                params,
                "emb_ln",
                width,
                file.layer_norm_eps,
            )?),
            blocks: load_blocks(params, &layers, "encoder.layers", count, &form)?,
            last_norm: None,
            pooler,
            rates: self.rates,
        }))
    }
}
