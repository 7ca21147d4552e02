//! CLIP (Radford et al. 2021, arXiv:2103.00020): an image tower and a text
//! tower with a shared embedding space.
//!
//! Tensor names, shapes and behaviour follow `CLIPModel` of Hugging Face's
//! `transformers`, so that weights can be exchanged in both directions.

use std::{collections::HashMap, sync::Arc};

use candle_core::Tensor;
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};
use serde::Deserialize;
use serde_json::Value;

use super::{
    Architecture, Input, ModelKind, Network,
    clip_vision::{VISION_EMBEDDINGS, VISION_NORMS, VisionConfig, VisionTower},
    encoder::{check_heads, check_sizes},
    rates::Rates,
    text::{BlockShape, blocks},
};
use crate::{
    Error, Result,
    draw::draw_normal,
    image::ImageProcessor,
    onnx::{self, AttentionContext, Attribute, DataType, Edge, Graph, Inputs, TextInputs},
    ops::{
        Block, CLIP_BLOCK, LayerNorm, Linear, Pass, Pooler, Positions, TokenTables, layer_norm,
        linear, run_blocks, token_embeddings,
    },
    params::{Param, Params, RawTensor},
    tokenizer::TokenBatch,
};

/// Prefix of the image tower's tensors.
const VISION: &str = "vision_model.";

/// Sizes of a CLIP model, read from its `config.json`.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct ClipConfig {
    /// Dimension of the embeddings.
    #[serde(default = "default::projection_dim")]
    pub projection_dim: usize,
    /// Initial value of the logarithm of the logit scale.
    #[serde(default = "default::logit_scale")]
    pub logit_scale_init_value: f32,
    /// The text tower.
    #[serde(default)]
    pub text_config: TextConfig,
    /// The image tower.
    #[serde(default)]
    pub vision_config: VisionConfig,
}

/// Sizes of the text tower. `transformers` omits values that equal its
/// defaults, so the defaults here are the same.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub(super) struct TextConfig {
    /// Vocabulary size.
    pub vocab_size: usize,
    /// Width of the activations.
    pub hidden_size: usize,
    /// Width inside the MLPs.
    pub intermediate_size: usize,
    /// Number of blocks.
    pub num_hidden_layers: usize,
    /// Attention heads of a block.
    pub num_attention_heads: usize,
    /// Longest text in tokens.
    pub max_position_embeddings: usize,
    /// `quick_gelu` or `gelu`.
    pub hidden_act: String,
    /// Epsilon of the layer norms.
    pub layer_norm_eps: f32,
    /// The token whose output is the text's embedding. Early checkpoints
    /// contain 2, which means "the token with the highest id".
    pub eos_token_id: u32,
    /// Dropout rates in training.
    #[serde(skip)]
    rates: Rates,
}

mod default {
    pub(super) fn projection_dim() -> usize {
        512
    }

    pub(super) fn logit_scale() -> f32 {
        2.6592
    }
}

impl Default for TextConfig {
    fn default() -> Self {
        Self {
            vocab_size: 49_408,
            hidden_size: 512,
            intermediate_size: 2048,
            num_hidden_layers: 12,
            num_attention_heads: 8,
            max_position_embeddings: 77,
            hidden_act: "quick_gelu".to_owned(),
            layer_norm_eps: 1e-5,
            eos_token_id: 49_407,
            rates: Rates::default(),
        }
    }
}

impl ClipConfig {
    /// Parses a `config.json`.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] if it describes another kind of model, or
    /// impossible sizes.
    fn parse(json: &Value) -> Result<Self> {
        let mut json = json.clone();
        for tower in ["text_config", "vision_config"] {
            // The field's name of 2022. If it is present, it replaces the newer
            // field completely: what it lacks gets the default.
            let old = json
                .get(format!("{tower}_dict"))
                .filter(|old| !old.is_null());
            if let Some(old) = old.cloned() {
                json[tower] = old;
            } else if json.get(tower).is_some_and(Value::is_null) {
                json[tower] = Value::Object(serde_json::Map::new());
            }
        }
        let rates = |tower: &str| Rates::attention(&json[tower]);
        let (text_rates, vision_rates) = (rates("text_config")?, rates("vision_config")?);
        let mut config: Self = serde_json::from_value(json)
            .map_err(|e| Error::checkpoint(format!("config.json: {e}")))?;
        config.text_config.rates = text_rates;
        config.vision_config.rates = vision_rates;
        let (text, vision) = (&config.text_config, &config.vision_config);
        let sizes = [
            ("projection_dim", config.projection_dim),
            ("text_config.vocab_size", text.vocab_size),
            (
                "text_config.max_position_embeddings",
                text.max_position_embeddings,
            ),
            ("text_config.intermediate_size", text.intermediate_size),
        ];
        check_sizes(&sizes)?;
        check_heads(
            "text_config.hidden_size",
            text.hidden_size,
            text.num_attention_heads,
        )?;
        vision.check("vision_config.")?;
        Ok(config)
    }
}

