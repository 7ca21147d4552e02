//! The activation between the two layers of a transformer's MLP.

use candle_core::Tensor;
use rayon::prelude::*;
use serde::Deserialize;

use crate::{kernels, kernels::simd};

/// The activation between the two layers of the MLP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) enum Activation {
    /// `x * sigmoid(1.702 x)`
    QuickGelu,
    /// `x * Phi(x)` (Hendrycks and Gimpel 2016, arXiv:1606.08415)
    Gelu,
    /// The same by a hyperbolic tangent.
    GeluTanh,
    /// `max(x, 0)`
    Relu,
    /// `x * sigmoid(x)`
    Silu,
}

impl TryFrom<String> for Activation {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        Self::parse(&name).ok_or_else(|| {
            let known = Self::KNOWN;
            format!("the activation `{name}` is not known; known are {known}")
        })
    }
}

impl Activation {
    /// The names that [`Activation::parse`] knows, for messages.
    pub(crate) const KNOWN: &str =
        "quick_gelu, gelu, gelu_new, gelu_pytorch_tanh, gelu_fast, relu, silu and swish";

    /// The name used in a Hugging Face `config.json`.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        match name {
            "quick_gelu" => Some(Self::QuickGelu),
            "gelu" => Some(Self::Gelu),
            "gelu_new" | "gelu_pytorch_tanh" | "gelu_fast" => Some(Self::GeluTanh),
            "relu" => Some(Self::Relu),
            "silu" | "swish" => Some(Self::Silu),
            _ => None,
        }
    }

    pub(super) fn forward(self, x: &[f32], y: &mut [f32]) {
        kernels::map(
            x,
            y,
            match self {
                Self::QuickGelu => simd::quick_gelu,
                Self::Gelu => simd::gelu,
                Self::GeluTanh => simd::gelu_tanh,
                Self::Relu => simd::relu,
                Self::Silu => simd::silu,
            },
        );
    }

    /// The activation for inference.
    pub(super) fn inference(self) -> simd::Activate {
        match self {
            Self::QuickGelu => simd::fast_quick_gelu,
            Self::Gelu => simd::fast_gelu,
            Self::GeluTanh => simd::fast_gelu_tanh,
            Self::Relu => simd::fast_relu,
            Self::Silu => simd::fast_swish,
        }
    }

    /// `g *= act'(x)` and `x = act(x)`.
    pub(super) fn backward(self, x: &mut [f32], g: &mut [f32]) {
        let kernel = match self {
            Self::QuickGelu => simd::quick_gelu_backward,
            Self::Gelu => simd::gelu_backward,
            Self::GeluTanh => simd::gelu_tanh_backward,
            Self::Relu => simd::relu_backward,
            Self::Silu => simd::silu_backward,
        };
        const CHUNK: usize = 16 * 1024;
        x.par_chunks_mut(CHUNK)
            .zip(g.par_chunks_mut(CHUNK))
            .for_each(|(x, g)| kernel(x, g));
    }

    /// From candle's operations.
    pub(crate) fn composite(self, x: &Tensor) -> candle_core::Result<Tensor> {
        match self {
            // sigmoid(z) = 1 / (1 + exp(-z)); candle's own sigmoid is in candle-nn.
            Self::QuickGelu => x / ((x * -1.702)?.exp()? + 1.0)?,
            Self::Gelu => x.gelu_erf(),
            Self::GeluTanh => x.gelu(),
            Self::Relu => x.relu(),
            Self::Silu => x.silu(),
        }
    }
}
