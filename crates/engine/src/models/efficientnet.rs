//! EfficientNet (Tan and Le 2019, arXiv:1905.11946) and its Lite form (no
//! squeeze-and-excitation, ReLU6). Tensor names and behaviour follow
//! `EfficientNetModel` of Hugging Face's `transformers`.

use std::sync::Arc;

use candle_core::Tensor;
use serde::Deserialize;
use serde_json::Value;

use super::{
    Architecture, ModelKind, Network,
    cnn::{Cnn, FeatureExtractor, Layer, cnn_processor, feature_map, load, pool_map},
    rates::rate,
};
use crate::{
    Error, Result,
    image::{ImageProcessor, ProcessorClass},
    kernels::simd::Curve,
    onnx::{self, Edge, Graph},
    ops::{
        ConvNorm, Linear, Padding, Pass, Pooler, Shortcut, Site, dropout_examples, linear,
        run_layers, scale_channels,
    },
    params::Params,
};

/// Sizes of an EfficientNet, read from its `config.json`. The defaults are
/// those of `transformers`, which describe the B7.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
struct EfficientNetConfig {
    /// Height and width of an image in pixels.
    image_size: usize,
    /// Factor of the number of channels.
    width_coefficient: f64,
    /// Factor of the number of blocks.
    depth_coefficient: f64,
    /// Numbers of channels are multiples of this.
    depth_divisor: usize,
    /// Kernel size of each stage.
    kernel_sizes: Vec<usize>,
    /// Input channels of each stage.
    in_channels: Vec<usize>,
    /// Output channels of each stage.
    out_channels: Vec<usize>,
    /// Numbers of the blocks whose depthwise convolution has the same padding
    /// on all sides.
    depthwise_padding: Vec<usize>,
    /// Stride of the first block of each stage.
    strides: Vec<usize>,
    /// Number of blocks of each stage.
    num_block_repeats: Vec<usize>,
    /// Factor of the channels inside a block, per stage.
    expand_ratios: Vec<usize>,
    /// Channels inside squeeze-and-excitation, relative to a block's input; 0
    /// omits it.
    squeeze_expansion_ratio: f64,
    /// `swish` or `relu6`.
    hidden_act: String,
    /// Channels of the last feature map, which is the dimension of the
    /// embeddings.
    hidden_dim: usize,
    /// Epsilon of the batch normalisations.
    batch_norm_eps: f32,
    /// Rate of stochastic depth in the last block. It grows linearly with the
    /// block number.
    #[serde(skip)]
    drop_connect_rate: f32,
    /// Whether the coefficients leave the first layer's channels, and the block
    /// counts of the first and last stage, unchanged, as in the Lite form.
    fixed_ends: bool,
}

impl Default for EfficientNetConfig {
    fn default() -> Self {
        Self {
            image_size: 600,
            width_coefficient: 2.0,
            depth_coefficient: 3.1,
            depth_divisor: 8,
            kernel_sizes: vec![3, 3, 5, 3, 5, 5, 3],
            in_channels: vec![32, 16, 24, 40, 80, 112, 192],
            out_channels: vec![16, 24, 40, 80, 112, 192, 320],
            depthwise_padding: Vec::new(),
            strides: vec![1, 2, 2, 2, 1, 2, 1],
            num_block_repeats: vec![1, 2, 2, 3, 3, 4, 1],
            expand_ratios: vec![1, 6, 6, 6, 6, 6, 6],
            squeeze_expansion_ratio: 0.25,
            hidden_act: "swish".to_owned(),
            hidden_dim: 2560,
            batch_norm_eps: 1e-3,
            drop_connect_rate: 0.0,
            fixed_ends: false,
        }
    }
}

/// One block: expansion, depthwise convolution, squeeze-and-excitation,
/// projection.
struct BlockLayers {
    expand: Option<Layer>,
    depthwise: Layer,
    squeeze: Option<Squeeze>,
    project: Layer,
    /// Whether the input is added to the output.
    residual: bool,
}

#[derive(Clone)]
struct Squeeze {
    name: String,
    width: usize,
    narrow: usize,
}