/// Parses a `config.json` of the type `clip`.
pub(super) fn parse(json: &Value) -> Result<Arc<dyn Architecture>> {
    Ok(Arc::new(ClipConfig::parse(json)?))
}

impl Architecture for ClipConfig {
    fn kind(&self) -> ModelKind {
        ModelKind::TextImage
    }

    fn dim(&self) -> usize {
        self.projection_dim
    }

    fn family(&self) -> &'static str {
        "transformer"
    }

    fn max_tokens(&self) -> Option<usize> {
        Some(self.text_config.max_position_embeddings)
    }

    fn counts_padding(&self) -> bool {
        true
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

    fn has_dropout(&self) -> bool {
        self.text_config.rates.any() || self.vision_config.rates.any()
    }

    fn layer_prefixes(&self) -> &'static [&'static str] {
        &["encoder.layers."]
    }

    fn build(&self, params: &Params, _: Pooler) -> Result<Box<dyn Network>> {
        Ok(Box::new(Clip::new(self.clone(), params)?))
    }

    /// Draws weights with the standard deviations of a new `CLIPModel` in
    /// `transformers`.
    fn random_weights(&self, seed: u64) -> HashMap<String, RawTensor> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        self.tensors()
            .into_iter()
            .map(|(name, shape)| {
                let count = shape.iter().product();
                let data = if name == "logit_scale" {
                    vec![self.logit_scale_init_value]
                } else if name.ends_with(".bias") {
                    vec![0.0; count]
                } else if name.contains("norm") || name.contains("layrnorm") {
                    vec![1.0; count]
                } else {
                    let spread = self.spread(&name);
                    (0..count).map(|_| draw_normal(&mut rng, spread)).collect()
                };
                (name, (shape, data))
            })
            .collect()
    }

    /// The order decides which random weights follow from a seed.
    fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let (text, vision) = (&self.text_config, &self.vision_config);
        let (tw, vw) = (text.hidden_size, vision.hidden_size);
        let tower = vision.tensors().into_iter();
        let mut tower = tower.map(|(name, shape)| (format!("{VISION}{name}"), shape));
        let named = |name: &str, shape: &[usize]| (name.to_owned(), shape.to_vec());
        let mut all = vec![
            named("logit_scale", &[]),
            named(
                "text_model.embeddings.token_embedding.weight",
                &[text.vocab_size, tw],
            ),
            named(
                "text_model.embeddings.position_embedding.weight",
                &[text.max_position_embeddings, tw],
            ),
        ];
        all.extend(tower.by_ref().take(VISION_EMBEDDINGS));
        all.push(named(
            "visual_projection.weight",
            &[self.projection_dim, vw],
        ));
        all.push(named("text_projection.weight", &[self.projection_dim, tw]));
        all.extend(tower.by_ref().take(VISION_NORMS));
        for part in ["weight", "bias"] {
            all.push((format!("text_model.final_layer_norm.{part}"), vec![tw]));
        }
        for layer in 0..text.num_hidden_layers {
            let name = format!("text_model.encoder.layers.{layer}");
            all.extend(CLIP_BLOCK.tensors(&name, tw, text.intermediate_size));
        }
        all.extend(tower);
        all
    }
}

impl ClipConfig {
    /// Returns the standard deviation of a new weight.
    fn spread(&self, name: &str) -> f64 {
        let (text, vision) = (&self.text_config, &self.vision_config);
        let (width, layers) = if name.starts_with("vis") {
            (vision.hidden_size as f64, vision.num_hidden_layers as f64)
        } else {
            (text.hidden_size as f64, text.num_hidden_layers as f64)
        };
        if name.contains("q_proj")
            || name.contains("k_proj")
            || name.contains("v_proj")
            || name.contains("fc2")
        {
            width.powf(-0.5) * (2.0 * layers).powf(-0.5)
        } else if name.contains("fc1") {
            (2.0 * width).powf(-0.5)
        } else if name.contains("_proj") || name.contains("class_embedding") {
            width.powf(-0.5)
        } else {
            0.02
        }
    }
}

/// Both towers, and the logit scale.
struct Clip {
    config: ClipConfig,
    vision: VisionTower,
    visual_projection: Linear,
    text: TextTower,
    logit_scale: Arc<Param>,
}

impl Network for Clip {
    fn encode(&self, pass: &Pass, input: &Input) -> Result<Option<Tensor>> {
        match input {
            Input::Texts(texts) => self.encode_texts(pass, texts).map(Some),
            Input::Images(pixels) => self.encode_images(pass, pixels).map(Some),
            Input::Features(_) | Input::PointClouds(_) => Ok(None),
        }
    }

    fn onnx(&self, graph: &mut Graph, inputs: &Inputs) -> Result<Option<Edge>> {
        Ok(match inputs {
            Inputs::Texts(texts) => Some(self.onnx_texts(graph, texts)),
            Inputs::Images(pixels, _) => Some(self.onnx_images(graph, pixels)),
            Inputs::Features(_) => None,
        })
    }

    fn logit_scale(&self) -> Option<&Arc<Param>> {
        Some(&self.logit_scale)
    }
}

