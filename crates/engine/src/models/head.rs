//! The projection head that goes on top of a backbone where its embeddings
//! shall have another length, or where the backbone is frozen: two layers with
//! batch normalisation and a ReLU between them, as in the Python Finetuner.

use candle_core::Tensor;

use crate::{
    Result,
    kernels::simd::Curve,
    ops::{BatchNorm, ConvKind, ConvNorm, Linear, Padding, Pass, linear},
    params::Params,
};

/// What the names of its tensors begin with.
pub(crate) const PREFIX: &str = "projection_head.";
/// Under the root of the normalisations.
const EPS: f32 = 1e-5;

/// Lengths of what comes in and of the embedding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadConfig {
    /// Length of the backbone's embeddings.
    pub inputs: usize,
    /// Length of the embeddings that come out.
    pub outputs: usize,
}

impl HeadConfig {
    fn layers(self) -> [(usize, usize, usize); 2] {
        // The number of the layer; its normalisation has the next one.
        [
            (0, self.inputs, self.inputs),
            (3, self.inputs, self.outputs),
        ]
    }

    /// Name and shape of its tensors.
    #[must_use]
    pub fn tensors(self) -> Vec<(String, Vec<usize>)> {
        let mut all = Vec::new();
        for (number, inputs, outputs) in self.layers() {
            let name = |number: usize| format!("{PREFIX}head_layers.{number}");
            all.push((format!("{}.weight", name(number)), vec![outputs, inputs]));
            all.extend(BatchNorm::tensors(&name(number + 1), outputs));
        }
        all
    }
}

pub(crate) struct Head {
    layers: Vec<(Linear, ConvNorm)>,
}

impl Head {
    pub(crate) fn new(config: HeadConfig, params: &Params) -> Result<Self> {
        let layers = config.layers().map(|(number, inputs, outputs)| {
            let name = |number: usize| format!("{PREFIX}head_layers.{number}");
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
}
