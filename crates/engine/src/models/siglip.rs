//! SigLIP (Zhai et al. 2023, arXiv:2303.15343) and SigLIP 2 (Tschannen et al.
//! 2025, arXiv:2502.14786) for pictures of one size: a text tower and a picture
//! tower that meet in one space, for the sigmoid loss.
//!
//! Tensor names, shapes and behaviour are those of `SiglipModel` of Hugging
//! Face's `transformers`. Texts are filled up with padding, which the tower
//! attends to, and the last place stands for the text. A learned query looks at
//! all patches of a picture.

use std::{collections::HashMap, sync::Arc};

use candle_core::Tensor;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    Architecture, Input, LOGIT_BIAS, LOGIT_SCALE, ModelKind, Network,
    encoder::{bad_config, check_heads, check_sizes, load_blocks},
    random,
};
use crate::{
    Result,
    image::{ImageProcessor, ProcessorClass},
    onnx::{self, Attendance, Attribute, Edge, Graph, Inputs},
    ops::{
        Activation, AttentionConfig, AttentionPool, Block, BlockForm, CLIP_BLOCK, LayerNorm,
        Linear, NormKind, Pass, PatchDims, PatchLayers, Pooler, Positions, Segments, TokenTables,
        layer_norm, linear, patch_embeddings, run_blocks, token_embeddings,
    },
    params::{Param, Params, RawTensor},
    tokenizer::TokenBatch,
};

const TEXT_LAYERS: &str = "text_model.encoder.layers";
const VISION_LAYERS: &str = "vision_model.encoder.layers";
const HEAD: &str = "vision_model.head";

/// Shapes of a SigLIP, read from its `config.json`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct SiglipConfig {
    text_config: TextConfig,
    vision_config: VisionConfig,
}

/// Shapes of the blocks of a tower. Defaults are those of `transformers`, which
/// leaves out what equals them.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
struct Blocks {
    /// Width of the activations.
    hidden_size: usize,
    /// Width inside the MLPs.
    intermediate_size: usize,
    /// Number of blocks.
    num_hidden_layers: usize,
    /// Heads of a block.
    num_attention_heads: usize,
    /// The activation of the MLPs.
    hidden_act: Activation,
    /// Under the root of the layer norms.
    layer_norm_eps: f32,
}

/// Shapes of the text tower.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
struct TextConfig {
    #[serde(flatten)]
    blocks: Blocks,
    /// Number of tokens.
    vocab_size: usize,
    /// Tokens of a text with its padding.
    max_position_embeddings: usize,
    /// Length of an embedding; `hidden_size` where it is not given.
    projection_size: Option<usize>,
}

/// Shapes of the picture tower.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
struct VisionConfig {
    #[serde(flatten)]
    blocks: Blocks,
    /// Height and width of a picture in pixels.
    image_size: usize,
    /// Height and width of a patch in pixels.
    patch_size: usize,
    /// Channels of a picture; 3 are known.
    num_channels: usize,
    /// Whether it pools by attention; it must.
    vision_use_head: bool,
}

impl Default for Blocks {
    fn default() -> Self {
        Self {
            hidden_size: 768,
            intermediate_size: 3072,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            hidden_act: Activation::GeluTanh,
            layer_norm_eps: 1e-6,
        }
    }
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

impl Default for VisionConfig {
    fn default() -> Self {
        Self {
            blocks: Blocks::default(),
            image_size: 224,
            patch_size: 16,
            num_channels: 3,
            vision_use_head: true,
        }
    }
}

impl Blocks {
    fn form(&self) -> BlockForm {
        BlockForm {
            width: self.hidden_size,
            hidden: self.intermediate_size,
            activation: self.hidden_act,
            norm: NormKind::Layer,
            eps: self.layer_norm_eps,
            norm_first: true,
            attention: AttentionConfig::new(self.hidden_size, self.num_attention_heads),
        }
    }

    fn tensors(&self, layers: &str) -> Vec<(String, Vec<usize>)> {
        let names = (0..self.num_hidden_layers).map(|layer| format!("{layers}.{layer}"));
        let (width, hidden) = (self.hidden_size, self.intermediate_size);
        names
            .flat_map(|name| CLIP_BLOCK.tensors(&name, width, hidden))
            .collect()
    }

    fn load(&self, params: &Params, layers: &str) -> Result<Vec<Block>> {
        let (names, count) = (CLIP_BLOCK.layers(), self.num_hidden_layers);
        load_blocks(params, &names, layers, count, &self.form())
    }

