//! MPNet (Song et al. 2020, arXiv:2004.09297): a BERT whose attention also knows
//! the distances. all-mpnet-base-v2 and its relatives are MPNets.
//!
//! Tensor names, shapes and behaviour are those of `MPNetModel` of Hugging
//! Face's `transformers` in evaluation.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;

use super::{
    Architecture, ModelKind, Network,
    encoder::{TextEncoder, bad_config, check_heads, check_sizes, load_blocks},
};
use crate::{
    Result,
    ops::{
        Activation, AttentionConfig, BlockForm, BlockNames, LayerNorm, NormKind, Pooler,
        PositionBias, Positions, TokenTables,
    },
    params::Params,
};

/// The row of the padding token, in both tables.
const PADDING: u32 = 1;
/// `transformers` computes with these, whatever the configuration says.
const BUCKETS: usize = 32;
const MAX_DISTANCE: usize = 128;
const BIAS: &str = "encoder.relative_attention_bias.weight";

const BLOCK: BlockNames = BlockNames {
    norms: ["attention.LayerNorm", "output.LayerNorm"],
    attention: [
        "attention.attn.q",
        "attention.attn.k",
        "attention.attn.v",
        "attention.attn.o",
    ],
    mlp: ["intermediate.dense", "output.dense"],
};

/// The fields of a `config.json`, with the defaults of `transformers`.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
struct MpnetConfig {
    vocab_size: usize,
    hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    intermediate_size: usize,
    hidden_act: Activation,
    /// Rows of the table of positions, of which two are no positions.
    max_position_embeddings: usize,
    layer_norm_eps: f32,
    relative_attention_num_buckets: usize,
}

impl Default for MpnetConfig {
    fn default() -> Self {
        Self {
            vocab_size: 30_527,
            hidden_size: 768,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            intermediate_size: 3072,
            hidden_act: Activation::Gelu,
            max_position_embeddings: 512,
            layer_norm_eps: 1e-12,
            relative_attention_num_buckets: BUCKETS,
        }
    }
}

/// Reads a `config.json` of the type `mpnet`.
pub(super) fn parse(json: &Value) -> Result<Arc<dyn Architecture>> {
    let config = MpnetConfig::deserialize(json).map_err(bad_config)?;
    check_heads(
        "hidden_size",
        config.hidden_size,
        config.num_attention_heads,
    )?;
    check_sizes(&[
        ("vocab_size", config.vocab_size),
        ("intermediate_size", config.intermediate_size),
    ])?;
    let rows = config.max_position_embeddings;
    if rows < PADDING as usize + 2 {
        return Err(bad_config(format!(
            "`max_position_embeddings` is {rows}; the first two are no positions"
        )));
    }
    let buckets = config.relative_attention_num_buckets;
    if buckets != BUCKETS {
        return Err(bad_config(format!(
            "`relative_attention_num_buckets` is {buckets}; {BUCKETS} is known"
        )));
    }
    Ok(Arc::new(config))
}

impl MpnetConfig {
    fn form(&self) -> BlockForm {
        BlockForm {
            width: self.hidden_size,
            hidden: self.intermediate_size,
            activation: self.hidden_act,
            norm: NormKind::Layer,
            eps: self.layer_norm_eps,
            norm_first: false,
            attention: AttentionConfig::new(self.hidden_size, self.num_attention_heads),
        }
    }
}

impl Architecture for MpnetConfig {
    fn kind(&self) -> ModelKind {
        ModelKind::Text
    }

    fn dim(&self) -> usize {
        self.hidden_size
    }

    fn pooler_output(&self) -> Option<(Pooler, Option<&'static str>)> {
        Some((Pooler::Cls, Some("pooler.dense")))
    }

    fn family(&self) -> &'static str {
        "transformer"
    }

    fn max_tokens(&self) -> Option<usize> {
        Some(self.max_position_embeddings - PADDING as usize - 1)
    }

    fn vocab_size(&self) -> Option<usize> {
        Some(self.vocab_size)
    }

    fn prefixes(&self) -> &'static [&'static str] {
        &["mpnet."]
    }

    /// A layer that embeddings don't use.
    fn keeps(&self, name: &str) -> bool {
        name.starts_with("pooler.dense.")
    }

    fn layer_marks(&self) -> &'static [&'static str] {
        &["encoder.layer."]
    }

    fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let width = self.hidden_size;
        let table = |name: &str, rows| (format!("embeddings.{name}.weight"), vec![rows, width]);
        let mut all = vec![
            table("word_embeddings", self.vocab_size),
            table("position_embeddings", self.max_position_embeddings),
            (BIAS.to_owned(), vec![BUCKETS, self.num_attention_heads]),
        ];
        all.extend(NormKind::Layer.tensors("embeddings.LayerNorm", width));
        for layer in 0..self.num_hidden_layers {
            let name = format!("encoder.layer.{layer}");
            all.extend(BLOCK.tensors(&name, width, self.intermediate_size));
        }
        all
    }

    fn build(&self, params: &Params, pooler: Pooler) -> Result<Box<dyn Network>> {
        let (width, eps) = (self.hidden_size, self.layer_norm_eps);
        let table =
            |name: &str, rows| params.get(&format!("embeddings.{name}.weight"), &[rows, width]);
        let position = table("position_embeddings", self.max_position_embeddings)?;
        let mut form = self.form();
        form.attention.bias = Some(PositionBias::Buckets {
            table: params.get(BIAS, &[BUCKETS, self.num_attention_heads])?,
            max_distance: MAX_DISTANCE,
        });
        let count = self.num_hidden_layers;
        Ok(Box::new(TextEncoder {
            tables: TokenTables {
                token: table("word_embeddings", self.vocab_size)?,
                position: Positions::AfterPadding(position, PADDING),
                kind: None,
            },
            scale: None,
            first_norm: Some(LayerNorm::load(params, "embeddings.LayerNorm", width, eps)?),
            blocks: load_blocks(params, &BLOCK.layers(), "encoder.layer", count, &form)?,
            last_norm: None,
            pooler,
        }))
    }
}
