//! CLIP's image tower, which is also a model of its own. Names, shapes and
//! behaviour follow `CLIPVisionModel` of Hugging Face's `transformers`. The
//! embedding is the class token after the last norm.

use std::sync::Arc;

use candle_core::Tensor;
use serde::Deserialize;
use serde_json::Value;

use super::{
    Architecture, Input, ModelKind, Network,
    encoder::{bad_config, check_heads, check_sizes},
    rates::Rates,
    text::{BlockShape, blocks},
};
use crate::{
    Error, Result,
    image::{ImageProcessor, ProcessorClass},
    onnx::{self, AttentionContext, Attribute, Edge, Graph, Inputs},
    ops::{
        Block, CLIP_BLOCK, LayerNorm, Pass, PatchDims, PatchLayers, Pooler, Segments, layer_norm,
        patch_embeddings, run_blocks,
    },
    params::Params,
};

const LAYERS: &str = "encoder.layers";

/// Number of embedding tensors, which come first, and of norm tensors, which
/// follow.
pub(super) const VISION_EMBEDDINGS: usize = 3;
pub(super) const VISION_NORMS: usize = 4;

/// Sizes of the image tower, with the defaults of `transformers`.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub(super) struct VisionConfig {
    /// Width of the activations.
    pub hidden_size: usize,
    /// Width inside the MLPs.
    pub intermediate_size: usize,
    /// Number of blocks.
    pub num_hidden_layers: usize,
    /// Attention heads of a block.
    pub num_attention_heads: usize,
    /// Height and width of an image in pixels.
    pub image_size: usize,
    /// Height and width of a patch in pixels.
    pub patch_size: usize,
    /// `quick_gelu` or `gelu`.
    pub hidden_act: String,
    /// Epsilon of the layer norms.
    pub layer_norm_eps: f32,
    /// Dropout rates in training.
    #[serde(skip)]
    pub(super) rates: Rates,
}

impl Default for VisionConfig {
    fn default() -> Self {
        Self {
            hidden_size: 768,
            intermediate_size: 3072,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            image_size: 224,
            patch_size: 32,
            hidden_act: "quick_gelu".to_owned(),
            layer_norm_eps: 1e-5,
            rates: Rates::default(),
        }
    }
}

/// Parses a `config.json` of the type `clip_vision_model`.
pub(super) fn parse(json: &Value) -> Result<Arc<dyn Architecture>> {
    let mut config = VisionConfig::deserialize(json).map_err(bad_config)?;
    config.rates = Rates::attention(json)?;
    config.check("")?;
    Ok(Arc::new(config))
}

impl VisionConfig {
    /// Refuses impossible sizes. `part` is the prefix of field names in errors.
    pub(super) fn check(&self, part: &str) -> Result<()> {
        let field = |name: &str| format!("{part}{name}");
        check_sizes(&[
            (&field("patch_size"), self.patch_size),
            (&field("image_size"), self.image_size),
            (&field("intermediate_size"), self.intermediate_size),
        ])?;
        let heads = self.num_attention_heads;
        check_heads(&field("hidden_size"), self.hidden_size, heads)?;
        if !self.image_size.is_multiple_of(self.patch_size) {
            return Err(bad_config(format!(
                "images of {} pixels can't be cut into patches of {}",
                self.image_size, self.patch_size
            )));
        }
        Ok(())
    }

    fn dims(&self) -> PatchDims {
        PatchDims {
            sides: [self.image_size; 2],
            patch: self.patch_size,
            width: self.hidden_size,
        }
    }
}

impl Architecture for VisionConfig {
    fn kind(&self) -> ModelKind {
        ModelKind::Image
    }

    fn dim(&self) -> usize {
        self.hidden_size
    }