struct TextTower {
    tables: TokenTables,
    blocks: Vec<Block>,
    final_norm: LayerNorm,
    projection: Linear,
}

impl Clip {
    fn new(config: ClipConfig, params: &Params) -> Result<Self> {
        let wanted: std::collections::HashMap<String, Vec<usize>> =
            config.tensors().into_iter().collect();
        let get = |name: &str| params.get(name, wanted.get(name).map_or(&[][..], Vec::as_slice));
        let (t, v) = (&config.text_config, &config.vision_config);
        let projection =
            |name: &str, width| Linear::load(params, name, width, config.projection_dim, false);
        let text = TextTower {
            tables: TokenTables {
                token: get("text_model.embeddings.token_embedding.weight")?,
                position: Positions::Table(get("text_model.embeddings.position_embedding.weight")?),
                kind: None,
            },
            blocks: blocks(
                params,
                &CLIP_BLOCK,
                "text_model.encoder.layers",
                t.num_hidden_layers,
                &BlockShape {
                    width: t.hidden_size,
                    hidden: t.intermediate_size,
                    heads: t.num_attention_heads,
                    activation: &t.hidden_act,
                    eps: t.layer_norm_eps,
                    causal: true,
                    norm_first: true,
                    rates: t.rates.blocks,
                },
            )?,
            final_norm: LayerNorm::load(
                params,
                "text_model.final_layer_norm",
                t.hidden_size,
                t.layer_norm_eps,
            )?,
            projection: projection("text_projection", t.hidden_size)?,
        };
        Ok(Self {
            logit_scale: get("logit_scale")?,
            vision: VisionTower::load(v, &params.under(VISION))?,
            visual_projection: projection("visual_projection", v.hidden_size)?,
            config,
            text,
        })
    }

    /// Returns unnormalised embeddings `[batch, projection_dim]` of images
    /// `[batch, 3, height, width]`.
    fn encode_images(&self, pass: &Pass, pixels: &Tensor) -> Result<Tensor> {
        let class = self.vision.encode_images(pass, pixels)?;
        linear(pass, &class, &self.visual_projection)
    }

    /// Returns unnormalised embeddings `[batch, projection_dim]` of texts.
    fn encode_texts(&self, pass: &Pass, texts: &TokenBatch) -> Result<Tensor> {
        let tower = &self.text;
        let segments = texts.segments();
        let x = token_embeddings(pass, &texts.ids, &texts.kinds, &segments, &tower.tables)?;
        let ends: Vec<usize> = segments
            .iter()
            .map(|(start, length)| self.end_of_text(&texts.ids[start..start + length]))
            .collect();
        let x = run_blocks(&tower.blocks, pass, &x, &segments, Some(&ends))?;
        let x = layer_norm(pass, &x, &tower.final_norm)?;
        linear(pass, &x, &tower.projection)
    }

    /// Writes [`Clip::encode_images`] as ONNX operators.
    fn onnx_images(&self, graph: &mut Graph, pixels: &Edge) -> Edge {
        let class = self.vision.onnx_images(graph, pixels);
        onnx::linear(graph, &class, &self.visual_projection)
    }

    /// Writes [`Clip::encode_texts`] as ONNX operators.
    fn onnx_texts(&self, graph: &mut Graph, texts: &TextInputs) -> Edge {
        let tower = &self.text;
        let mut x = onnx::token_embeddings(graph, &texts.ids, texts.kinds.as_ref(), &tower.tables);
        let mut seen = AttentionContext::of_texts(graph, texts);
        for block in &tower.blocks {
            x = onnx::block(graph, &x, block, &mut seen);
        }
        let end = self.onnx_end_of_text(graph, texts);
        let x = graph.op("GatherND", &[&x, &end], &[Attribute::Int("batch_dims", 1)]);
        let x = onnx::layer_norm(graph, &x, &tower.final_norm);
        onnx::linear(graph, &x, &tower.projection)
    }

    /// Writes [`Clip::end_of_text`] as ONNX operators, with the output `[batch,
    /// 1]`.
    fn onnx_end_of_text(&self, graph: &mut Graph, texts: &TextInputs) -> Edge {
        let score = match self.config.text_config.eos_token_id {
            2 => texts.ids.clone(),
            id => {
                let ids = graph.cast(&texts.ids, DataType::Int64);
                let id = graph.int(i64::from(id));
                graph.op("Equal", &[&ids, &id], &[])
            }
        };
        // Ids are below 2^24, so a float represents them exactly.
        let score = graph.cast(&score, DataType::Float);
        let mask = graph.cast(&texts.mask, DataType::Float);
        let score = graph.op("Mul", &[&score, &mask], &[]);
        let given = [Attribute::Int("axis", 1), Attribute::Int("keepdims", 1)];
        graph.op("ArgMax", &[&score], &given)
    }

    /// Returns the position whose output represents the text.
    fn end_of_text(&self, ids: &[u32]) -> usize {
        let eos = match self.config.text_config.eos_token_id {
            2 => ids.iter().copied().max().unwrap_or(0),
            id => id,
        };
        ids.iter().position(|id| *id == eos).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests;
