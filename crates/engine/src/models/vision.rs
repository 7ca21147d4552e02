//! The network that all vision transformers share (Dosovitskiy et al. 2021,
//! arXiv:2010.11929): patches with a class token, blocks, a norm, and pooling.

use std::sync::Arc;

use candle_core::Tensor;
use serde::Deserialize;

use super::{
    Input, Network,
    encoder::{bad_config, check_heads, check_sizes},
};
use crate::{
    Error, Result,
    ops::{
        Activation, AttentionConfig, Block, BlockForm, LayerNorm, NormKind, Pass, PatchDims,
        PatchLayers, Pooler, Segments, layer_norm, patch_embeddings, pool, run_blocks,
    },
    params::{Param, Params},
};

/// Fields of the `config.json` of a vision transformer.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub(super) struct VisionFields {
    /// Width of the activations, and length of an embedding.
    pub(super) hidden_size: usize,
    /// Number of blocks.
    pub(super) num_hidden_layers: usize,
    /// Heads of a block.
    pub(super) num_attention_heads: usize,
    /// The activation of the MLPs.
    pub(super) hidden_act: Activation,
    /// Height and width of a picture in pixels.
    pub(super) image_size: usize,
    /// Height and width of a patch in pixels.
    pub(super) patch_size: usize,
    /// Channels of a picture; 3 are known.
    num_channels: usize,
    /// Whether queries, keys and values have biases.
    pub(super) qkv_bias: bool,
}

impl Default for VisionFields {
    fn default() -> Self {
        Self {
            hidden_size: 768,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            hidden_act: Activation::Gelu,
            image_size: 224,
            patch_size: 16,
            num_channels: 3,
            qkv_bias: true,
        }
    }
}

impl VisionFields {
    /// Refuses shapes that no model can have.
    pub(super) fn check(&self) -> Result<()> {
        check_heads("hidden_size", self.hidden_size, self.num_attention_heads)?;
        check_sizes(&[
            ("patch_size", self.patch_size),
            ("image_size", self.image_size),
        ])?;
        if self.num_channels != 3 {
            return Err(bad_config(format!(
                "`num_channels` is {}; 3 is known",
                self.num_channels
            )));
        }
        if self.image_size < self.patch_size {
            return Err(bad_config(format!(
                "`image_size` {} is less than `patch_size` {}",
                self.image_size, self.patch_size
            )));
        }
        Ok(())
    }

    /// Blocks of this width, with the norms first; `hidden` is the width inside
    /// the MLPs.
    pub(super) fn form(&self, hidden: usize, eps: f32) -> BlockForm {
        BlockForm {
            width: self.hidden_size,
            hidden,
            activation: self.hidden_act,
            norm: NormKind::Layer,
            eps,
            norm_first: true,
            attention: AttentionConfig::new(self.hidden_size, self.num_attention_heads),
        }
    }

    /// Tokens of a picture of the model's size, with the class token.
    pub(super) fn tokens(&self) -> usize {
        (self.image_size / self.patch_size).pow(2) + 1
    }

    /// Tensors before the blocks.
    pub(super) fn embeddings(&self) -> Vec<(String, Vec<usize>)> {
        let (width, patch) = (self.hidden_size, self.patch_size);
        let projection = "embeddings.patch_embeddings.projection";
        vec![
            ("embeddings.cls_token".to_owned(), vec![1, 1, width]),
            (
                "embeddings.position_embeddings".to_owned(),
                vec![1, self.tokens(), width],
            ),
            (format!("{projection}.weight"), vec![width, 3, patch, patch]),
            (format!("{projection}.bias"), vec![width]),
        ]
    }

    /// Builds the network over its blocks; `eps` is under the root of the last
    /// norm.
    pub(super) fn build(
        &self,
        params: &Params,
        blocks: Vec<Block>,
        eps: f32,
        pooler: Pooler,
        sizes: Sizes,
    ) -> Result<VisionEncoder> {
        let shapes = self.embeddings();
        let get = |part: usize| {
            let (name, shape) = &shapes[part];
            params.get(name, shape)
        };
        if !matches!(pooler, Pooler::Cls | Pooler::Mean | Pooler::GeM { .. }) {
            let reason = "mean, cls and GeM are possible for pictures";
            return Err(Error::config("model_options.pooler", reason));
        }
        Ok(VisionEncoder {
            fields: self.clone(),
            class: get(0)?,
            position: get(1)?,
            kernel: get(2)?,
            bias: get(3)?,
            blocks,
            norm: LayerNorm::load(params, "layernorm", self.hidden_size, eps)?,
            pooler,
            sizes,
        })
    }
}