    fn norm(&self, params: &Params, name: &str) -> Result<LayerNorm> {
        LayerNorm::load(params, name, self.hidden_size, self.layer_norm_eps)
    }
}

impl TextConfig {
    fn dim(&self) -> usize {
        self.projection_size.unwrap_or(self.blocks.hidden_size)
    }
}

impl VisionConfig {
    fn dims(&self) -> PatchDims {
        PatchDims {
            sides: [self.image_size; 2],
            patch: self.patch_size,
            width: self.blocks.hidden_size,
        }
    }
}

/// Reads a `config.json` of the type `siglip`.
pub(super) fn parse(json: &Value) -> Result<Arc<dyn Architecture>> {
    let config = SiglipConfig::deserialize(json).map_err(bad_config)?;
    let (text, vision) = (&config.text_config, &config.vision_config);
    check_sizes(&[
        ("text_config.vocab_size", text.vocab_size),
        (
            "text_config.max_position_embeddings",
            text.max_position_embeddings,
        ),
        (
            "text_config.intermediate_size",
            text.blocks.intermediate_size,
        ),
        (
            "vision_config.intermediate_size",
            vision.blocks.intermediate_size,
        ),
        ("vision_config.patch_size", vision.patch_size),
    ])?;
    for (field, blocks) in [
        ("text_config.hidden_size", &text.blocks),
        ("vision_config.hidden_size", &vision.blocks),
    ] {
        check_heads(field, blocks.hidden_size, blocks.num_attention_heads)?;
    }
    if vision.image_size < vision.patch_size {
        return Err(bad_config(format!(
            "`vision_config.image_size` {} is less than `patch_size` {}",
            vision.image_size, vision.patch_size
        )));
    }
    if vision.num_channels != 3 {
        return Err(bad_config(format!(
            "`vision_config.num_channels` is {}; 3 is known",
            vision.num_channels
        )));
    }
    if !vision.vision_use_head {
        return Err(bad_config(
            "`vision_config.vision_use_head` is false: without a head the model has no embeddings \
             of pictures",
        ));
    }
    if text.dim() != vision.blocks.hidden_size {
        return Err(bad_config(format!(
            "embeddings of texts have {} elements (`text_config.projection_size`, or \
             `hidden_size`), those of pictures {} (`vision_config.hidden_size`); both must be equal",
            text.dim(),
            vision.blocks.hidden_size
        )));
    }
    Ok(Arc::new(config))
}

/// Refuses a `config.json` of the type `siglip2`.
pub(super) fn parse_naflex(_: &Value) -> Result<Arc<dyn Architecture>> {
    Err(bad_config(
        "`model_type` is `siglip2`, a SigLIP 2 for pictures of every shape (NaFlex), which is not \
         supported. Take a SigLIP 2 for one size of pictures, such as \
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
        Some(self.vision_config.image_size)
    }

    fn processor(&self, file: Option<&Value>) -> Result<Option<ImageProcessor>> {
        let side = self.vision_config.image_size;
        let usual = json!({"size": {"height": side, "width": side}});
        let (file, sides) = (file.unwrap_or(&usual), Some([side as u32; 2]));
        ImageProcessor::parse(file, ProcessorClass::Siglip, sides).map(Some)
    }

    fn prefixes(&self) -> &'static [&'static str] {
        &["siglip."]
    }

    fn layer_marks(&self) -> &[&'static str] {
        &["encoder.layers."]
    }

    fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let (text, vision) = (&self.text_config, &self.vision_config);
        let (tw, vw) = (text.blocks.hidden_size, vision.blocks.hidden_size);
        let (patch, hidden) = (vision.patch_size, vision.blocks.intermediate_size);
        let named = |name: &str, shape: &[usize]| (name.to_owned(), shape.to_vec());
        let of_text = |name: &str, shape: &[usize]| named(&format!("text_model.{name}"), shape);
        let of_vision = |name: &str, shape: &[usize]| named(&format!("vision_model.{name}"), shape);
        let mut all = vec![
            named(LOGIT_SCALE, &[1]),
            named(LOGIT_BIAS, &[1]),
            of_text("embeddings.token_embedding.weight", &[text.vocab_size, tw]),
            of_text(
                "embeddings.position_embedding.weight",
                &[text.max_position_embeddings, tw],
            ),
            of_text("final_layer_norm.weight", &[tw]),
            of_text("final_layer_norm.bias", &[tw]),
            of_text("head.weight", &[text.dim(), tw]),
            of_text("head.bias", &[text.dim()]),
            of_vision("embeddings.patch_embedding.weight", &[vw, 3, patch, patch]),
            of_vision("embeddings.patch_embedding.bias", &[vw]),
            of_vision(
                "embeddings.position_embedding.weight",
                &[vision.dims().patches(), vw],
            ),
            of_vision("post_layernorm.weight", &[vw]),
            of_vision("post_layernorm.bias", &[vw]),
            of_vision("head.probe", &[1, 1, vw]),
            of_vision("head.attention.in_proj_weight", &[3 * vw, vw]),
            of_vision("head.attention.in_proj_bias", &[3 * vw]),
            of_vision("head.attention.out_proj.weight", &[vw, vw]),
            of_vision("head.attention.out_proj.bias", &[vw]),
            of_vision("head.layernorm.weight", &[vw]),
            of_vision("head.layernorm.bias", &[vw]),
            of_vision("head.mlp.fc1.weight", &[hidden, vw]),
            of_vision("head.mlp.fc1.bias", &[hidden]),
            of_vision("head.mlp.fc2.weight", &[vw, hidden]),
            of_vision("head.mlp.fc2.bias", &[vw]),
        ];
        all.extend(text.blocks.tensors(TEXT_LAYERS));
        all.extend(vision.blocks.tensors(VISION_LAYERS));
        all
    }

