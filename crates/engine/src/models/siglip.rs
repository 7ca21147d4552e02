//! SigLIP (Zhai et al. 2023, arXiv:2303.15343) and SigLIP 2 (Tschannen et al.
//! 2025, arXiv:2502.14786) for images of a fixed size: a text tower and an
//! image tower with a shared embedding space, trained with the sigmoid loss.
//!
//! Tensor names, shapes and behaviour follow `SiglipModel` of Hugging Face's
//! `transformers`. Texts are padded to a fixed length, the tower attends to the
//! padding, and the last token's output represents the text. Images are pooled
//! by attention with a learned query.

use std::{collections::HashMap, sync::Arc};

use candle_core::Tensor;
use serde::Deserialize;
use serde_json::Value;

use super::{
    Architecture, Input, ModelKind, Network,
    architecture::{LOGIT_BIAS, LOGIT_SCALE},
    encoder::{bad_config, check_sizes},
    rates::Rates,
    siglip_vision::{Blocks, VisionConfig, VisionTower},
};
use crate::{
    Result,
    image::ImageProcessor,
    onnx::{self, AttentionContext, Attribute, Edge, Graph, Inputs},
    ops::{
        Block, LayerNorm, Linear, Pass, Pooler, Positions, TokenTables, layer_norm, linear,
        run_blocks, token_embeddings,
    },
    params::{Param, Params, RawTensor},
    random,
    tokenizer::TokenBatch,
};

const TEXT_LAYERS: &str = "text_model.encoder.layers";
/// Prefix of the image tower's tensors.
const VISION: &str = "vision_model.";

/// Sizes of a SigLIP, read from its `config.json`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct SiglipConfig {
    text_config: TextConfig,
    vision_config: VisionConfig,
}

/// Sizes of the text tower.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
struct TextConfig {
    #[serde(flatten)]
    blocks: Blocks,
    /// Vocabulary size.
    vocab_size: usize,
    /// Length of a text in tokens, with padding.
    max_position_embeddings: usize,
    /// Embedding dimension; `hidden_size` if not given.
    projection_size: Option<usize>,
}

impl Default for TextConfig {
    fn default() -> Self {
        Self {
            blocks: Blocks::default(),
            vocab_size: 32_000,
            max_position_embeddings: 64,
            projection_size: None,
        }
    }
}

impl TextConfig {
    fn dim(&self) -> usize {
        self.projection_size.unwrap_or(self.blocks.hidden_size)
    }
}

/// Parses a `config.json` of the type `siglip`.
pub(super) fn parse(json: &Value) -> Result<Arc<dyn Architecture>> {
    let mut config = SiglipConfig::deserialize(json).map_err(bad_config)?;
    config.text_config.blocks.rates = Rates::attention(&json["text_config"])?;
    config.vision_config.blocks.rates = Rates::attention(&json["vision_config"])?;
    let (text, vision) = (&config.text_config, &config.vision_config);
    check_sizes(&[
        ("text_config.vocab_size", text.vocab_size),
        (
            "text_config.max_position_embeddings",
            text.max_position_embeddings,
        ),
    ])?;
    text.blocks.check("text_config.")?;
    vision.check("vision_config.")?;
    if text.dim() != vision.blocks.hidden_size {
        return Err(bad_config(format!(
            "text embeddings have {} elements (`text_config.projection_size`, or \
             `hidden_size`), image embeddings {} (`vision_config.hidden_size`); both must be equal",
            text.dim(),
            vision.blocks.hidden_size
        )));
    }
    Ok(Arc::new(config))
}

/// Refuses a `config.json` of the type `siglip2`.
pub(super) fn parse_naflex(_: &Value) -> Result<Arc<dyn Architecture>> {
    Err(bad_config(
        "`model_type` is `siglip2`, a SigLIP 2 for images of any shape (NaFlex), which is not \
         supported. Use a SigLIP 2 for images of a fixed size, such as \
         `google/siglip2-base-patch16-224`, whose `model_type` is `siglip`",
    ))
}

impl Architecture for SiglipConfig {
    fn kind(&self) -> ModelKind {
        ModelKind::TextImage
    }

    fn dim(&self) -> usize {
        self.text_config.dim()
    }