impl EfficientNetConfig {
    /// Parses a `config.json` of the type `efficientnet`.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] if it describes impossible sizes.
    fn parse(json: &Value) -> Result<Self> {
        let bad = |reason: String| Error::checkpoint(format!("config.json: {reason}"));
        let mut config = Self::deserialize(json).map_err(|e| bad(e.to_string()))?;
        config.drop_connect_rate = rate(json, &["drop_connect_rate"], 0.2)?;
        let stages = config.in_channels.len();
        let lists = [
            ("kernel_sizes", &config.kernel_sizes),
            ("out_channels", &config.out_channels),
            ("strides", &config.strides),
            ("num_block_repeats", &config.num_block_repeats),
            ("expand_ratios", &config.expand_ratios),
            ("in_channels", &config.in_channels),
        ];
        for (name, list) in lists {
            if list.len() != stages || list.is_empty() || list.contains(&0) {
                return Err(bad(format!(
                    "`{name}` must hold a positive number for each of {stages} stages"
                )));
            }
        }
        let sensible = |x: f64| x.is_finite() && x > 0.0 && x < 100.0;
        if !sensible(config.width_coefficient) || !sensible(config.depth_coefficient) {
            return Err(bad("a coefficient is not a positive number".to_owned()));
        }
        if config.depth_divisor == 0 || config.hidden_dim == 0 || config.image_size == 0 {
            return Err(bad("a size is 0".to_owned()));
        }
        if config.hidden_dim != config.round(1280) {
            return Err(bad(format!(
                "`hidden_dim` is {}, but the last layer has {} channels",
                config.hidden_dim,
                config.round(1280)
            )));
        }
        config.curve()?;
        Ok(config)
    }

    fn curve(&self) -> Result<Curve> {
        Curve::parse(&self.hidden_act).ok_or_else(|| {
            Error::checkpoint(format!(
                "config.json: `hidden_act` is `{}`; `swish`, `relu` and `relu6` are known",
                self.hidden_act
            ))
        })
    }

    /// Scales a number of channels and rounds it to a multiple of the divisor,
    /// by at most 10% downwards.
    fn round(&self, channels: usize) -> usize {
        let scaled = channels as f64 * self.width_coefficient;
        let divisor = self.depth_divisor;
        let nearest = (scaled + divisor as f64 / 2.0) as usize / divisor * divisor;
        let rounded = nearest.max(divisor);
        if (rounded as f64) < 0.9 * scaled {
            rounded + divisor
        } else {
            rounded
        }
    }

    fn repeats(&self, stage: usize) -> usize {
        let count = self.num_block_repeats[stage];
        if self.fixed_ends && (stage == 0 || stage + 1 == self.num_block_repeats.len()) {
            return count;
        }
        (self.depth_coefficient * count as f64).ceil() as usize
    }

    fn stem_channels(&self) -> usize {
        if self.fixed_ends { 32 } else { self.round(32) }
    }

    fn stem(&self) -> Layer {
        Layer::named("embeddings", "convolution", "batchnorm")
            .full(3, self.stem_channels(), 3, 2)
            .padded(Padding::Sides(0, 1))
    }

    fn top(&self) -> Layer {
        let last = self.out_channels.last().copied().unwrap_or(0);
        Layer::named("encoder", "top_conv", "top_bn").full(self.round(last), self.hidden_dim, 1, 1)
    }

