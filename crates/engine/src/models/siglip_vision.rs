//! SigLIP's image tower, which is also a model of its own. Names, shapes and
//! behaviour follow `SiglipVisionModel` of Hugging Face's `transformers`. The
//! embedding is pooled by attention with a learned query.

use std::sync::Arc;

use candle_core::Tensor;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    Architecture, Input, ModelKind, Network,
    encoder::{bad_config, check_heads, check_sizes, load_blocks},
    rates::Rates,
};
use crate::{
    Error, Result,
    image::{ImageProcessor, ProcessorClass},
    onnx::{self, AttentionContext, Edge, Graph, Inputs},
    ops::{
        Activation, AttentionConfig, AttentionPool, Block, BlockForm, CLIP_BLOCK, LayerNorm,
        NormKind, Pass, PatchDims, PatchLayers, Pooler, Segments, layer_norm, patch_embeddings,
        run_blocks,
    },
    params::Params,
};

const LAYERS: &str = "encoder.layers";
const HEAD: &str = "head";

/// Sizes of a tower's blocks. `transformers` omits values that equal its
/// defaults, so the defaults here are the same.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub(super) struct Blocks {
    /// Width of the activations.
    pub(super) hidden_size: usize,
    /// Width inside the MLPs.
    intermediate_size: usize,
    /// Number of blocks.
    num_hidden_layers: usize,
    /// Attention heads of a block.
    num_attention_heads: usize,
    /// The activation of the MLPs.
    hidden_act: Activation,
    /// Epsilon of the layer norms.
    layer_norm_eps: f32,
    /// Dropout rates in training.
    #[serde(skip)]
    pub(super) rates: Rates,
}

/// Sizes of the image tower.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub(super) struct VisionConfig {
    #[serde(flatten)]
    pub(super) blocks: Blocks,
    /// Height and width of an image in pixels.
    image_size: usize,
    /// Height and width of a patch in pixels.
    patch_size: usize,
    /// Channels of an image; only 3 is supported.
    num_channels: usize,
    /// Whether the tower pools by attention; only `true` is supported.
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
            rates: Rates::default(),
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

/// Parses a `config.json` of the type `siglip_vision_model`.
pub(super) fn parse(json: &Value) -> Result<Arc<dyn Architecture>> {
    let mut config = VisionConfig::deserialize(json).map_err(bad_config)?;
    config.blocks.rates = Rates::attention(json)?;
    config.check("")?;
    Ok(Arc::new(config))
}

impl Blocks {
    /// Refuses impossible sizes. `part` is the prefix of field names in errors.
    pub(super) fn check(&self, part: &str) -> Result<()> {
        let field = |name: &str| format!("{part}{name}");
        check_sizes(&[(&field("intermediate_size"), self.intermediate_size)])?;
        let heads = self.num_attention_heads;
        check_heads(&field("hidden_size"), self.hidden_size, heads)
    }

    fn form(&self) -> BlockForm {
        BlockForm {
            width: self.hidden_size,
            hidden: self.intermediate_size,
            activation: self.hidden_act,
            norm: NormKind::Layer,
            eps: self.layer_norm_eps,
            norm_first: true,
            attention: AttentionConfig::new(self.hidden_size, self.num_attention_heads),
            rates: self.rates.blocks,
        }
    }

    pub(super) fn tensors(&self, layers: &str) -> Vec<(String, Vec<usize>)> {
        let names = (0..self.num_hidden_layers).map(|layer| format!("{layers}.{layer}"));
        let (width, hidden) = (self.hidden_size, self.intermediate_size);
        names
            .flat_map(|name| CLIP_BLOCK.tensors(&name, width, hidden))
            .collect()
    }

    pub(super) fn load(&self, params: &Params, layers: &str) -> Result<Vec<Block>> {
        let (names, count) = (CLIP_BLOCK.layers(), self.num_hidden_layers);
        load_blocks(params, &names, layers, count, &self.form())
    }

    pub(super) fn norm(&self, params: &Params, name: &str) -> Result<LayerNorm> {
        LayerNorm::load(params, name, self.hidden_size, self.layer_norm_eps)
    }
}

impl VisionConfig {
    /// Refuses impossible sizes. `part` is the prefix of field names in errors.
    pub(super) fn check(&self, part: &str) -> Result<()> {
        self.blocks.check(part)?;
        check_sizes(&[(&format!("{part}patch_size"), self.patch_size)])?;
        if self.image_size < self.patch_size {
            return Err(bad_config(format!(
                "`{part}image_size` {} is less than `patch_size` {}",
                self.image_size, self.patch_size
            )));
        }
        if self.num_channels != 3 {
            return Err(bad_config(format!(
                "`{part}num_channels` is {}; only 3 is supported",
                self.num_channels
            )));
        }
        if !self.vision_use_head {
            return Err(bad_config(format!(
                "`{part}vision_use_head` is false: without the head the model has no image \
                 embeddings"
            )));
        }
        Ok(())
    }

    fn dims(&self) -> PatchDims {
        PatchDims {
            sides: [self.image_size; 2],
            patch: self.patch_size,
            width: self.blocks.hidden_size,
        }
    }
}

impl Architecture for VisionConfig {
    fn kind(&self) -> ModelKind {
        ModelKind::Image
    }

    fn dim(&self) -> usize {
        self.blocks.hidden_size
    }

