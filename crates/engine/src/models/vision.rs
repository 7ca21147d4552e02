//! The network shared by all vision transformers (Dosovitskiy et al. 2021,
//! arXiv:2010.11929): patches with a class token, blocks, a norm, and pooling.

use std::sync::Arc;

use candle_core::Tensor;
use serde::Deserialize;

use super::{
    Input, Network,
    encoder::{bad_config, check_heads, check_sizes, load_blocks},
    rates::Rates,
};
use crate::{
    Error, Result,
    onnx::{self, AttentionContext, Attribute, Edge, Graph, Inputs},
    ops::{
        Activation, AttentionConfig, Block, BlockForm, BlockLayers, LayerNorm, NormKind, Pass,
        PatchDims, PatchLayers, Pooler, Segments, Site, dropout, layer_norm, patch_embeddings,
        pool, run_blocks,
    },
    params::{Param, Params},
};

const LAYERS: &str = "encoder.layer";
const LAST_NORM: &str = "layernorm";

/// Fields of the `config.json` of a vision transformer.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub(super) struct VisionFields {
    /// Width of the activations, which is the embedding dimension.
    pub(super) hidden_size: usize,
    /// Number of blocks.
    pub(super) num_hidden_layers: usize,
    /// Attention heads of a block.
    pub(super) num_attention_heads: usize,
    /// The activation of the MLPs.
    pub(super) hidden_act: Activation,
    /// Height and width of an image in pixels.
    pub(super) image_size: usize,
    /// Height and width of a patch in pixels.
    pub(super) patch_size: usize,
    /// Channels of an image; only 3 is supported.
    num_channels: usize,
    /// Whether queries, keys and values have biases.
    pub(super) qkv_bias: bool,
    /// Whether attention is causal; only `false` is supported.
    is_causal: Option<bool>,
    /// Dropout rates in training.
    #[serde(skip)]
    pub(super) rates: Rates,
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
            is_causal: None,
            rates: Rates::default(),
        }
    }
}

impl VisionFields {
    /// Refuses impossible sizes.
    pub(super) fn check(&self) -> Result<()> {
        check_heads("hidden_size", self.hidden_size, self.num_attention_heads)?;
        check_sizes(&[
            ("patch_size", self.patch_size),
            ("image_size", self.image_size),
        ])?;
        if self.num_channels != 3 {
            return Err(bad_config(format!(
                "`num_channels` is {}; only 3 is supported",
                self.num_channels
            )));
        }
        if self.is_causal == Some(true) {
            return Err(bad_config(
                "`is_causal` is true; only networks with bidirectional attention are supported",
            ));
        }
        if self.image_size < self.patch_size {
            return Err(bad_config(format!(
                "`image_size` {} is less than `patch_size` {}",
                self.image_size, self.patch_size
            )));
        }
        Ok(())
    }

    /// Returns the form of pre-norm blocks; `hidden` is the width inside the
    /// MLPs.
    pub(super) fn form(&self, hidden: usize, eps: f32) -> BlockForm {
        BlockForm {
            width: self.hidden_size,
            hidden,
            activation: self.hidden_act,
            norm: NormKind::Layer,
            eps,
            norm_first: true,
            attention: AttentionConfig::new(self.hidden_size, self.num_attention_heads),
            rates: self.rates.blocks,
        }
    }

    /// Returns the number of tokens of an image of the model's size, with the
    /// class token.
    pub(super) fn tokens(&self) -> usize {
        (self.image_size / self.patch_size).pow(2) + 1
    }

