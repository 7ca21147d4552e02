//! BERT (Devlin et al. 2019, arXiv:1810.04805) and DistilBERT (Sanh et al.
//! 2019, arXiv:1910.01108): texts to vectors. MiniLM and most models of
//! sentence-transformers are BERTs.
//!
//! Tensor names, shapes and behaviour are those of `BertModel` and
//! `DistilBertModel` of Hugging Face's `transformers` in evaluation: dropout is
//! left out in training too, so that runs are exact.

use std::sync::Arc;

use candle_core::Tensor;
use serde::Deserialize;
use serde_json::Value;

use super::{Architecture, Input, ModelKind, Network};
use crate::{
    Error, Result,
    ops::{
        Activation, BERT_BLOCK, Block, BlockNames, BlockParams, DISTILBERT_BLOCK, LayerNorm, Pass,
        Pooler, TokenTables, layer_norm, pool, run_blocks, token_embeddings,
    },
    params::Params,
    tokenizer::TokenBatch,
};

/// Shapes of a BERT or DistilBERT, read from its `config.json`.
#[derive(Clone, Debug)]
struct BertConfig {
    /// Whether it has the tensor names of a DistilBERT.
    distilled: bool,
    /// Number of tokens.
    vocab_size: usize,
    /// Width of the activations, and length of an embedding.
    hidden_size: usize,
    /// Width inside the MLPs.
    intermediate_size: usize,
    /// Number of blocks.
    num_hidden_layers: usize,
    /// Heads of a block.
    num_attention_heads: usize,
    /// Longest text in tokens.
    max_position_embeddings: usize,
    /// Rows of the table of token kinds; 0 in a DistilBERT.
    type_vocab_size: usize,
    /// The activation of the MLPs; `gelu` is known.
    hidden_act: String,
    /// Under the root of the layer norms.
    layer_norm_eps: f32,
}

/// The fields of both kinds of `config.json`, with their defaults.
#[derive(Deserialize)]
struct File {
    vocab_size: Option<usize>,
    #[serde(alias = "dim")]
    hidden_size: Option<usize>,
    #[serde(alias = "hidden_dim")]
    intermediate_size: Option<usize>,
    #[serde(alias = "n_layers")]
    num_hidden_layers: Option<usize>,
    #[serde(alias = "n_heads")]
    num_attention_heads: Option<usize>,
    max_position_embeddings: Option<usize>,
    type_vocab_size: Option<usize>,
    #[serde(alias = "activation")]
    hidden_act: Option<String>,
    layer_norm_eps: Option<f32>,
    position_embedding_type: Option<String>,
}

impl BertConfig {
    /// Reads a `config.json` of the type `bert` or `distilbert`.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] where it describes shapes that no model can have,
    /// or parts that are not known.
    fn parse(json: &Value, distilled: bool) -> Result<Self> {
        let bad = |reason: String| Error::checkpoint(format!("config.json: {reason}"));
        let file = File::deserialize(json).map_err(|e| bad(e.to_string()))?;
        let config = Self {
            distilled,
            vocab_size: file.vocab_size.unwrap_or(30_522),
            hidden_size: file.hidden_size.unwrap_or(768),
            intermediate_size: file.intermediate_size.unwrap_or(3072),
            num_hidden_layers: file
                .num_hidden_layers
                .unwrap_or(if distilled { 6 } else { 12 }),
            num_attention_heads: file.num_attention_heads.unwrap_or(12),
            max_position_embeddings: file.max_position_embeddings.unwrap_or(512),
            type_vocab_size: if distilled {
                0
            } else {
                file.type_vocab_size.unwrap_or(2)
            },
            hidden_act: file.hidden_act.unwrap_or_else(|| "gelu".to_owned()),
            layer_norm_eps: file.layer_norm_eps.unwrap_or(1e-12),
        };
        if let Some(kind) = file
            .position_embedding_type
            .filter(|kind| kind != "absolute")
        {
            return Err(bad(format!(
                "`position_embedding_type` is `{kind}`; `absolute` is known"
            )));
        }
        let (width, heads) = (config.hidden_size, config.num_attention_heads);
        if width == 0 || heads == 0 || !width.is_multiple_of(heads) {
            return Err(bad(format!(
                "`hidden_size` {width} can't be split into {heads} heads"
            )));
        }
        for (name, size) in [
            ("vocab_size", config.vocab_size),
            ("intermediate_size", config.intermediate_size),
            ("max_position_embeddings", config.max_position_embeddings),
        ] {
            if size == 0 {
                return Err(bad(format!("`{name}` is 0")));
            }
        }
        Ok(config)
    }

    fn names(&self) -> (&'static BlockNames, &'static str) {
        if self.distilled {
            (&DISTILBERT_BLOCK, "transformer.layer")
        } else {
            (&BERT_BLOCK, "encoder.layer")
        }
    }
}

/// Reads a `config.json` of the type `bert`.
pub(super) fn parse_bert(json: &Value) -> Result<Arc<dyn Architecture>> {
    Ok(Arc::new(BertConfig::parse(json, false)?))
}

/// Reads a `config.json` of the type `distilbert`.
pub(super) fn parse_distilbert(json: &Value) -> Result<Arc<dyn Architecture>> {
    Ok(Arc::new(BertConfig::parse(json, true)?))
}

