//! Code shared by the convolutional networks.

use candle_core::Tensor;
use serde_json::Value;

use super::{Input, Network};
use crate::{
    Error, Result,
    image::{ImageProcessor, ProcessorClass},
    kernels::simd::Curve,
    onnx::{self, Edge, Graph, Inputs},
    ops::{BatchNorm, ConvKind, ConvNorm, Padding, Pass, Pooler, Segments, pool},
    params::Params,
};

/// A convolution and its normalisation, with their names in a checkpoint.
#[derive(Clone, Debug)]
pub(super) struct Layer {
    convolution: String,
    norm: String,
    kind: ConvKind,
    inputs: usize,
    outputs: usize,
    kernel: usize,
    stride: usize,
    padding: Padding,
}

impl Layer {
    /// A layer with the names `{prefix}.{convolution}` and `{prefix}.{norm}`.
    pub(super) fn named(prefix: &str, convolution: &str, norm: &str) -> Self {
        Self {
            convolution: format!("{prefix}.{convolution}"),
            norm: format!("{prefix}.{norm}"),
            kind: ConvKind::Full,
            inputs: 0,
            outputs: 0,
            kernel: 1,
            stride: 1,
            padding: Padding::Both(0),
        }
    }

    /// Makes it a full convolution: every output channel reads every input
    /// channel.
    pub(super) fn full(self, inputs: usize, outputs: usize, kernel: usize, stride: usize) -> Self {
        Self {
            inputs,
            outputs,
            kernel,
            stride,
            // Keeps the size if the stride is 1.
            padding: Padding::Both(kernel / 2),
            ..self
        }
    }

    /// Makes it a depthwise convolution: each channel has its own kernel.
    pub(super) fn depthwise(self, channels: usize, kernel: usize, stride: usize) -> Self {
        Self {
            kind: ConvKind::Depthwise,
            ..self.full(channels, channels, kernel, stride)
        }
    }

    pub(super) fn padded(self, padding: Padding) -> Self {
        Self { padding, ..self }
    }

    fn weight_shape(&self) -> Vec<usize> {
        let inputs = match self.kind {
            ConvKind::Depthwise => 1,
            _ => self.inputs,
        };
        vec![self.outputs, inputs, self.kernel, self.kernel]
    }

    /// Returns the names and shapes of its tensors.
    pub(super) fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let weight = (format!("{}.weight", self.convolution), self.weight_shape());
        std::iter::once(weight)
            .chain(BatchNorm::tensors(&self.norm, self.outputs))
            .collect()
    }
}

/// Loads a layer's weights.
pub(super) fn load(params: &Params, layer: &Layer, eps: f32, curve: Curve) -> Result<ConvNorm> {
    Ok(ConvNorm {
        kind: layer.kind,
        weight: Some(params.get(
            &format!("{}.weight", layer.convolution),
            &layer.weight_shape(),
        )?),
        inputs: layer.inputs,
        outputs: layer.outputs,
        kernel: layer.kernel,
        stride: layer.stride,
        padding: layer.padding,
        norm: BatchNorm::load(params, &layer.norm, layer.outputs, eps)?,
        curve,
    })
}

/// Returns the image processor of a convolutional network. `file` is its
/// `preprocessor_config.json`, `class` the processor's class in `transformers`.
pub(super) fn cnn_processor(file: Option<&Value>, class: ProcessorClass) -> Result<ImageProcessor> {
    match file {
        Some(json) => ImageProcessor::parse(json, class, None),
        None => Ok(ImageProcessor::cnn()),
    }
}

/// A convolutional network without pooling.
pub(super) trait FeatureExtractor: Send + Sync {
    /// Returns the last feature map, `[batch, height, width, channels]`, for
    /// images `[batch, 3, height, width]`.
    fn features(&self, pass: &Pass, pixels: &Tensor) -> Result<Tensor>;

    /// Writes [`FeatureExtractor::features`] as ONNX operators, with the
    /// channels first.
    fn onnx_features(&self, graph: &mut Graph, pixels: &Edge) -> Result<Edge>;
}

/// A convolutional network, from pixels to one vector per image.
pub(super) struct Cnn<N> {
    network: N,
    pooler: Pooler,
}

impl<N: FeatureExtractor> Cnn<N> {
    /// Adds a pooling to a network.
    ///
    /// # Errors
    /// [`Error::Config`] if the pooling needs a class token.
    pub(super) fn new(network: N, pooler: Pooler) -> Result<Self> {
        match pooler {
            Pooler::Cls => Err(Error::config(
                "model_options.pooler",
                "`cls`: a convolutional network has no first token; use mean or GeM",
            )),
            _ => Ok(Self { network, pooler }),
        }
    }
}

impl<N: FeatureExtractor> Network for Cnn<N> {
    fn encode(&self, pass: &Pass, input: &Input) -> Result<Option<Tensor>> {
        match input {
            Input::Images(pixels) => {
                let features = self.network.features(pass, pixels)?;
                pool_map(pass, &features, self.pooler).map(Some)
            }
            _ => Ok(None),
        }
    }

    fn onnx(&self, graph: &mut Graph, inputs: &Inputs) -> Result<Option<Edge>> {
        let Inputs::Images(pixels, _) = inputs else {
            return Ok(None);
        };
        let features = self.network.onnx_features(graph, pixels)?;
        onnx::pool_map(graph, &features, self.pooler).map(Some)
    }
}

/// Returns images `[batch, 3, height, width]` in the layout `[batch, height,
/// width, 3]`.
pub(super) fn feature_map(pixels: &Tensor) -> Result<Tensor> {
    Ok(pixels.permute((0, 2, 3, 1))?.contiguous()?)
}

/// Pools each feature map `[batch, height, width, channels]` into one vector.
pub(super) fn pool_map(pass: &Pass, x: &Tensor, pooler: Pooler) -> Result<Tensor> {
    let (batch, height, width, channels) = x.dims4()?;
    let positions = height * width;
    let rows = x.reshape((batch * positions, channels))?;
    pool(pass, &rows, &Segments::uniform(batch, positions), pooler)
}