/// Which sizes of pictures a network takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sizes {
    /// Its own.
    Own,
    /// Any: the table of positions is scaled along a cubic curve, as
    /// `interpolate` of PyTorch does.
    Any,
}

/// A picture model, from pixels to one vector for each picture.
pub(super) struct VisionEncoder {
    fields: VisionFields,
    class: Arc<Param>,
    position: Arc<Param>,
    kernel: Arc<Param>,
    bias: Arc<Param>,
    blocks: Vec<Block>,
    norm: LayerNorm,
    pooler: Pooler,
    sizes: Sizes,
}

impl VisionEncoder {
    fn encode_images(&self, pass: &Pass, pixels: &Tensor) -> Result<Tensor> {
        let (_, _, height, width) = pixels.dims4()?;
        let own = [self.fields.image_size; 2];
        let scaled = self.sizes == Sizes::Any && [height, width] != own;
        let dims = PatchDims {
            sides: if scaled { [height, width] } else { own },
            patch: self.fields.patch_size,
            width: self.fields.hidden_size,
        };
        let layers = PatchLayers {
            kernel: self.kernel.clone(),
            bias: Some(self.bias.clone()),
            class: Some(self.class.clone()),
            position: (!scaled).then(|| self.position.clone()),
        };
        let mut x = patch_embeddings(pass, pixels, dims, &layers)?;
        if scaled {
            x = x.broadcast_add(&self.scaled_positions(pass, dims.grid())?)?;
        }
        let (batch, tokens, width) = x.dims3()?;
        let x = x.reshape((batch * tokens, width))?;
        let segments = Segments::uniform(batch, tokens);
        let first = vec![0; batch];
        let only = (self.pooler == Pooler::Cls).then_some(&first[..]);
        let x = run_blocks(&self.blocks, pass, &x, &segments, only)?;
        let x = layer_norm(pass, &x, &self.norm)?;
        if self.pooler == Pooler::Cls {
            return Ok(x);
        }
        // The class token is no place of the picture.
        let patches = x.reshape((batch, tokens, width))?;
        let patches = patches.narrow(1, 1, tokens - 1)?.contiguous()?;
        let rows = patches.reshape((batch * (tokens - 1), width))?;
        let segments = Segments::uniform(batch, tokens - 1);
        pool(pass, &rows, &segments, self.pooler)
    }

    /// `[tokens, width]` for a grid of patches of another size.
    fn scaled_positions(&self, pass: &Pass, [rows, columns]: [usize; 2]) -> Result<Tensor> {
        let width = self.fields.hidden_size;
        let side = self.fields.image_size / self.fields.patch_size;
        let table = pass.value(&self.position);
        let table = table.reshape((side * side + 1, width))?;
        let (down, across) = (cubic_weights(side, rows), cubic_weights(side, columns));
        let mut weights = vec![0.0; rows * columns * side * side];
        for (place, weights) in weights.chunks_exact_mut(side * side).enumerate() {
            for (y, wy) in &down[place / columns] {
                for (x, wx) in &across[place % columns] {
                    weights[y * side + x] += wy * wx;
                }
            }
        }
        let weights = Tensor::from_vec(weights, (rows * columns, side * side), table.device())?;
        let patches = weights.matmul(&table.narrow(0, 1, side * side)?.contiguous()?)?;
        Ok(Tensor::cat(&[table.narrow(0, 0, 1)?, patches], 0)?)
    }
}

/// Which of `from` places make each of `to` places, and by how much: cubic
/// convolution (Keys 1981) with PyTorch's `a` of -0.75, its places at the centres
/// and repeated beyond the edges.
fn cubic_weights(from: usize, to: usize) -> Vec<[(usize, f32); 4]> {
    const A: f64 = -0.75;
    let near = |x: f64| ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0;
    let far = |x: f64| ((A * x - 5.0 * A) * x + 8.0 * A) * x - 4.0 * A;
    let scale = from as f64 / to as f64;
    (0..to)
        .map(|place| {
            let at = (place as f64 + 0.5) * scale - 0.5;
            let (base, t) = (at.floor(), at - at.floor());
            let weights = [far(1.0 + t), near(t), near(1.0 - t), far(2.0 - t)];
            [0, 1, 2, 3].map(|i| {
                let source = base - 1.0 + i as f64;
                let source = source.clamp(0.0, (from - 1) as f64) as usize;
                (source, weights[i] as f32)
            })
        })
        .collect()
}

impl Network for VisionEncoder {
    fn encode(&self, pass: &Pass, input: &Input) -> Result<Option<Tensor>> {
        match input {
            Input::Images(pixels) => self.encode_images(pass, pixels).map(Some),
            _ => Ok(None),
        }
    }
}
