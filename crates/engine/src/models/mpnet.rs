//! MPNet (Song et al. 2020, arXiv:2004.09297): a BERT with relative position
//! biases. all-mpnet-base-v2 is one.
//!
//! Tensor names, shapes and behaviour follow `MPNetModel` of Hugging Face's
//! `transformers` in evaluation.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;

use super::{
    Architecture, ModelKind, Network,
    classifier_head::ClassifierHead,
    encoder::{TextEncoder, bad_config, check_heads, load_blocks},
    rates::Rates,
    sizes::Sizes,
};
use crate::{
    Result,
    ops::{
        Activation, AttentionConfig, BlockForm, BlockNames, LayerNorm, NormKind, Pooler,
        PositionBias, Positions, TokenTables,
    },
    params::Params,
};

/// The padding token's row in both embedding tables.
const PADDING: u32 = 1;
/// `transformers` uses these numbers and ignores the configuration.
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

/// Default sizes. `max_position_embeddings` counts the rows of the table, two
/// of which are not positions.
const SIZES: Sizes = Sizes {
    vocab_size: 30_527,
    hidden_size: 768,
    num_hidden_layers: 12,
    num_attention_heads: 12,
    intermediate_size: 3072,
    max_position_embeddings: 512,
};

/// The fields of a `config.json`, with the defaults of `transformers`.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
struct File {
    hidden_act: Activation,
    layer_norm_eps: f32,
    relative_attention_num_buckets: usize,
}

impl Default for File {
    fn default() -> Self {
        Self {
            hidden_act: Activation::Gelu,
            layer_norm_eps: 1e-12,
            relative_attention_num_buckets: BUCKETS,
        }
    }
}

#[derive(Debug)]
struct Mpnet {
    sizes: Sizes,
    file: File,
    rates: Rates,
}

/// Parses a `config.json` of the type `mpnet`.
pub(super) fn parse(json: &Value) -> Result<Arc<dyn Architecture>> {
    let file = File::deserialize(json).map_err(bad_config)?;
    let sizes = SIZES.read(json)?;
    check_heads("hidden_size", sizes.hidden_size, sizes.num_attention_heads)?;
    let rows = sizes.max_position_embeddings;
    if rows < PADDING as usize + 2 {
        return Err(bad_config(format!(
            "`max_position_embeddings` is {rows}; at least 3 are needed, since the first two \
             rows are not positions"
        )));
    }
    let buckets = file.relative_attention_num_buckets;
    if buckets != BUCKETS {
        return Err(bad_config(format!(
            "`relative_attention_num_buckets` is {buckets}; only {BUCKETS} is supported"
        )));
    }
    let rates = Rates::bert(json, 0.1)?;
    Ok(Arc::new(Mpnet { sizes, file, rates }))
}

impl Mpnet {
    fn form(&self) -> BlockForm {
        BlockForm {
            width: self.sizes.hidden_size,
            hidden: self.sizes.intermediate_size,
            activation: self.file.hidden_act,
            norm: NormKind::Layer,
            eps: self.file.layer_norm_eps,
            norm_first: false,
            attention: AttentionConfig::new(self.sizes.hidden_size, self.sizes.num_attention_heads),
            rates: self.rates.blocks,
        }
    }
}

impl Architecture for Mpnet {
    fn kind(&self) -> ModelKind {
        ModelKind::Text
    }

    fn dim(&self) -> usize {
        self.sizes.hidden_size
    }

    fn pooler_output(&self) -> Option<(Pooler, Option<&'static str>)> {
        Some((Pooler::Cls, Some("pooler.dense")))
    }

    fn family(&self) -> &'static str {
        "transformer"
    }

    fn max_tokens(&self) -> Option<usize> {
        Some(self.sizes.max_position_embeddings - PADDING as usize - 1)
    }

    fn vocab_size(&self) -> Option<usize> {
        Some(self.sizes.vocab_size)
    }

    fn prefixes(&self) -> &'static [&'static str] {
        &["mpnet."]
    }

    /// The pooler's layer, which embeddings don't use.
    fn keeps(&self, name: &str) -> bool {
        name.starts_with("pooler.dense.")
    }

    fn has_dropout(&self) -> bool {
        self.rates.any()
    }

    fn layer_prefixes(&self) -> &'static [&'static str] {
        &["encoder.layer."]
    }

    fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let width = self.sizes.hidden_size;
        let table = |name: &str, rows| (format!("embeddings.{name}.weight"), vec![rows, width]);
        let mut all = vec![
            table("word_embeddings", self.sizes.vocab_size),
            table("position_embeddings", self.sizes.max_position_embeddings),
            (
                BIAS.to_owned(),
                vec![BUCKETS, self.sizes.num_attention_heads],
            ),
        ];
        all.extend(NormKind::Layer.tensors("embeddings.LayerNorm", width));
        for layer in 0..self.sizes.num_hidden_layers {
            let name = format!("encoder.layer.{layer}");
            all.extend(BLOCK.tensors(&name, width, self.sizes.intermediate_size));
        }
        all
    }

    fn classifier(&self) -> Option<ClassifierHead> {
        Some(ClassifierHead::of_roberta("mpnet."))
    }

    fn build(&self, params: &Params, pooler: Pooler) -> Result<Box<dyn Network>> {
        let (width, eps) = (self.sizes.hidden_size, self.file.layer_norm_eps);
        let table =
            |name: &str, rows| params.get(&format!("embeddings.{name}.weight"), &[rows, width]);
        let position = table("position_embeddings", self.sizes.max_position_embeddings)?;
        let mut form = self.form();
        form.attention.bias = Some(PositionBias::Buckets {
            table: params.get(BIAS, &[BUCKETS, self.sizes.num_attention_heads])?,
            max_distance: MAX_DISTANCE,
        });
        let count = self.sizes.num_hidden_layers;
        Ok(Box::new(TextEncoder {
            tables: TokenTables {
                token: table("word_embeddings", self.sizes.vocab_size)?,
                position: Positions::AfterPadding(position, PADDING),
                kind: None,
            },
            scale: None,
            first_norm: Some(LayerNorm::load(params, "embeddings.LayerNorm", width, eps)?),
            blocks: load_blocks(params, &BLOCK.layers(), "encoder.layer", count, &form)?,
            last_norm: None,
            pooler,
            rates: self.rates,
        }))
    }
}
