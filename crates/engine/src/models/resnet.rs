//! ResNet (He et al. 2016, arXiv:1512.03385). Tensor names and behaviour follow
//! `ResNetModel` of Hugging Face's `transformers`.

use std::sync::Arc;

use candle_core::Tensor;
use serde::Deserialize;
use serde_json::Value;

use super::{
    Architecture, ModelKind, Network,
    cnn::{Cnn, FeatureExtractor, Layer, cnn_processor, feature_map, load},
};
use crate::{
    Error, Result,
    image::{ImageProcessor, ProcessorClass},
    kernels::simd::Curve,
    onnx::{self, Attribute, Edge, Graph},
    ops::{ConvNorm, FeatureMaps, Pass, Pooler, Shortcut, max_pool, run_layers},
    params::Params,
};

/// Sizes of a ResNet, read from its `config.json`. The defaults are those of a
/// ResNet-50.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
struct ResNetConfig {
    /// Channels of the first layer.
    embedding_size: usize,
    /// Output channels of each stage. The last one is the embedding dimension.
    hidden_sizes: Vec<usize>,
    /// Number of blocks of each stage.
    depths: Vec<usize>,
    /// `bottleneck` or `basic`.
    layer_type: String,
    /// The activation. All published models use `relu`.
    hidden_act: String,
    /// Whether the first stage halves the resolution, as the others do.
    downsample_in_first_stage: bool,
    /// Whether the stride is in the first convolution of a bottleneck, instead
    /// of the second.
    downsample_in_bottleneck: bool,
}

impl Default for ResNetConfig {
    fn default() -> Self {
        Self {
            embedding_size: 64,
            hidden_sizes: vec![256, 512, 1024, 2048],
            depths: vec![3, 4, 6, 3],
            layer_type: "bottleneck".to_owned(),
            hidden_act: "relu".to_owned(),
            downsample_in_first_stage: false,
            downsample_in_bottleneck: false,
        }
    }
}

/// Factor by which the middle layers of a bottleneck are narrower.
const REDUCTION: usize = 4;
/// Epsilon of the batch normalisations.
const EPS: f32 = 1e-5;

/// The layers of one block: a sequence, and the shortcut's.
struct BlockLayers {
    inner: Vec<Layer>,
    last: Layer,
    shortcut: Option<Layer>,
}

impl ResNetConfig {
    /// Parses a `config.json` of the type `resnet`.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] if it describes impossible sizes.
    fn parse(json: &Value) -> Result<Self> {
        let bad = |reason: String| Error::checkpoint(format!("config.json: {reason}"));
        let config = Self::deserialize(json).map_err(|e| bad(e.to_string()))?;
        if config.hidden_sizes.is_empty() || config.hidden_sizes.len() != config.depths.len() {
            return Err(bad(
                "`hidden_sizes` and `depths` must be non-empty lists of the same length".to_owned(),
            ));
        }
        let smallest = config.hidden_sizes.iter().chain(&config.depths).min();
        if config.embedding_size == 0 || smallest == Some(&0) {
            return Err(bad("a size is 0".to_owned()));
        }
        if !["bottleneck", "basic"].contains(&config.layer_type.as_str()) {
            return Err(bad(format!(
                "`layer_type` is `{}`; `bottleneck` and `basic` are known",
                config.layer_type
            )));
        }
        config.curve()?;
        Ok(config)
    }

    fn curve(&self) -> Result<Curve> {
        Curve::parse(&self.hidden_act).ok_or_else(|| {
            Error::checkpoint(format!(
                "config.json: `hidden_act` is `{}`; `relu` and `swish` are known",
                self.hidden_act
            ))
        })
    }

    fn stem(&self) -> Layer {
        Layer::named("embedder.embedder", "convolution", "normalization").full(
            3,
            self.embedding_size,
            7,
            2,
        )
    }

    fn blocks(&self) -> Vec<BlockLayers> {
        let mut blocks = Vec::new();
        let mut inputs = self.embedding_size;
        for (stage, (&outputs, &depth)) in self.hidden_sizes.iter().zip(&self.depths).enumerate() {
            for block in 0..depth {
                let steps = block == 0 && (stage > 0 || self.downsample_in_first_stage);
                let stride = if steps { 2 } else { 1 };
                let name = format!("encoder.stages.{stage}.layers.{block}");
                blocks.push(self.block(&name, inputs, outputs, stride));
                inputs = outputs;
            }
        }
        blocks
    }

