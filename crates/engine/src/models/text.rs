//! BERT (Devlin et al. 2019, arXiv:1810.04805), DistilBERT (Sanh et al. 2019,
//! arXiv:1910.01108), RoBERTa (Liu et al. 2019, arXiv:1907.11692) and
//! XLM-RoBERTa (Conneau et al. 2020, arXiv:1911.02116). MiniLM and most models
//! of sentence-transformers are BERTs; multilingual-e5 and bge-m3 are
//! XLM-RoBERTas.
//!
//! Tensor names, shapes and behaviour follow `BertModel` and its relatives in
//! Hugging Face's `transformers`.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;

use super::{
    Architecture, ModelKind, Network, alibi_bert,
    classifier_head::{ClassifierHead, HeadLayer},
    encoder::{TextEncoder, bad_config, load_blocks},
    rates::{Rates, rate},
};
use crate::{
    Result,
    modules::Activation,
    ops::{
        Activation as BlockActivation, AttentionConfig, BERT_BLOCK, Block, BlockForm, BlockNames,
        BlockRates, DISTILBERT_BLOCK, LayerNorm, NormKind, Pooler, Positions, TokenTables,
    },
    params::Params,
};

/// A relative of BERT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Relative {
    Bert,
    /// Has other tensor names and no token types.
    DistilBert,
    /// Counts positions from the row after the padding token's.
    Roberta,
}

/// Sizes of a BERT or one of its relatives, read from its `config.json`.
#[derive(Clone, Debug)]
struct BertConfig {
    relative: Relative,
    /// Vocabulary size.
    vocab_size: usize,
    /// Width of the activations, which is the embedding dimension.
    hidden_size: usize,
    /// Width inside the MLPs.
    intermediate_size: usize,
    /// Number of blocks.
    num_hidden_layers: usize,
    /// Attention heads of a block.
    num_attention_heads: usize,
    /// Rows of the position table.
    max_position_embeddings: usize,
    /// Number of token types; 0 for DistilBERT.
    type_vocab_size: usize,
    /// The id of the padding token.
    pad_token_id: u32,
    /// The activation of the MLPs.
    hidden_act: String,
    /// Epsilon of the layer norms.
    layer_norm_eps: f32,
    /// Dropout rates in training.
    rates: Rates,
}

/// The fields of all variants of `config.json`.
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
    pad_token_id: Option<u32>,
    position_embedding_type: Option<String>,
    is_decoder: Option<bool>,
}

impl BertConfig {
    /// Parses a `config.json`.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] if it describes impossible sizes or unknown parts.
    fn parse(json: &Value, relative: Relative) -> Result<Self> {
        let file = File::deserialize(json).map_err(bad_config)?;
        let (distilled, roberta) = (
            relative == Relative::DistilBert,
            relative == Relative::Roberta,
        );
        let config = Self {
            relative,
            vocab_size: file
                .vocab_size
                .unwrap_or(if roberta { 50_265 } else { 30_522 }),
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
            rates: if distilled {
                distilled_rates(json)?
            } else {
                Rates::bert(json, 0.1)?
            },
            pad_token_id: file.pad_token_id.unwrap_or(u32::from(roberta)),
        };
        if let Some(kind) = file
            .position_embedding_type
            .filter(|kind| kind != "absolute")
        {
            return Err(bad_config(format!(
                "`position_embedding_type` is `{kind}`; only `absolute` is supported"
            )));
        }
        // DistilBERT has no such field.
        if file.is_decoder == Some(true) && !distilled {
            return Err(bad_config(
                "`is_decoder` is true; only encoders with bidirectional attention are supported",
            ));
        }
        let (width, heads) = (config.hidden_size, config.num_attention_heads);
        if width == 0 || heads == 0 || !width.is_multiple_of(heads) {
            return Err(bad_config(format!(
                "`hidden_size` {width} is not a multiple of `num_attention_heads`, {heads}"
            )));
        }
        for (name, size) in [
            ("vocab_size", config.vocab_size),
            ("intermediate_size", config.intermediate_size),
            ("max_position_embeddings", config.max_position_embeddings),
            (
                "type_vocab_size",
                config.type_vocab_size + usize::from(distilled),
            ),
        ] {
            if size == 0 {
                return Err(bad_config(format!("`{name}` is 0")));
            }
        }
        let rows = config.max_position_embeddings;
        if roberta && rows < config.pad_token_id as usize + 2 {
            return Err(bad_config(format!(
                "`max_position_embeddings` is {rows}; it must be at least 2 above `pad_token_id`, {}, \
                 after which positions start",
                config.pad_token_id
            )));
        }
        Ok(config)
    }

    fn names(&self) -> (&'static BlockNames, &'static str) {
        match self.relative {
            Relative::DistilBert => (&DISTILBERT_BLOCK, "transformer.layer"),
            Relative::Bert | Relative::Roberta => (&BERT_BLOCK, "encoder.layer"),
        }
    }
}

/// DistilBERT has no dropout after its attention.
fn distilled_rates(json: &Value) -> Result<Rates> {
    let hidden = rate(json, &["dropout"], 0.1)?;
    Ok(Rates {
        embeddings: hidden,
        blocks: BlockRates {
            halves: [0.0, hidden],
            ..BlockRates::new(rate(json, &["attention_dropout"], 0.1)?, 0.0)
        },
        output: 0.0,
    })
}

/// Parses a `config.json` of the type `bert`.
pub(super) fn parse_bert(json: &Value) -> Result<Arc<dyn Architecture>> {
    if json["position_embedding_type"] == "alibi" {
        return alibi_bert::parse(json);
    }
    Ok(Arc::new(BertConfig::parse(json, Relative::Bert)?))
}