    fn family(&self) -> &'static str {
        "transformer"
    }

    fn max_tokens(&self) -> Option<usize> {
        Some(self.text_config.max_position_embeddings)
    }

    fn text_length(&self) -> Option<usize> {
        self.max_tokens()
    }

    fn vocab_size(&self) -> Option<usize> {
        Some(self.text_config.vocab_size)
    }

    fn image_size(&self) -> Option<usize> {
        self.vision_config.image_size()
    }

    fn processor(&self, file: Option<&Value>) -> Result<Option<ImageProcessor>> {
        self.vision_config.processor(file)
    }

    fn prefixes(&self) -> &'static [&'static str] {
        &["siglip."]
    }

    fn has_dropout(&self) -> bool {
        self.text_config.blocks.rates.any() || self.vision_config.blocks.rates.any()
    }

    fn layer_prefixes(&self) -> &[&'static str] {
        &["encoder.layers."]
    }

    fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let text = &self.text_config;
        let width = text.blocks.hidden_size;
        let of_text = |name: &str, shape: &[usize]| (format!("text_model.{name}"), shape.to_vec());
        let mut all = vec![
            (LOGIT_SCALE.to_owned(), vec![1]),
            (LOGIT_BIAS.to_owned(), vec![1]),
            of_text(
                "embeddings.token_embedding.weight",
                &[text.vocab_size, width],
            ),
            of_text(
                "embeddings.position_embedding.weight",
                &[text.max_position_embeddings, width],
            ),
            of_text("final_layer_norm.weight", &[width]),
            of_text("final_layer_norm.bias", &[width]),
            of_text("head.weight", &[text.dim(), width]),
            of_text("head.bias", &[text.dim()]),
        ];
        all.extend(text.blocks.tensors(TEXT_LAYERS));
        let vision = self.vision_config.tensors().into_iter();
        all.extend(vision.map(|(name, shape)| (format!("{VISION}{name}"), shape)));
        all
    }

    fn build(&self, params: &Params, _: Pooler) -> Result<Box<dyn Network>> {
        Ok(Box::new(Siglip {
            text: TextTower::load(&self.text_config, params)?,
            vision: VisionTower::load(&self.vision_config, &params.under(VISION))?,
            logit_scale: params.get(LOGIT_SCALE, &[1])?,
            logit_bias: params.get(LOGIT_BIAS, &[1])?,
        }))
    }

    /// Scale and bias start as in section 3.2 of the paper.
    fn random_weights(&self, seed: u64) -> HashMap<String, RawTensor> {
        let mut all: HashMap<_, _> = random::draw_weights(self.tensors(), seed).collect();
        for (name, value) in [(LOGIT_SCALE, 10_f32.ln()), (LOGIT_BIAS, -10.0)] {
            all.insert(name.to_owned(), (vec![1], vec![value]));
        }
        all
    }
}

/// Both towers, and the scale and bias of similarities.
struct Siglip {
    text: TextTower,
    vision: VisionTower,
    logit_scale: Arc<Param>,
    logit_bias: Arc<Param>,
}

impl Network for Siglip {
    fn encode(&self, pass: &Pass, input: &Input) -> Result<Option<Tensor>> {
        match input {
            Input::Texts(texts) => self.text.encode(pass, texts).map(Some),
            Input::Images(pixels) => self.vision.encode_images(pass, pixels).map(Some),
            Input::Features(_) | Input::PointClouds(_) => Ok(None),
        }
    }

    fn onnx(&self, graph: &mut Graph, inputs: &Inputs) -> Result<Option<Edge>> {
        Ok(match inputs {
            Inputs::Texts(texts) => Some(self.text.onnx(graph, &texts.ids)),
            Inputs::Images(pixels, _) => Some(self.vision.onnx_images(graph, pixels)),
            Inputs::Features(_) => None,
        })
    }

    fn logit_scale(&self) -> Option<&Arc<Param>> {
        Some(&self.logit_scale)
    }

    fn logit_bias(&self) -> Option<&Arc<Param>> {
        Some(&self.logit_bias)
    }
}

struct TextTower {
    tables: TokenTables,
    blocks: Vec<Block>,
    norm: LayerNorm,
    head: Linear,
}

impl TextTower {
    fn load(config: &TextConfig, params: &Params) -> Result<Self> {
        let (width, blocks) = (config.blocks.hidden_size, &config.blocks);
        let table = |name: &str, rows: usize| {
            let name = format!("text_model.embeddings.{name}_embedding.weight");
            params.get(&name, &[rows, width])
        };
        Ok(Self {
            tables: TokenTables {
                token: table("token", config.vocab_size)?,
                position: Positions::Table(table("position", config.max_position_embeddings)?),
                kind: None,
            },
            blocks: blocks.load(params, TEXT_LAYERS)?,
            norm: blocks.norm(params, "text_model.final_layer_norm")?,
            head: Linear::load(params, "text_model.head", width, config.dim(), true)?,
        })
    }

    /// Returns embeddings `[batch, dim]` of padded texts.
    fn encode(&self, pass: &Pass, texts: &TokenBatch) -> Result<Tensor> {
        let segments = texts.segments();
        let x = token_embeddings(pass, &texts.ids, &texts.kinds, &segments, &self.tables)?;
        let last = Pooler::LastToken.only(&segments);
        let x = run_blocks(&self.blocks, pass, &x, &segments, last.as_deref())?;
        let x = layer_norm(pass, &x, &self.norm)?;
        linear(pass, &x, &self.head)
    }

    fn onnx(&self, graph: &mut Graph, ids: &Edge) -> Edge {
        let mut x = onnx::token_embeddings(graph, ids, None, &self.tables);
        for block in &self.blocks {
            x = onnx::block(graph, &x, block, &mut AttentionContext::all());
        }
        let last = graph.int(-1);
        let x = graph.op("Gather", &[&x, &last], &[Attribute::Int("axis", 1)]);
        let x = onnx::layer_norm(graph, &x, &self.norm);
        onnx::linear(graph, &x, &self.head)
    }
}
