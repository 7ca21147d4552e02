//! The operation on the output of a transformer block's half before the
//! residual is added.

use std::sync::Arc;

use candle_core::Tensor;

use super::{LayerNorm, Pass, floats, layer_norm, node::node, tensors::column_sums, with_grad};
use crate::{Result, kernels::simd, params::Param};

/// The last operation of a half.
#[derive(Clone)]
pub(crate) enum Finish {
    /// A factor per element (LayerScale; Touvron et al. 2021,
    /// arXiv:2103.17239).
    Scale(Arc<Param>),
    /// A norm, as in Gemma.
    Norm(LayerNorm),
}

impl Finish {
    /// Computes `y = residual + finish(x)`.
    pub(super) fn forward(
        &self,
        x: &[f32],
        residual: &[f32],
        y: &mut [f32],
    ) -> candle_core::Result<()> {
        match self {
            Self::Scale(scale) => {
                let scale = floats(scale.tensor())?;
                y.copy_from_slice(residual);
                let rows = y.chunks_exact_mut(scale.len());
                for (y, x) in rows.zip(x.chunks_exact(scale.len())) {
                    simd::multiply_add(y, x, &scale);
                }
            }
            Self::Norm(norm) => {
                norm.forward(x, y)?;
                simd::add_assign(y, residual);
            }
        }
        Ok(())
    }

    /// Writes the gradient with respect to `x` to `dx`, and accumulates the
    /// parameters'.
    pub(super) fn backward(&self, x: &[f32], g: &[f32], dx: &mut [f32]) -> candle_core::Result<()> {
        dx.fill(0.0);
        match self {
            Self::Scale(scale) => {
                let values = floats(scale.tensor())?;
                let n = values.len();
                for (dx, g) in dx.chunks_exact_mut(n).zip(g.chunks_exact(n)) {
                    simd::multiply_add(dx, g, &values);
                }
                with_grad(scale, |grad| {
                    for (x, g) in x.chunks_exact(n).zip(g.chunks_exact(n)) {
                        simd::multiply_add(grad, x, g);
                    }
                });
                Ok(())
            }
            Self::Norm(norm) => norm.backward(x, g, dx),
        }
    }

    /// Computes `finish(x)` on any device.
    pub(super) fn composite(&self, pass: &Pass, x: &Tensor) -> Result<Tensor> {
        let scale = match self {
            Self::Scale(scale) => scale,
            Self::Norm(norm) => return layer_norm(pass, x, norm),
        };
        let y = x.detach().broadcast_mul(&scale.tensor().detach())?;
        let (kept, scale) = (x.detach(), Arc::clone(scale));
        node(pass, x, y, move |g, wanted| {
            if scale.is_trainable() {
                scale.add_gradient(&column_sums(&(g * &kept)?)?)?;
            }
            let dx = wanted.then(|| g.broadcast_mul(&scale.tensor().detach()));
            dx.transpose()
        })
    }
}
