//! CLIP (Radford et al. 2021, arXiv:2103.00020): a picture tower and a text
//! tower that meet in one space.
//!
//! Tensor names, shapes and behaviour are those of `CLIPModel` of Hugging
//! Face's `transformers`, so that weights go both ways.

use std::{collections::HashMap, sync::Arc};

use candle_core::{Device, Tensor};
use serde::Deserialize;
use serde_json::Value;

use crate::{
    Error, Result,
    ops::{
        Activation, Block, BlockParams, Kernels, LayerNorm, Linear, Pass, Runtime, layer_norm,
        linear, patch_embeddings, token_embeddings,
    },
    params::{Param, Params, RawTensor},
    tokenizer::TokenBatch,
};

/// Shapes of a CLIP model, read from its `config.json`.
#[derive(Clone, Debug, Deserialize)]
pub struct ClipConfig {
    /// Length of an embedding.
    #[serde(default = "default::projection_dim")]
    pub projection_dim: usize,
    /// Where the logarithm of the logit scale starts.
    #[serde(default = "default::logit_scale")]
    pub logit_scale_init_value: f32,
    /// The text tower.
    #[serde(default)]
    pub text_config: TextConfig,
    /// The picture tower.
    #[serde(default)]
    pub vision_config: VisionConfig,
}

/// Shapes of the text tower. Defaults are those of `transformers`, which
/// leaves out what equals them.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub struct TextConfig {
    /// Number of tokens.
    pub vocab_size: usize,
    /// Width of the activations.
    pub hidden_size: usize,
    /// Width inside the MLPs.
    pub intermediate_size: usize,
    /// Number of blocks.
    pub num_hidden_layers: usize,
    /// Heads of a block.
    pub num_attention_heads: usize,
    /// Longest text in tokens.
    pub max_position_embeddings: usize,
    /// `quick_gelu` or `gelu`.
    pub hidden_act: String,
    /// Under the root of the layer norms.
    pub layer_norm_eps: f32,
    /// The token whose output is the text's embedding. The value 2, written
    /// by early checkpoints, stands for "the token with the highest id".
    pub eos_token_id: u32,
}

/// Shapes of the picture tower, with the defaults of `transformers`.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub struct VisionConfig {
    /// Width of the activations.
    pub hidden_size: usize,
    /// Width inside the MLPs.
    pub intermediate_size: usize,
    /// Number of blocks.
    pub num_hidden_layers: usize,
    /// Heads of a block.
    pub num_attention_heads: usize,
    /// Height and width of a picture in pixels.
    pub image_size: usize,
    /// Height and width of a patch in pixels.
    pub patch_size: usize,
    /// `quick_gelu` or `gelu`.
    pub hidden_act: String,
    /// Under the root of the layer norms.
    pub layer_norm_eps: f32,
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
        }
    }
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
        }
    }
}

impl ClipConfig {
    /// Reads a `config.json`.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] where it describes another kind of model, or
    /// shapes that no model can have.
    pub fn parse(json: &Value) -> Result<Self> {
        if let Some(kind) = json.get("model_type").and_then(Value::as_str)
            && kind != "clip"
        {
            return Err(Error::checkpoint(format!(
                "config.json describes a model of type `{kind}`; `clip` is wanted"
            )));
        }
        let config: Self = serde_json::from_value(json.clone())
            .map_err(|e| Error::checkpoint(format!("config.json: {e}")))?;
        let (text, vision) = (&config.text_config, &config.vision_config);
        let sizes = [
            ("projection_dim", config.projection_dim),
            ("text_config.vocab_size", text.vocab_size),
            (
                "text_config.max_position_embeddings",
                text.max_position_embeddings,
            ),
            ("text_config.intermediate_size", text.intermediate_size),
            ("vision_config.patch_size", vision.patch_size),
            ("vision_config.image_size", vision.image_size),
            ("vision_config.intermediate_size", vision.intermediate_size),
        ];
        if let Some((name, _)) = sizes.iter().find(|(_, size)| *size == 0) {
            return Err(Error::checkpoint(format!("config.json: `{name}` is 0")));
        }
        for (tower, width, heads) in [
            ("text_config", text.hidden_size, text.num_attention_heads),
            (
                "vision_config",
                vision.hidden_size,
                vision.num_attention_heads,
            ),
        ] {
            if heads == 0 || width == 0 || !width.is_multiple_of(heads) {
                return Err(Error::checkpoint(format!(
                    "config.json: `{tower}.hidden_size` {width} can't be split into {heads} heads"
                )));
            }
        }
        if !vision.image_size.is_multiple_of(vision.patch_size) {
            return Err(Error::checkpoint(format!(
                "config.json: pictures of {} pixels can't be cut into patches of {}",
                vision.image_size, vision.patch_size
            )));
        }
        Ok(config)
    }