    fn blocks(&self) -> Vec<BlockLayers> {
        let mut blocks = Vec::new();
        for stage in 0..self.in_channels.len() {
            let outputs = self.round(self.out_channels[stage]);
            for repeat in 0..self.repeats(stage) {
                let number = blocks.len();
                let inputs = match (repeat, stage) {
                    (0, 0) => self.stem_channels(),
                    (0, _) => self.round(self.in_channels[stage]),
                    _ => outputs,
                };
                let stride = if repeat == 0 { self.strides[stage] } else { 1 };
                let wide = inputs * self.expand_ratios[stage];
                let kernel = self.kernel_sizes[stage];
                let name = |part: &str| format!("encoder.blocks.{number}.{part}");
                let mut depthwise =
                    Layer::named(&name("depthwise_conv"), "depthwise_conv", "depthwise_norm")
                        .depthwise(wide, kernel, stride);
                if stride == 2 && !self.depthwise_padding.contains(&number) {
                    depthwise = depthwise.padded(Padding::Sides(kernel / 2 - 1, kernel / 2));
                }
                let narrow = (inputs as f64 * self.squeeze_expansion_ratio) as usize;
                blocks.push(BlockLayers {
                    expand: (self.expand_ratios[stage] != 1).then(|| {
                        Layer::named(&name("expansion"), "expand_conv", "expand_bn")
                            .full(inputs, wide, 1, 1)
                    }),
                    depthwise,
                    squeeze: (self.squeeze_expansion_ratio > 0.0).then(|| Squeeze {
                        name: name("squeeze_excite"),
                        width: wide,
                        narrow: narrow.max(1),
                    }),
                    project: Layer::named(&name("projection"), "project_conv", "project_bn")
                        .full(wide, outputs, 1, 1),
                    residual: repeat > 0,
                });
            }
        }
        blocks
    }
}

/// Parses a `config.json` of the type `efficientnet`.
pub(super) fn parse(json: &Value) -> Result<Arc<dyn Architecture>> {
    Ok(Arc::new(EfficientNetConfig::parse(json)?))
}

impl Architecture for EfficientNetConfig {
    fn kind(&self) -> ModelKind {
        ModelKind::Image
    }

    fn dim(&self) -> usize {
        self.hidden_dim
    }

    fn family(&self) -> &'static str {
        "cnn"
    }

    fn processor(&self, file: Option<&Value>) -> Result<Option<ImageProcessor>> {
        cnn_processor(file, ProcessorClass::EfficientNet).map(Some)
    }

    fn has_dropout(&self) -> bool {
        self.drop_connect_rate > 0.0
    }

    fn prefixes(&self) -> &'static [&'static str] {
        &["efficientnet."]
    }

    fn build(&self, params: &Params, pooler: Pooler) -> Result<Box<dyn Network>> {
        Ok(Box::new(Cnn::new(
            EfficientNet::new(self, params)?,
            pooler,
        )?))
    }

    fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let mut all = self.stem().tensors();
        for block in self.blocks() {
            let layers = block
                .expand
                .iter()
                .chain([&block.depthwise, &block.project]);
            all.extend(layers.flat_map(Layer::tensors));
            if let Some(Squeeze {
                name,
                width,
                narrow,
            }) = block.squeeze
            {
                for (part, outputs, inputs) in
                    [("reduce", narrow, width), ("expand", width, narrow)]
                {
                    let shape = vec![outputs, inputs, 1, 1];
                    all.push((format!("{name}.{part}.weight"), shape));
                    all.push((format!("{name}.{part}.bias"), vec![outputs]));
                }
            }
        }
        all.extend(self.top().tensors());
        all
    }
}

/// The network, up to its last feature map.
struct EfficientNet {
    stem: ConvNorm,
    blocks: Vec<Block>,
    top: ConvNorm,
    curve: Curve,
}

struct Block {
    expand: Option<ConvNorm>,
    depthwise: ConvNorm,
    squeeze: Option<[Linear; 2]>,
    project: ConvNorm,
    residual: bool,
    /// Rate of stochastic depth.
    dropped: f32,
}

