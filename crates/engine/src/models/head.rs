//! The projection head on top of a backbone, for embeddings of another
//! dimension or for a frozen backbone. It has two linear layers with batch
//! normalisation, and a ReLU between them, as in the Python Finetuner. A CLIP
//! has one head per tower.

use std::collections::HashMap;

use candle_core::Tensor;

use crate::{
    Error, Result,
    kernels::simd::Curve,
    modules::FoldedLayer,
    onnx::{self, Edge, Graph},
    ops::{BatchNorm, ConvKind, ConvNorm, Linear, Padding, Pass, linear},
    params::{Params, RawTensor},
};

/// Prefix of the head's tensor names.
pub(crate) const PREFIX: &str = "projection_head.";
/// Second part of the prefix for the two heads of a CLIP, of the text tower and
/// of the image tower. They equal the names of the model's parts.
const TOWERS: [&str; 2] = ["clip-text.", "clip-vision."];
/// Epsilon of the normalisations.
const EPS: f32 = 1e-5;

/// Input and output dimensions of a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadConfig {
    /// Dimension of the backbone's embeddings.
    pub inputs: usize,
    /// Dimension of the head's embeddings.
    pub outputs: usize,
}

impl HeadConfig {
    fn layers(self) -> [(usize, usize, usize); 2] {
        // The normalisation has the number after its layer's.
        [
            (0, self.inputs, self.inputs),
            (3, self.inputs, self.outputs),
        ]
    }

    /// Returns the names and shapes of the tensors of one head, or of a head
    /// per tower.
    #[must_use]
    pub fn tensors(self, towers: bool) -> Vec<(String, Vec<usize>)> {
        let mut all = Vec::new();
        for part in if towers { &TOWERS[..] } else { &[""] } {
            for (number, inputs, outputs) in self.layers() {
                let name = |number: usize| layer_name(part, number);
                all.push((format!("{}.weight", name(number)), vec![outputs, inputs]));
                all.extend(BatchNorm::tensors(&name(number + 1), outputs));
            }
        }
        all
    }
}

impl HeadConfig {
    /// Returns the evaluation form of the layers of a single head: `gamma (W x
    /// - mean) / sqrt(var + eps) + beta`.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] if a tensor is missing.
    pub(crate) fn folded(self, tensors: &HashMap<String, RawTensor>) -> Result<Vec<FoldedLayer>> {
        let layers = self.layers().map(|(number, inputs, outputs)| {
            let get = |number: usize, part: &str| {
                let name = format!("{}.{part}", layer_name("", number));
                let found = tensors.get(&name).map(|(_, values)| values);
                found.ok_or_else(|| Error::checkpoint(format!("the tensor `{name}` is missing")))
            };
            let (mean, var) = (
                get(number + 1, "running_mean")?,
                get(number + 1, "running_var")?,
            );
            let (gamma, beta) = (get(number + 1, "weight")?, get(number + 1, "bias")?);
            let scales = gamma.iter().zip(var);
            let scales: Vec<f64> = scales
                .map(|(gamma, var)| f64::from(*gamma) / (f64::from(*var) + f64::from(EPS)).sqrt())
                .collect();
            let rows = get(number, "weight")?.chunks_exact(inputs).zip(&scales);
            let weight = rows
                .flat_map(|(row, scale)| row.iter().map(move |w| (f64::from(*w) * scale) as f32));
            let moved = mean.iter().zip(beta).zip(&scales);
            let bias = moved
                .map(|((mean, beta), scale)| (f64::from(*beta) - f64::from(*mean) * scale) as f32);
            Ok(FoldedLayer {
                inputs,
                outputs,
                weight: weight.collect(),
                bias: bias.collect(),
                relu: number == 0,
            })
        });
        layers.into_iter().collect()
    }
}

fn layer_name(part: &str, number: usize) -> String {
    format!("{PREFIX}{part}head_layers.{number}")
}

/// The heads of a model: one, or one per tower of a CLIP.
pub(crate) enum Heads {
    One(Head),
    Towers { text: Head, image: Head },
}

impl Heads {
    pub(crate) fn new(config: HeadConfig, towers: bool, params: &Params) -> Result<Self> {
        Ok(if towers {
            let [text, image] = TOWERS;
            Self::Towers {
                text: Head::new(config, text, params)?,
                image: Head::new(config, image, params)?,
            }
        } else {
            Self::One(Head::new(config, "", params)?)
        })
    }

    /// Returns the only head, or that of the tower for texts or images.
    pub(crate) fn of(&self, texts: bool) -> &Head {
        match self {
            Self::One(head) => head,
            Self::Towers { text, .. } if texts => text,
            Self::Towers { image, .. } => image,
        }
    }
}

pub(crate) struct Head {
    layers: Vec<(Linear, ConvNorm)>,
}

impl Head {
    fn new(config: HeadConfig, part: &str, params: &Params) -> Result<Self> {
        let layers = config.layers().map(|(number, inputs, outputs)| {
            let name = |number: usize| layer_name(part, number);
            let curve = if number == 0 {
                Curve::Relu
            } else {
                Curve::Identity
            };
            Ok((
                Linear::load(params, &name(number), inputs, outputs, false)?,
                ConvNorm {
                    kind: ConvKind::None,
                    weight: None,
                    inputs: outputs,
                    outputs,
                    kernel: 1,
                    stride: 1,
                    padding: Padding::Both(0),
                    norm: BatchNorm::load(params, &name(number + 1), outputs, EPS)?,
                    curve,
                },
            ))
        });
        Ok(Self {
            layers: layers.into_iter().collect::<Result<_>>()?,
        })
    }

    pub(crate) fn forward(&self, pass: &Pass, x: &Tensor) -> Result<Tensor> {
        let mut x = x.clone();
        for (layer, norm) in &self.layers {
            x = linear(pass, &x, layer)?;
            let (rows, width) = x.dims2()?;
            x = norm.forward(pass, &x.reshape((rows, 1, 1, width))?, None)?;
            x = x.reshape((rows, width))?;
        }
        Ok(x)
    }

    /// Writes [`Head::forward`] in evaluation as ONNX operators.
    pub(crate) fn onnx(&self, graph: &mut Graph, x: &Edge) -> Result<Edge> {
        let mut x = x.clone();
        for (layer, norm) in &self.layers {
            x = onnx::affine_columns(graph, &x, layer, norm.norm.scale_and_shift()?);
            x = onnx::curve(graph, &x, norm.curve);
        }
        Ok(x)
    }
}