/// Parses a `config.json` of the type `distilbert`.
pub(super) fn parse_distilbert(json: &Value) -> Result<Arc<dyn Architecture>> {
    Ok(Arc::new(BertConfig::parse(json, Relative::DistilBert)?))
}

/// Parses a `config.json` of the type `roberta`, or of a type with the same
/// network.
pub(super) fn parse_roberta(json: &Value) -> Result<Arc<dyn Architecture>> {
    Ok(Arc::new(BertConfig::parse(json, Relative::Roberta)?))
}

impl Architecture for BertConfig {
    fn kind(&self) -> ModelKind {
        ModelKind::Text
    }

    fn dim(&self) -> usize {
        self.hidden_size
    }

    fn pooler_output(&self) -> Option<(Pooler, Option<&'static str>)> {
        // DistilBERT has none.
        (self.relative != Relative::DistilBert).then_some((Pooler::Cls, Some("pooler.dense")))
    }

    fn family(&self) -> &'static str {
        "transformer"
    }

    fn max_tokens(&self) -> Option<usize> {
        Some(match self.relative {
            Relative::Roberta => self.max_position_embeddings - self.pad_token_id as usize - 1,
            Relative::Bert | Relative::DistilBert => self.max_position_embeddings,
        })
    }

    fn counts_padding(&self) -> bool {
        self.relative != Relative::Roberta
    }

    fn token_types(&self) -> usize {
        self.type_vocab_size.max(1)
    }

    fn vocab_size(&self) -> Option<usize> {
        Some(self.vocab_size)
    }

    fn prefixes(&self) -> &'static [&'static str] {
        &["bert.", "distilbert.", "roberta."]
    }

    fn has_dropout(&self) -> bool {
        self.rates.any()
    }

    /// The pooler's layer, which BERT uses only in pretraining.
    fn keeps(&self, name: &str) -> bool {
        name.starts_with("pooler.dense.")
    }

    fn layer_prefixes(&self) -> &'static [&'static str] {
        &["encoder.layer.", "transformer.layer."]
    }

    fn classifier(&self) -> Option<ClassifierHead> {
        Some(match self.relative {
            Relative::Bert => ClassifierHead {
                prefix: "bert.",
                pooler: Pooler::Cls,
                layers: vec![
                    HeadLayer::dense("pooler.dense", Activation::Tanh),
                    HeadLayer::scores("classifier"),
                ],
            },
            Relative::DistilBert => ClassifierHead {
                prefix: "distilbert.",
                pooler: Pooler::Cls,
                layers: vec![
                    HeadLayer::dense("pre_classifier", Activation::Relu),
                    HeadLayer::scores("classifier"),
                ],
            },
            Relative::Roberta => ClassifierHead::of_roberta("roberta."),
        })
    }

    fn build(&self, params: &Params, pooler: Pooler) -> Result<Box<dyn Network>> {
        let width = self.hidden_size;
        let table = |name: &str, rows: usize| {
            let name = format!("embeddings.{name}_embeddings.weight");
            params.get(&name, &[rows, width])
        };
        let position = table("position", self.max_position_embeddings)?;
        let (names, layers) = self.names();
        let first_norm =
            LayerNorm::load(params, "embeddings.LayerNorm", width, self.layer_norm_eps)?;
        Ok(Box::new(TextEncoder {
            tables: TokenTables {
                token: table("word", self.vocab_size)?,
                position: match self.relative {
                    Relative::Roberta => Positions::AfterPadding(position, self.pad_token_id),
                    Relative::Bert | Relative::DistilBert => Positions::Table(position),
                },
                kind: match self.type_vocab_size {
                    0 => None,
                    rows => Some(table("token_type", rows)?),
                },
            },
            scale: None,
            first_norm: Some(first_norm),
            blocks: blocks(
                params,
                names,
                layers,
                self.num_hidden_layers,
                &BlockShape {
                    width,
                    hidden: self.intermediate_size,
                    heads: self.num_attention_heads,
                    activation: &self.hidden_act,
                    eps: self.layer_norm_eps,
                    causal: false,
                    norm_first: false,
                    rates: self.rates.blocks,
                },
            )?,
            last_norm: None,
            pooler,
            rates: self.rates,
        }))
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

/// Sizes and settings that all blocks of a transformer share.
pub(super) struct BlockShape<'a> {
    pub(super) width: usize,
    pub(super) hidden: usize,
    pub(super) heads: usize,
    pub(super) activation: &'a str,
    pub(super) eps: f32,
    pub(super) causal: bool,
    pub(super) norm_first: bool,
    pub(super) rates: BlockRates,
}

/// Loads the blocks `{layers}.0`, `{layers}.1` and so on.
pub(super) fn blocks(
    params: &Params,
    names: &BlockNames,
    layers: &str,
    count: usize,
    shape: &BlockShape<'_>,
) -> Result<Vec<Block>> {
    let activation = BlockActivation::try_from(shape.activation.to_owned())
        .map_err(|reason| bad_config(format!("`hidden_act`: {reason}")))?;
    let form = BlockForm {
        width: shape.width,
        hidden: shape.hidden,
        activation,
        norm: NormKind::Layer,
        eps: shape.eps,
        norm_first: shape.norm_first,
        attention: AttentionConfig {
            causal: shape.causal,
            ..AttentionConfig::new(shape.width, shape.heads)
        },
        rates: shape.rates,
    };
    load_blocks(params, &names.layers(), layers, count, &form)
}