impl EfficientNet {
    fn new(config: &EfficientNetConfig, params: &Params) -> Result<Self> {
        let curve = config.curve()?;
        let build = |layer: &Layer, curve| load(params, layer, config.batch_norm_eps, curve);
        let blocks = config.blocks();
        // As in `transformers`, block 0 drops nothing.
        let each = config.drop_connect_rate / blocks.len().max(1) as f32;
        let blocks = blocks.into_iter().enumerate().map(|(number, block)| {
            let squeeze = block.squeeze.map(|s| -> Result<_> {
                let layer = |part: &str, inputs, outputs| {
                    Linear::load_pointwise(params, &format!("{}.{part}", s.name), inputs, outputs)
                };
                Ok([
                    layer("reduce", s.width, s.narrow)?,
                    layer("expand", s.narrow, s.width)?,
                ])
            });
            Ok(Block {
                expand: block.expand.map(|layer| build(&layer, curve)).transpose()?,
                depthwise: build(&block.depthwise, curve)?,
                squeeze: squeeze.transpose()?,
                project: build(&block.project, Curve::Identity)?,
                residual: block.residual,
                dropped: each * number as f32,
            })
        });
        Ok(Self {
            stem: build(&config.stem(), curve)?,
            blocks: blocks.collect::<Result<_>>()?,
            top: build(&config.top(), curve)?,
            curve,
        })
    }

    fn activate(&self, x: &Tensor) -> Result<Tensor> {
        Ok(match self.curve {
            Curve::Swish => (x * sigmoid(x)?)?,
            Curve::Relu6 => x.clamp(0.0, 6.0)?,
            Curve::Relu => x.relu()?,
            Curve::Identity => x.clone(),
        })
    }
}

impl FeatureExtractor for EfficientNet {
    fn features(&self, pass: &Pass, pixels: &Tensor) -> Result<Tensor> {
        let mut x = self.stem.forward(pass, &feature_map(pixels)?, None)?;
        for (number, block) in self.blocks.iter().enumerate() {
            // Dropout goes between the block and its shortcut, so the fused
            // operation can't add the input.
            let site = (Site::Convolution(number), block.dropped);
            let drops = block.residual && block.dropped > 0.0 && pass.has_draws();
            let before = drops.then(|| x.clone());
            let finished = |y: Tensor| match &before {
                None => Ok(y),
                Some(x) => Ok::<_, Error>((dropout_examples(pass, &y, site)? + x)?),
            };
            let Some([reduce, expand]) = &block.squeeze else {
                let shortcut = match block.residual && !drops {
                    true => Shortcut::Input,
                    false => Shortcut::None,
                };
                let inner = [
                    block.expand.as_slice(),
                    std::slice::from_ref(&block.depthwise),
                ];
                let y = run_layers(pass, &x, &inner.concat(), &block.project, shortcut)?;
                x = finished(y)?;
                continue;
            };
            let wide = run_layers(
                pass,
                &x,
                block.expand.as_slice(),
                &block.depthwise,
                Shortcut::None,
            )?;
            let narrow = linear(pass, &pool_map(pass, &wide, Pooler::Mean)?, reduce)?;
            let scale = linear(pass, &self.activate(&narrow)?, expand)?;
            let scaled = scale_channels(pass, &wide, &sigmoid(&scale)?)?;
            let residual = (block.residual && !drops).then_some(&x);
            let y = block.project.forward(pass, &scaled, residual)?;
            x = finished(y)?;
        }
        self.top.forward(pass, &x, None)
    }

    fn onnx_features(&self, graph: &mut Graph, pixels: &Edge) -> Result<Edge> {
        let mut x = onnx::conv_norm(graph, pixels, &self.stem, None)?;
        for block in &self.blocks {
            let mut wide = x.clone();
            for layer in block.expand.iter().chain([&block.depthwise]) {
                wide = onnx::conv_norm(graph, &wide, layer, None)?;
            }
            if let Some([reduce, expand]) = &block.squeeze {
                let mean = graph.op("GlobalAveragePool", &[&wide], &[]);
                let narrow = onnx::pointwise(graph, &mean, reduce);
                let narrow = onnx::curve(graph, &narrow, self.curve);
                let scale = onnx::pointwise(graph, &narrow, expand);
                let scale = graph.op("Sigmoid", &[&scale], &[]);
                wide = graph.op("Mul", &[&wide, &scale], &[]);
            }
            let residual = block.residual.then_some(&x);
            x = onnx::conv_norm(graph, &wide, &block.project, residual)?;
        }
        onnx::conv_norm(graph, &x, &self.top, None)
    }
}

fn sigmoid(x: &Tensor) -> Result<Tensor> {
    Ok((x.neg()?.exp()? + 1.0)?.recip()?)
}
