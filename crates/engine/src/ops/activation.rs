//! Activations between the two layers of a transformer's MLP.

use std::f64::consts::{FRAC_1_SQRT_2, PI};

use candle_core::Tensor;
use rayon::prelude::*;
use serde::Deserialize;

use super::{Pass, node::node, tensors::sigmoid};
use crate::{Result, kernels, kernels::simd};

/// An activation between the two layers of an MLP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) enum Activation {
    /// `x * sigmoid(1.702 x)`
    QuickGelu,
    /// `x * Phi(x)` (Hendrycks and Gimpel 2016, arXiv:1606.08415)
    Gelu,
    /// The tanh approximation of `Gelu`.
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
            format!("the activation `{name}` is unknown; use one of {known}")
        })
    }
}

impl Activation {
    /// The names that [`Activation::parse`] accepts, for messages.
    pub(crate) const KNOWN: &str =
        "quick_gelu, gelu, gelu_new, gelu_pytorch_tanh, gelu_fast, relu, silu and swish";

    /// Parses a name as in a Hugging Face `config.json`.
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

    /// Returns the faster form for inference.
    pub(super) fn inference(self) -> simd::Activate {
        match self {
            Self::QuickGelu => simd::fast_quick_gelu,
            Self::Gelu => simd::fast_gelu,
            Self::GeluTanh => simd::fast_gelu_tanh,
            Self::Relu => simd::fast_relu,
            Self::Silu => simd::fast_swish,
        }
    }

    /// Computes `g *= act'(x)` and `x = act(x)`.
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

    /// Applies the activation on any device. The backward pass keeps only the
    /// input.
    pub(super) fn map(self, pass: &Pass, x: &Tensor) -> Result<Tensor> {
        let y = self.composite(&x.detach())?;
        let kept = x.detach();
        node(pass, x, y, move |g, wanted| {
            let dx = wanted.then(|| g * self.slope(&kept)?);
            dx.transpose()
        })
    }

    /// Returns the derivative.
    fn slope(self, x: &Tensor) -> candle_core::Result<Tensor> {
        match self {
            Self::QuickGelu => {
                const STEEPNESS: f64 = 1.702;
                let s = sigmoid(&(x * STEEPNESS)?)?;
                // s + 1.702 x s (1 - s)
                &s + ((x * STEEPNESS)? * (&s - s.sqr()?)?)?
            }
            Self::Gelu => {
                let normal = (x.sqr()? * -0.5)?.exp()?;
                let density = (normal * (1.0 / (2.0 * PI).sqrt()))?;
                let below = (x * FRAC_1_SQRT_2)?.erf()?.affine(0.5, 0.5)?;
                below + (x * density)?
            }
            Self::GeluTanh => {
                const CUBIC: f64 = 0.044_715;
                let factor = (2.0 / PI).sqrt();
                let square = x.sqr()?;
                let inner = (x * square.affine(factor * CUBIC, factor)?)?;
                let t = inner.tanh()?;
                let d_inner = square.affine(3.0 * factor * CUBIC, factor)?;
                let curve = (t.sqr()?.affine(-0.5, 0.5)? * (x * d_inner)?)?;
                t.affine(0.5, 0.5)? + curve
            }
            Self::Relu => x.gt(0f32)?.to_dtype(x.dtype()),
            Self::Silu => {
                let s = sigmoid(x)?;
                // s (1 + x (1 - s))
                &s * ((x * s.affine(-1.0, 1.0)?)? + 1.0)?
            }
        }
    }

    /// Applies the activation with candle's operations and their gradients.
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