    /// Returns the tensors before the blocks.
    fn embeddings(&self) -> Vec<(String, Vec<usize>)> {
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

    /// Returns all tensors of a network with these blocks.
    pub(super) fn tensors(
        &self,
        layers: &BlockLayers,
        form: &BlockForm,
    ) -> Vec<(String, Vec<usize>)> {
        let mut all = self.embeddings();
        for layer in 0..self.num_hidden_layers {
            all.extend(layers.tensors(&format!("{LAYERS}.{layer}"), form));
        }
        all.extend(form.norm.tensors(LAST_NORM, self.hidden_size));
        all
    }

    /// Returns the position table `[tokens, width]`, interpolated for another
    /// grid of patches.
    fn scaled_positions(&self, table: &Tensor, [rows, columns]: [usize; 2]) -> Result<Tensor> {
        let side = self.image_size / self.patch_size;
        let table = table.reshape((side * side + 1, self.hidden_size))?;
        let (down, across) = (cubic_weights(side, rows), cubic_weights(side, columns));
        let mut weights = vec![0.0; rows * columns * side * side];
        for (index, weights) in weights.chunks_exact_mut(side * side).enumerate() {
            for (y, wy) in &down[index / columns] {
                for (x, wx) in &across[index % columns] {
                    weights[y * side + x] += wy * wx;
                }
            }
        }
        let weights = Tensor::from_vec(weights, (rows * columns, side * side), table.device())?;
        let patches = weights.matmul(&table.narrow(0, 1, side * side)?.contiguous()?)?;
        Ok(Tensor::cat(&[table.narrow(0, 0, 1)?, patches], 0)?)
    }

    /// Builds the network from its weights. The last norm has the epsilon of
    /// the blocks' norms.
    pub(super) fn build(
        &self,
        params: &Params,
        layers: &BlockLayers,
        form: &BlockForm,
        pooler: Pooler,
        sizes: ImageSizes,
    ) -> Result<Box<dyn Network>> {
        let shapes = self.embeddings();
        let get = |part: usize| {
            let (name, shape) = &shapes[part];
            params.get(name, shape)
        };
        if !matches!(pooler, Pooler::Cls | Pooler::Mean | Pooler::GeM { .. }) {
            let reason = "images can be pooled by mean, cls or GeM";
            return Err(Error::config("model_options.pooler", reason));
        }
        Ok(Box::new(VisionEncoder {
            fields: self.clone(),
            class: get(0)?,
            position: get(1)?,
            kernel: get(2)?,
            bias: get(3)?,
            blocks: load_blocks(params, layers, LAYERS, self.num_hidden_layers, form)?,
            norm: LayerNorm::load(params, LAST_NORM, self.hidden_size, form.eps)?,
            pooler,
            sizes,
        }))
    }
}

/// Returns the name of a block's tensor or layer in `transformers` from version
/// 5 on.
pub(super) fn module_name(name: &str) -> String {
    const RENAMED: [(&str, &str); 6] = [
        ("attention.attention.query", "attention.q_proj"),
        ("attention.attention.key", "attention.k_proj"),
        ("attention.attention.value", "attention.v_proj"),
        ("attention.output.dense", "attention.o_proj"),
        ("intermediate.dense", "mlp.fc1"),
        ("output.dense", "mlp.fc2"),
    ];
    let found = RENAMED.iter().find(|(own, _)| name.contains(own));
    match found {
        Some((own, theirs)) => name.replacen(own, theirs, 1),
        None => name.to_owned(),
    }
}

/// The image sizes that a network takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ImageSizes {
    /// Only the size in its `config.json`.
    Own,
    /// Any. The position table is interpolated bicubically, as in PyTorch's
    /// `interpolate`.
    Any,
}

/// An image model, from pixels to one vector per image.
struct VisionEncoder {
    fields: VisionFields,
    class: Arc<Param>,
    position: Arc<Param>,
    kernel: Arc<Param>,
    bias: Arc<Param>,
    blocks: Vec<Block>,
    norm: LayerNorm,
    pooler: Pooler,
    sizes: ImageSizes,
}

impl VisionEncoder {
    /// Returns the sizes of the patch layer for images of these sides, and
    /// whether the position table must be interpolated.
    fn patch_dims(&self, sides: [usize; 2]) -> (PatchDims, bool) {
        let own = [self.fields.image_size; 2];
        let scaled = self.sizes == ImageSizes::Any && sides != own;
        let dims = PatchDims {
            sides: if scaled { sides } else { own },
            patch: self.fields.patch_size,
            width: self.fields.hidden_size,
        };
        (dims, scaled)
    }

    fn patch_layers(&self, scaled: bool) -> PatchLayers {
        PatchLayers {
            kernel: self.kernel.clone(),
            bias: Some(self.bias.clone()),
            class: Some(self.class.clone()),
            position: (!scaled).then(|| self.position.clone()),
        }
    }