    fn family(&self) -> &'static str {
        "transformer"
    }

    fn image_size(&self) -> Option<usize> {
        Some(self.image_size)
    }

    fn processor(&self, file: Option<&Value>) -> Result<Option<ImageProcessor>> {
        let size = self.image_size as u32;
        Ok(Some(match file {
            Some(json) => ImageProcessor::parse(json, ProcessorClass::Clip, Some([size; 2]))?,
            None => ImageProcessor::clip(size),
        }))
    }

    fn prefixes(&self) -> &'static [&'static str] {
        &["vision_model."]
    }

    fn has_dropout(&self) -> bool {
        self.rates.any()
    }

    fn layer_prefixes(&self) -> &[&'static str] {
        &["encoder.layers."]
    }

    fn default_pooler(&self) -> Pooler {
        Pooler::Cls
    }

    fn pooler_output(&self) -> Option<(Pooler, Option<&'static str>)> {
        Some((Pooler::Cls, None))
    }

    fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let (width, patch) = (self.hidden_size, self.patch_size);
        // The name in checkpoints has this typo.
        let norms = ["pre_layrnorm", "post_layernorm"].into_iter();
        let norms = norms.flat_map(|norm| [format!("{norm}.weight"), format!("{norm}.bias")]);
        let mut all = vec![
            ("embeddings.class_embedding".to_owned(), vec![width]),
            (
                "embeddings.patch_embedding.weight".to_owned(),
                vec![width, 3, patch, patch],
            ),
            (
                "embeddings.position_embedding.weight".to_owned(),
                vec![self.dims().patches() + 1, width],
            ),
        ];
        all.extend(norms.map(|name| (name, vec![width])));
        for layer in 0..self.num_hidden_layers {
            let name = format!("{LAYERS}.{layer}");
            all.extend(CLIP_BLOCK.tensors(&name, width, self.intermediate_size));
        }
        all
    }

    fn build(&self, params: &Params, pooler: Pooler) -> Result<Box<dyn Network>> {
        if pooler != Pooler::Cls {
            let reason = "CLIP's image tower returns its class token: only `cls` is possible";
            return Err(Error::config("model_options.pooler", reason));
        }
        Ok(Box::new(VisionTower::load(self, params)?))
    }
}

/// The network, from pixels to the class token of each image.
pub(super) struct VisionTower {
    dims: PatchDims,
    patches: PatchLayers,
    pre_norm: LayerNorm,
    blocks: Vec<Block>,
    post_norm: LayerNorm,
}

impl VisionTower {
    pub(super) fn load(config: &VisionConfig, params: &Params) -> Result<Self> {
        let (width, patch, dims) = (config.hidden_size, config.patch_size, config.dims());
        let embedding =
            |name: &str, shape: &[usize]| params.get(&format!("embeddings.{name}"), shape);
        let norm = |name: &str| LayerNorm::load(params, name, width, config.layer_norm_eps);
        let shape = BlockShape {
            width,
            hidden: config.intermediate_size,
            heads: config.num_attention_heads,
            activation: &config.hidden_act,
            eps: config.layer_norm_eps,
            causal: false,
            norm_first: true,
            rates: config.rates.blocks,
        };
        let count = config.num_hidden_layers;
        Ok(Self {
            dims,
            patches: PatchLayers {
                kernel: embedding("patch_embedding.weight", &[width, 3, patch, patch])?,
                bias: None,
                class: Some(embedding("class_embedding", &[width])?),
                position: Some(embedding(
                    "position_embedding.weight",
                    &[dims.patches() + 1, width],
                )?),
            },
            pre_norm: norm("pre_layrnorm")?,
            blocks: blocks(params, &CLIP_BLOCK, LAYERS, count, &shape)?,
            post_norm: norm("post_layernorm")?,
        })
    }

    /// Returns `[batch, width]` for images `[batch, 3, height, width]`.
    pub(super) fn encode_images(&self, pass: &Pass, pixels: &Tensor) -> Result<Tensor> {
        let x = patch_embeddings(pass, pixels, self.dims, &self.patches)?;
        let (batch, tokens, width) = x.dims3()?;
        let segments = Segments::uniform(batch, tokens);
        let x = x.reshape((batch * tokens, width))?;
        let x = layer_norm(pass, &x, &self.pre_norm)?;
        let class = run_blocks(&self.blocks, pass, &x, &segments, Some(&vec![0; batch]))?;
        layer_norm(pass, &class, &self.post_norm)
    }

    /// Writes [`VisionTower::encode_images`] as ONNX operators.
    pub(super) fn onnx_images(&self, graph: &mut Graph, pixels: &Edge) -> Edge {
        let x = onnx::patch_embeddings(graph, pixels, self.dims, &self.patches);
        let mut x = onnx::layer_norm(graph, &x, &self.pre_norm);
        let mut seen = AttentionContext::all();
        for block in &self.blocks {
            x = onnx::block(graph, &x, block, &mut seen);
        }
        let first = graph.int(0);
        let class = graph.op("Gather", &[&x, &first], &[Attribute::Int("axis", 1)]);
        onnx::layer_norm(graph, &class, &self.post_norm)
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