    /// Name and shape of every tensor of the checkpoint, in the order of the
    /// computation.
    #[must_use]
    pub fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let (text, vision) = (&self.text_config, &self.vision_config);
        let (tw, vw) = (text.hidden_size, vision.hidden_size);
        let grid = vision.image_size / vision.patch_size;
        let mut all = vec![
            ("logit_scale".to_owned(), vec![]),
            (
                "text_model.embeddings.token_embedding.weight".to_owned(),
                vec![text.vocab_size, tw],
            ),
            (
                "text_model.embeddings.position_embedding.weight".to_owned(),
                vec![text.max_position_embeddings, tw],
            ),
            (
                "vision_model.embeddings.class_embedding".to_owned(),
                vec![vw],
            ),
            (
                "vision_model.embeddings.patch_embedding.weight".to_owned(),
                vec![vw, 3, vision.patch_size, vision.patch_size],
            ),
            (
                "vision_model.embeddings.position_embedding.weight".to_owned(),
                vec![grid * grid + 1, vw],
            ),
            (
                "visual_projection.weight".to_owned(),
                vec![self.projection_dim, vw],
            ),
            (
                "text_projection.weight".to_owned(),
                vec![self.projection_dim, tw],
            ),
        ];
        for (name, width) in [
            ("vision_model.pre_layrnorm", vw),
            ("vision_model.post_layernorm", vw),
            ("text_model.final_layer_norm", tw),
        ] {
            all.push((format!("{name}.weight"), vec![width]));
            all.push((format!("{name}.bias"), vec![width]));
        }
        for (tower, layers, width, hidden) in [
            (
                "text_model",
                text.num_hidden_layers,
                tw,
                text.intermediate_size,
            ),
            (
                "vision_model",
                vision.num_hidden_layers,
                vw,
                vision.intermediate_size,
            ),
        ] {
            for layer in 0..layers {
                for (part, shape) in [
                    ("layer_norm1", vec![width]),
                    ("layer_norm2", vec![width]),
                    ("self_attn.q_proj", vec![width, width]),
                    ("self_attn.k_proj", vec![width, width]),
                    ("self_attn.v_proj", vec![width, width]),
                    ("self_attn.out_proj", vec![width, width]),
                    ("mlp.fc1", vec![hidden, width]),
                    ("mlp.fc2", vec![width, hidden]),
                ] {
                    let name = format!("{tower}.encoder.layers.{layer}.{part}");
                    all.push((format!("{name}.bias"), vec![shape[0]]));
                    all.push((format!("{name}.weight"), shape));
                }
            }
        }
        all
    }
}

/// A CLIP model with its weights.
pub struct Clip {
    config: ClipConfig,
    params: Params,
    runtime: Runtime,
    vision: VisionTower,
    text: TextTower,
    logit_scale: Arc<Param>,
}

struct VisionTower {
    kernel: Arc<Param>,
    class: Arc<Param>,
    position: Arc<Param>,
    pre_norm: LayerNorm,
    blocks: Vec<Block>,
    post_norm: LayerNorm,
    projection: Linear,
}

struct TextTower {
    token: Arc<Param>,
    position: Arc<Param>,
    blocks: Vec<Block>,
    final_norm: LayerNorm,
    projection: Linear,
}

impl Clip {
    /// Puts a model together from the tensors of a checkpoint.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] where a tensor is missing or has another shape
    /// than `config` asks for.
    pub fn new(
        config: ClipConfig,
        mut tensors: HashMap<String, RawTensor>,
        device: &Device,
    ) -> Result<Self> {
        // What the model doesn't use stays out of the optimizer.
        let wanted: HashMap<String, Vec<usize>> = config.tensors().into_iter().collect();
        tensors.retain(|name, _| wanted.contains_key(name));
        if let Some((shape, _)) = tensors.get_mut("logit_scale") {
            shape.clear();
        }
        let params = Params::new(tensors, device, |_| true)?;
        let get = |name: &str| {
            let shape = wanted.get(name).map_or(&[][..], Vec::as_slice);
            params.get(name, shape)
        };
        let (t, v) = (&config.text_config, &config.vision_config);
        let blocks = |tower: &str, layers, width, hidden, heads, act: &str, eps, causal| {
            let activation = Activation::parse(act).ok_or_else(|| {
                Error::checkpoint(format!(
                    "config.json: `hidden_act` is `{act}`; `quick_gelu` and `gelu` are known"
                ))
            })?;
            (0..layers)
                .map(|layer| {
                    let name = format!("{tower}.encoder.layers.{layer}");
                    Ok(Block {
                        params: BlockParams::load_clip(&params, &name, width, hidden, eps)?,
                        heads,
                        activation,
                        causal,
                    })
                })
                .collect::<Result<Vec<_>>>()
        };
        let vision = VisionTower {
            kernel: get("vision_model.embeddings.patch_embedding.weight")?,
            class: get("vision_model.embeddings.class_embedding")?,
            position: get("vision_model.embeddings.position_embedding.weight")?,
            // The name in the checkpoint has this typo.
            pre_norm: LayerNorm::load(
                &params,
                "vision_model.pre_layrnorm",
                v.hidden_size,
                v.layer_norm_eps,
            )?,
            blocks: blocks(
                "vision_model",
                v.num_hidden_layers,
                v.hidden_size,
                v.intermediate_size,
                v.num_attention_heads,
                &v.hidden_act,
                v.layer_norm_eps,
                false,
            )?,
            post_norm: LayerNorm::load(
                &params,
                "vision_model.post_layernorm",
                v.hidden_size,
                v.layer_norm_eps,
            )?,
            projection: Linear::load(
                &params,
                "visual_projection",
                v.hidden_size,
                config.projection_dim,
                false,
            )?,
        };
        let text = TextTower {
            token: get("text_model.embeddings.token_embedding.weight")?,
            position: get("text_model.embeddings.position_embedding.weight")?,
            blocks: blocks(
                "text_model",
                t.num_hidden_layers,
                t.hidden_size,
                t.intermediate_size,
                t.num_attention_heads,
                &t.hidden_act,
                t.layer_norm_eps,
                true,
            )?,
            final_norm: LayerNorm::load(
                &params,
                "text_model.final_layer_norm",
                t.hidden_size,
                t.layer_norm_eps,
            )?,
            projection: Linear::load(
                &params,
                "text_projection",
                t.hidden_size,
                config.projection_dim,
                false,
            )?,
        };
        let logit_scale = get("logit_scale")?;
        Ok(Self {
            runtime: Runtime::new(&params)?,
            config,
            params,
            vision,
            text,
            logit_scale,
        })
    }