    fn encode_images(&self, pass: &Pass, pixels: &Tensor) -> Result<Tensor> {
        let (_, _, height, width) = pixels.dims4()?;
        let (dims, scaled) = self.patch_dims([height, width]);
        let layers = self.patch_layers(scaled);
        let mut x = patch_embeddings(pass, pixels, dims, &layers)?;
        if scaled {
            let table = pass.value(&self.position);
            x = x.broadcast_add(&self.fields.scaled_positions(&table, dims.grid())?)?;
        }
        let (batch, tokens, width) = x.dims3()?;
        let x = x.reshape((batch * tokens, width))?;
        let segments = Segments::uniform(batch, tokens);
        let embeddings = (Site::Embeddings, self.fields.rates.embeddings);
        let x = dropout(pass, &x, embeddings, &segments, None)?;
        let first = vec![0; batch];
        let only = (self.pooler == Pooler::Cls).then_some(&first[..]);
        let x = run_blocks(&self.blocks, pass, &x, &segments, only)?;
        let x = layer_norm(pass, &x, &self.norm)?;
        if self.pooler == Pooler::Cls {
            return Ok(x);
        }
        // The class token is not part of the image.
        let patches = x.reshape((batch, tokens, width))?;
        let patches = patches.narrow(1, 1, tokens - 1)?.contiguous()?;
        let rows = patches.reshape((batch * (tokens - 1), width))?;
        let segments = Segments::uniform(batch, tokens - 1);
        pool(pass, &rows, &segments, self.pooler)
    }
}

/// Returns the source positions and weights of each target position, by cubic
/// convolution (Keys 1981) with PyTorch's `a` of -0.75. Positions are at pixel
/// centres, and edge values repeat beyond the edges.
fn cubic_weights(from: usize, to: usize) -> Vec<[(usize, f32); 4]> {
    const A: f64 = -0.75;
    let near = |x: f64| ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0;
    let far = |x: f64| ((A * x - 5.0 * A) * x + 8.0 * A) * x - 4.0 * A;
    let scale = from as f64 / to as f64;
    (0..to)
        .map(|index| {
            let at = (index as f64 + 0.5) * scale - 0.5;
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

    /// The graph takes images of its input's fixed sides.
    fn onnx(&self, graph: &mut Graph, inputs: &Inputs) -> Result<Option<Edge>> {
        let Inputs::Images(pixels, sides) = inputs else {
            return Ok(None);
        };
        let (dims, scaled) = self.patch_dims(*sides);
        let mut x = onnx::patch_embeddings(graph, pixels, dims, &self.patch_layers(scaled));
        if scaled {
            let (fields, position) = (self.fields.clone(), self.position.clone());
            let name = format!("{}.scaled", position.name());
            let shape = vec![dims.patches() + 1, dims.width];
            let positions = graph.computed(&name, shape, move || {
                let table = position.tensor().detach();
                let scaled = fields.scaled_positions(&table, dims.grid())?;
                Ok(scaled.flatten_all()?.to_vec1()?)
            });
            x = graph.op("Add", &[&x, &positions], &[]);
        }
        for block in &self.blocks {
            x = onnx::block(graph, &x, block, &mut AttentionContext::all());
        }
        let x = onnx::layer_norm(graph, &x, &self.norm);
        if self.pooler == Pooler::Cls {
            let first = graph.int(0);
            return Ok(Some(graph.op(
                "Gather",
                &[&x, &first],
                &[Attribute::Int("axis", 1)],
            )));
        }
        let (start, end, axis) = (graph.ints(&[1]), graph.ints(&[i64::MAX]), graph.ints(&[1]));
        let patches = graph.op("Slice", &[&x, &start, &end, &axis], &[]);
        // Treats the patches as a feature map with channels first and a width
        // of 1.
        let map = graph.transpose(&patches, &[0, 2, 1]);
        let map = graph.unsqueeze(&map, &[3]);
        onnx::pool_map(graph, &map, self.pooler).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::models::ModelConfig;

    #[test]
    fn causal_networks_are_refused() {
        for kind in ["vit", "dinov2"] {
            let parse = |causal: bool| {
                let config = json!({"model_type": kind, "is_causal": causal});
                ModelConfig::parse(&config).map(drop)
            };
            assert!(parse(false).is_ok());
            let refused = parse(true).unwrap_err().to_string();
            assert!(refused.contains("`is_causal` is true"), "{refused}");
        }
    }
}