    fn block(&self, name: &str, inputs: usize, outputs: usize, stride: usize) -> BlockLayers {
        let layer =
            |i: usize| Layer::named(&format!("{name}.layer.{i}"), "convolution", "normalization");
        let (inner, last) = if self.layer_type == "bottleneck" {
            let narrow = outputs / REDUCTION;
            let (first, second) = if self.downsample_in_bottleneck {
                (stride, 1)
            } else {
                (1, stride)
            };
            let inner = vec![
                layer(0).full(inputs, narrow, 1, first),
                layer(1).full(narrow, narrow, 3, second),
            ];
            (inner, layer(2).full(narrow, outputs, 1, 1))
        } else {
            let inner = vec![layer(0).full(inputs, outputs, 3, stride)];
            (inner, layer(1).full(outputs, outputs, 3, 1))
        };
        let shortcut = (inputs != outputs || stride != 1).then(|| {
            Layer::named(&format!("{name}.shortcut"), "convolution", "normalization")
                .full(inputs, outputs, 1, stride)
        });
        BlockLayers {
            inner,
            last,
            shortcut,
        }
    }
}

/// Parses a `config.json` of the type `resnet`.
pub(super) fn parse(json: &Value) -> Result<Arc<dyn Architecture>> {
    Ok(Arc::new(ResNetConfig::parse(json)?))
}

impl Architecture for ResNetConfig {
    fn kind(&self) -> ModelKind {
        ModelKind::Image
    }

    fn dim(&self) -> usize {
        self.hidden_sizes.last().copied().unwrap_or(0)
    }

    fn family(&self) -> &'static str {
        "cnn"
    }

    fn processor(&self, file: Option<&Value>) -> Result<Option<ImageProcessor>> {
        cnn_processor(file, ProcessorClass::ConvNext).map(Some)
    }

    fn prefixes(&self) -> &'static [&'static str] {
        &["resnet."]
    }

    fn build(&self, params: &Params, pooler: Pooler) -> Result<Box<dyn Network>> {
        Ok(Box::new(Cnn::new(ResNet::new(self, params)?, pooler)?))
    }

    fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let mut layers = vec![self.stem()];
        for block in self.blocks() {
            layers.extend(block.inner);
            layers.push(block.last);
            layers.extend(block.shortcut);
        }
        layers.iter().flat_map(Layer::tensors).collect()
    }
}

/// The network, up to its last feature map.
struct ResNet {
    stem: ConvNorm,
    blocks: Vec<Block>,
}

struct Block {
    inner: Vec<ConvNorm>,
    last: ConvNorm,
    shortcut: Option<ConvNorm>,
}

impl ResNet {
    fn new(config: &ResNetConfig, params: &Params) -> Result<Self> {
        let curve = config.curve()?;
        let build = |layer: &Layer, curve| load(params, layer, EPS, curve);
        let blocks = config.blocks().into_iter().map(|block| {
            let inner = block.inner.iter().map(|layer| build(layer, curve));
            let shortcut = block.shortcut.map(|layer| build(&layer, Curve::Identity));
            Ok(Block {
                inner: inner.collect::<Result<_>>()?,
                last: build(&block.last, curve)?,
                shortcut: shortcut.transpose()?,
            })
        });
        Ok(Self {
            stem: build(&config.stem(), curve)?,
            blocks: blocks.collect::<Result<_>>()?,
        })
    }
}

impl FeatureExtractor for ResNet {
    fn features(&self, pass: &Pass, pixels: &Tensor) -> Result<Tensor> {
        if let Some(maps) = FeatureMaps::of_images(pass, pixels)? {
            let mut maps = maps.layer(&self.stem)?.max_pool()?;
            for block in &self.blocks {
                maps = maps.block(&block.inner, &block.last, block.shortcut.as_ref())?;
            }
            return maps.to_tensor();
        }
        let x = self.stem.forward(pass, &feature_map(pixels)?, None)?;
        let mut x = max_pool(pass, &x)?;
        for block in &self.blocks {
            let shortcut = block.shortcut.as_ref();
            let shortcut = shortcut.map_or(Shortcut::Input, Shortcut::Layer);
            x = run_layers(pass, &x, &block.inner, &block.last, shortcut)?;
        }
        Ok(x)
    }

    fn onnx_features(&self, graph: &mut Graph, pixels: &Edge) -> Result<Edge> {
        let x = onnx::conv_norm(graph, pixels, &self.stem, None)?;
        let given = [
            Attribute::Ints("kernel_shape", vec![3, 3]),
            Attribute::Ints("strides", vec![2, 2]),
            Attribute::Ints("pads", vec![1, 1, 1, 1]),
        ];
        let mut x = graph.op("MaxPool", &[&x], &given);
        for block in &self.blocks {
            let shortcut = match &block.shortcut {
                Some(layer) => onnx::conv_norm(graph, &x, layer, None)?,
                None => x.clone(),
            };
            for layer in &block.inner {
                x = onnx::conv_norm(graph, &x, layer, None)?;
            }
            x = onnx::conv_norm(graph, &x, &block.last, Some(&shortcut))?;
        }
        Ok(x)
    }
}