impl Architecture for BertConfig {
    fn kind(&self) -> ModelKind {
        ModelKind::Text
    }

    fn dim(&self) -> usize {
        self.hidden_size
    }

    fn family(&self) -> &'static str {
        "transformer"
    }

    fn max_tokens(&self) -> Option<usize> {
        Some(self.max_position_embeddings)
    }

    fn vocab_size(&self) -> Option<usize> {
        Some(self.vocab_size)
    }

    fn prefixes(&self) -> &'static [&'static str] {
        &["bert.", "distilbert."]
    }

    /// BERT has one layer for its pretraining alone.
    fn keeps(&self, name: &str) -> bool {
        name.starts_with("pooler.dense.")
    }

    fn layer_marks(&self) -> &'static [&'static str] {
        &["encoder.layer.", "transformer.layer."]
    }

    fn build(&self, params: &Params, pooler: Pooler) -> Result<Box<dyn Network>> {
        Ok(Box::new(Bert::new(self, pooler, params)?))
    }

    fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let width = self.hidden_size;
        let mut all = vec![
            (
                "embeddings.word_embeddings.weight".to_owned(),
                vec![self.vocab_size, width],
            ),
            (
                "embeddings.position_embeddings.weight".to_owned(),
                vec![self.max_position_embeddings, width],
            ),
        ];
        if self.type_vocab_size > 0 {
            all.push((
                "embeddings.token_type_embeddings.weight".to_owned(),
                vec![self.type_vocab_size, width],
            ));
        }
        for part in ["weight", "bias"] {
            all.push((format!("embeddings.LayerNorm.{part}"), vec![width]));
        }
        let (names, layers) = self.names();
        for layer in 0..self.num_hidden_layers {
            let name = format!("{layers}.{layer}");
            all.extend(names.tensors(&name, width, self.intermediate_size));
        }
        all
    }
}

/// A text model, from token ids to one vector for each text.
struct Bert {
    tables: TokenTables,
    norm: LayerNorm,
    blocks: Vec<Block>,
    pooler: Pooler,
}

impl Bert {
    fn new(config: &BertConfig, pooler: Pooler, params: &Params) -> Result<Self> {
        let width = config.hidden_size;
        let table = |name: &str, rows: usize| {
            params.get(
                &format!("embeddings.{name}_embeddings.weight"),
                &[rows, width],
            )
        };
        let (names, layers) = config.names();
        Ok(Self {
            tables: TokenTables {
                token: table("word", config.vocab_size)?,
                position: table("position", config.max_position_embeddings)?,
                kind: match config.type_vocab_size {
                    0 => None,
                    rows => Some(table("token_type", rows)?),
                },
            },
            norm: LayerNorm::load(params, "embeddings.LayerNorm", width, config.layer_norm_eps)?,
            blocks: blocks(
                params,
                names,
                layers,
                config.num_hidden_layers,
                &BlockShape {
                    width,
                    hidden: config.intermediate_size,
                    heads: config.num_attention_heads,
                    activation: &config.hidden_act,
                    eps: config.layer_norm_eps,
                    causal: false,
                    norm_first: false,
                },
            )?,
            pooler,
        })
    }

    fn encode_texts(&self, pass: &Pass, texts: &TokenBatch) -> Result<Tensor> {
        let segments = texts.segments();
        let x = token_embeddings(pass, &texts.ids, &segments, &self.tables)?;
        let x = layer_norm(pass, &x, &self.norm)?;
        let only = self.pooler.only(&segments);
        let x = run_blocks(&self.blocks, pass, &x, &segments, only.as_deref())?;
        match only {
            Some(_) => Ok(x),
            None => pool(pass, &x, &segments, self.pooler),
        }
    }
}

impl Network for Bert {
    fn encode(&self, pass: &Pass, input: &Input) -> Result<Option<Tensor>> {
        match input {
            Input::Texts(texts) => self.encode_texts(pass, texts).map(Some),
            _ => Ok(None),
        }
    }
}

/// What the blocks of a transformer have in common.
pub(super) struct BlockShape<'a> {
    pub(super) width: usize,
    pub(super) hidden: usize,
    pub(super) heads: usize,
    pub(super) activation: &'a str,
    pub(super) eps: f32,
    pub(super) causal: bool,
    pub(super) norm_first: bool,
}

/// The blocks `{layers}.0`, `{layers}.1` and so on.
pub(super) fn blocks(
    params: &Params,
    names: &BlockNames,
    layers: &str,
    count: usize,
    shape: &BlockShape<'_>,
) -> Result<Vec<Block>> {
    let activation = Activation::parse(shape.activation).ok_or_else(|| {
        Error::checkpoint(format!(
            "config.json: `hidden_act` is `{}`; `quick_gelu` and `gelu` are known",
            shape.activation
        ))
    })?;
    let (width, hidden) = (shape.width, shape.hidden);
    (0..count)
        .map(|layer| {
            let name = format!("{layers}.{layer}");
            Ok(Block {
                params: BlockParams::load(params, names, &name, width, hidden, shape.eps)?,
                heads: shape.heads,
                activation,
                causal: shape.causal,
                norm_first: shape.norm_first,
            })
        })
        .collect()
}