    fn family(&self) -> &'static str {
        "transformer"
    }

    fn image_size(&self) -> Option<usize> {
        Some(self.image_size)
    }

    fn processor(&self, file: Option<&Value>) -> Result<Option<ImageProcessor>> {
        let side = self.image_size;
        let usual = json!({"size": {"height": side, "width": side}});
        let (file, sides) = (file.unwrap_or(&usual), Some([side as u32; 2]));
        ImageProcessor::parse(file, ProcessorClass::Siglip, sides).map(Some)
    }

    fn prefixes(&self) -> &'static [&'static str] {
        &["vision_model."]
    }

    fn has_dropout(&self) -> bool {
        self.blocks.rates.any()
    }

    fn layer_prefixes(&self) -> &[&'static str] {
        &["encoder.layers."]
    }

    /// `cls` stands for the network's own attention pooling.
    fn default_pooler(&self) -> Pooler {
        Pooler::Cls
    }

    fn pooler_output(&self) -> Option<(Pooler, Option<&'static str>)> {
        Some((Pooler::Cls, None))
    }

    fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let (width, hidden) = (self.blocks.hidden_size, self.blocks.intermediate_size);
        let (patch, rows) = (self.patch_size, self.dims().patches());
        let shapes: [(&str, &[usize]); 16] = [
            (
                "embeddings.patch_embedding.weight",
                &[width, 3, patch, patch],
            ),
            ("embeddings.patch_embedding.bias", &[width]),
            ("embeddings.position_embedding.weight", &[rows, width]),
            ("post_layernorm.weight", &[width]),
            ("post_layernorm.bias", &[width]),
            ("head.probe", &[1, 1, width]),
            ("head.attention.in_proj_weight", &[3 * width, width]),
            ("head.attention.in_proj_bias", &[3 * width]),
            ("head.attention.out_proj.weight", &[width, width]),
            ("head.attention.out_proj.bias", &[width]),
            ("head.layernorm.weight", &[width]),
            ("head.layernorm.bias", &[width]),
            ("head.mlp.fc1.weight", &[hidden, width]),
            ("head.mlp.fc1.bias", &[hidden]),
            ("head.mlp.fc2.weight", &[width, hidden]),
            ("head.mlp.fc2.bias", &[width]),
        ];
        let named = |(name, shape): &(&str, &[usize])| ((*name).to_owned(), shape.to_vec());
        let mut all: Vec<_> = shapes.iter().map(named).collect();
        all.extend(self.blocks.tensors(LAYERS));
        all
    }

    fn build(&self, params: &Params, pooler: Pooler) -> Result<Box<dyn Network>> {
        if pooler != Pooler::Cls {
            let reason = "SigLIP pools images by its own attention: omit the field";
            return Err(Error::config("model_options.pooler", reason));
        }
        Ok(Box::new(VisionTower::load(self, params)?))
    }
}

/// The network, from pixels to one vector per image.
pub(super) struct VisionTower {
    dims: PatchDims,
    patches: PatchLayers,
    blocks: Vec<Block>,
    norm: LayerNorm,
    head: AttentionPool,
}

impl VisionTower {
    pub(super) fn load(config: &VisionConfig, params: &Params) -> Result<Self> {
        let (dims, blocks) = (config.dims(), &config.blocks);
        let (width, patch) = (dims.width, dims.patch);
        let embedding =
            |name: &str, shape: &[usize]| params.get(&format!("embeddings.{name}"), shape);
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
            blocks: blocks.load(params, LAYERS)?,
            norm: blocks.norm(params, "post_layernorm")?,
            head: AttentionPool::load(params, HEAD, &blocks.form())?,
        })
    }

    /// Returns embeddings `[batch, width]` of images `[batch, 3, height,
    /// width]`.
    pub(super) fn encode_images(&self, pass: &Pass, pixels: &Tensor) -> Result<Tensor> {
        let x = patch_embeddings(pass, pixels, self.dims, &self.patches)?;
        let (batch, tokens, width) = x.dims3()?;
        let x = x.reshape((batch * tokens, width))?;
        let segments = Segments::uniform(batch, tokens);
        let x = run_blocks(&self.blocks, pass, &x, &segments, None)?;
        let x = layer_norm(pass, &x, &self.norm)?;
        self.head.forward(pass, &x, batch)
    }

    pub(super) fn onnx_images(&self, graph: &mut Graph, pixels: &Edge) -> Edge {
        let mut x = onnx::patch_embeddings(graph, pixels, self.dims, &self.patches);
        let mut seen = AttentionContext::all();
        for block in &self.blocks {
            x = onnx::block(graph, &x, block, &mut seen);
        }
        let x = onnx::layer_norm(graph, &x, &self.norm);
        onnx::attention_pool(graph, &x, &self.head)
    }
}

impl Network for VisionTower {
    fn encode(&self, pass: &Pass, input: &Input) -> Result<Option<Tensor>> {
        match input {
            Input::Images(pixels) => self.encode_images(pass, pixels).map(Some),
            _ => Ok(None),
        }
    }

    fn onnx(&self, graph: &mut Graph, inputs: &Inputs) -> Result<Option<Edge>> {
        Ok(match inputs {
            Inputs::Images(pixels, _) => Some(self.onnx_images(graph, pixels)),
            _ => None,
        })
    }
}