    fn build(&self, params: &Params, _: Pooler) -> Result<Box<dyn Network>> {
        Ok(Box::new(Siglip {
            text: TextTower::load(&self.text_config, params)?,
            vision: VisionTower::load(&self.vision_config, params)?,
            logit_scale: params.get(LOGIT_SCALE, &[1])?,
            logit_bias: params.get(LOGIT_BIAS, &[1])?,
        }))
    }

    /// Scale and bias begin as in section 3.2 of the paper.
    fn random_weights(&self, seed: u64) -> HashMap<String, RawTensor> {
        let mut all: HashMap<_, _> = random::fresh(self.tensors(), seed).collect();
        for (name, value) in [(LOGIT_SCALE, 10_f32.ln()), (LOGIT_BIAS, -10.0)] {
            all.insert(name.to_owned(), (vec![1], vec![value]));
        }
        all
    }
}

/// Both towers, and scale and bias of their similarities.
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
            Input::Images(pixels) => self.vision.encode(pass, pixels).map(Some),
            Input::Features(_) | Input::PointClouds(_) => Ok(None),
        }
    }

    fn onnx(&self, graph: &mut Graph, inputs: &Inputs) -> Result<Option<Edge>> {
        Ok(match inputs {
            Inputs::Texts(texts) => Some(self.text.onnx(graph, &texts.ids)),
            Inputs::Images(pixels, _) => Some(self.vision.onnx(graph, pixels)),
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

    /// Embeddings `[batch, dim]` of texts with their padding.
    fn encode(&self, pass: &Pass, texts: &TokenBatch) -> Result<Tensor> {
        let segments = texts.segments();
        let x = token_embeddings(pass, &texts.ids, &segments, &self.tables)?;
        let last = Pooler::LastToken.only(&segments);
        let x = run_blocks(&self.blocks, pass, &x, &segments, last.as_deref())?;
        let x = layer_norm(pass, &x, &self.norm)?;
        linear(pass, &x, &self.head)
    }

    fn onnx(&self, graph: &mut Graph, ids: &Edge) -> Edge {
        let mut x = onnx::token_embeddings(graph, ids, &self.tables);
        for block in &self.blocks {
            x = onnx::block(graph, &x, block, &mut Attendance::all());
        }
        let last = graph.int(-1);
        let x = graph.op("Gather", &[&x, &last], &[Attribute::Int("axis", 1)]);
        let x = onnx::layer_norm(graph, &x, &self.norm);
        onnx::linear(graph, &x, &self.head)
    }
}

struct VisionTower {
    dims: PatchDims,
    patches: PatchLayers,
    blocks: Vec<Block>,
    norm: LayerNorm,
    head: AttentionPool,
}

impl VisionTower {
    fn load(config: &VisionConfig, params: &Params) -> Result<Self> {
        let (dims, blocks) = (config.dims(), &config.blocks);
        let (width, patch) = (dims.width, dims.patch);
        let embedding = |name: &str, shape: &[usize]| {
            params.get(&format!("vision_model.embeddings.{name}"), shape)
        };
        Ok(Self {
            dims,
            patches: PatchLayers {
                kernel: embedding("patch_embedding.weight", &[width, 3, patch, patch])?,
                bias: Some(embedding("patch_embedding.bias", &[width])?),
                class: None,
                position: Some(embedding(
                    "position_embedding.weight",
                    &[dims.patches(), width],
                )?),
            },
            blocks: blocks.load(params, VISION_LAYERS)?,
            norm: blocks.norm(params, "vision_model.post_layernorm")?,
            head: AttentionPool::load(params, HEAD, &blocks.form())?,
        })
    }

    /// Embeddings `[batch, width]` of pictures `[batch, 3, height, width]`.
    fn encode(&self, pass: &Pass, pixels: &Tensor) -> Result<Tensor> {
        let x = patch_embeddings(pass, pixels, self.dims, &self.patches)?;
        let (batch, tokens, width) = x.dims3()?;
        let x = x.reshape((batch * tokens, width))?;
        let segments = Segments::uniform(batch, tokens);
        let x = run_blocks(&self.blocks, pass, &x, &segments, None)?;
        let x = layer_norm(pass, &x, &self.norm)?;
        self.head.forward(pass, &x, batch)
    }

    fn onnx(&self, graph: &mut Graph, pixels: &Edge) -> Edge {
        let mut x = onnx::patch_embeddings(graph, pixels, self.dims, &self.patches);
        for block in &self.blocks {
            x = onnx::block(graph, &x, block, &mut Attendance::all());
        }
        let x = onnx::layer_norm(graph, &x, &self.norm);
        onnx::attention_pool(graph, &x, &self.head)
    }
}