    /// The model's shapes.
    #[must_use]
    pub fn config(&self) -> &ClipConfig {
        &self.config
    }

    /// The model's parameters.
    #[must_use]
    pub fn params(&self) -> &Params {
        &self.params
    }

    /// The logarithm of what similarities are multiplied with in the loss.
    #[must_use]
    pub fn logit_scale(&self) -> &Arc<Param> {
        &self.logit_scale
    }

    /// Chooses between fused and composite operations. On the CPU the fused
    /// ones are the default; other devices have only the composite ones.
    pub fn set_kernels(&mut self, kernels: Kernels) {
        if self.params.device().is_cpu() {
            self.runtime.kernels = kernels;
        }
    }

    /// A pass for a training step.
    #[must_use]
    pub fn training(&self) -> Pass {
        self.runtime.training()
    }

    /// A pass that only computes.
    #[must_use]
    pub fn inference(&self) -> Pass {
        self.runtime.inference()
    }

    /// Embeddings `[batch, projection_dim]` of pictures `[batch, 3, height,
    /// width]`, which [`crate::image::ImageProcessor`] prepares. They are not
    /// normalised.
    ///
    /// # Errors
    /// Where the pictures have another size than the model.
    pub fn encode_images(&self, pass: &Pass, pixels: &Tensor) -> Result<Tensor> {
        let tower = &self.vision;
        let config = &self.config.vision_config;
        let dims = crate::ops::PatchDims {
            image: config.image_size,
            patch: config.patch_size,
            width: config.hidden_size,
        };
        let x = patch_embeddings(
            pass,
            pixels,
            dims,
            &tower.kernel,
            &tower.class,
            &tower.position,
        )?;
        let mut x = layer_norm(pass, &x, &tower.pre_norm)?;
        for block in &tower.blocks {
            x = block.forward(pass, &x)?;
        }
        let class = x.narrow(1, 0, 1)?.squeeze(1)?;
        let class = layer_norm(pass, &class, &tower.post_norm)?;
        linear(pass, &class, &tower.projection)
    }

    /// Embeddings `[batch, projection_dim]` of texts. They are not normalised.
    ///
    /// # Errors
    /// Where a token is outside the vocabulary or a text longer than the
    /// model's positions.
    pub fn encode_texts(&self, pass: &Pass, texts: &TokenBatch) -> Result<Tensor> {
        let tower = &self.text;
        let (seq, width) = (texts.seq, self.config.text_config.hidden_size);
        let mut x = token_embeddings(pass, &texts.ids, seq, &tower.token, &tower.position)?;
        for block in &tower.blocks {
            x = block.forward(pass, &x)?;
        }
        let ends: Vec<u32> = texts
            .ids
            .chunks_exact(seq)
            .enumerate()
            .map(|(row, ids)| (row * seq + self.end_of_text(ids)) as u32)
            .collect();
        let ends = Tensor::from_slice(&ends, ends.len(), self.params.device())?;
        // The norm works on each row alone, so it may come after the choice.
        let x = x.reshape(((), width))?.index_select(&ends, 0)?;
        let x = layer_norm(pass, &x, &tower.final_norm)?;
        linear(pass, &x, &tower.projection)
    }

    /// The position whose output stands for the text.
    fn end_of_text(&self, ids: &[u32]) -> usize {
        let eos = match self.config.text_config.eos_token_id {
            2 => ids.iter().copied().max().unwrap_or(0),
            id => id,
        };
        ids.iter().position(|id| *id == eos).unwrap_or(0)
    }
}
