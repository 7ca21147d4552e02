//! Epilogue of convolutional layers: scale, shift, residual and activation.

use pulp::Arch;

use super::math::exp;

/// Activation after the normalisation of a convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Curve {
    /// No activation.
    Identity,
    /// `max(x, 0)`
    Relu,
    /// `min(max(x, 0), 6)`
    Relu6,
    /// `x * sigmoid(x)`
    Swish,
}

impl Curve {
    /// Parses a name from a Hugging Face `config.json`.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        match name {
            "relu" => Some(Self::Relu),
            "relu6" => Some(Self::Relu6),
            "swish" | "silu" => Some(Self::Swish),
            _ => None,
        }
    }

    #[inline(always)]
    fn value(self, x: f32) -> f32 {
        match self {
            Self::Identity => x,
            Self::Relu => x.max(0.0),
            Self::Relu6 => x.clamp(0.0, 6.0),
            Self::Swish => x / (1.0 + exp(-x)),
        }
    }

    #[inline(always)]
    fn slope(self, x: f32) -> f32 {
        match self {
            Self::Identity => 1.0,
            Self::Relu => f32::from(u8::from(x > 0.0)),
            Self::Relu6 => f32::from(u8::from(x > 0.0 && x < 6.0)),
            Self::Swish => {
                let s = 1.0 / (1.0 + exp(-x));
                s * (1.0 + x * (1.0 - s))
            }
        }
    }
}

/// Compiles the body for each curve, so that the branch is outside of the loop.
macro_rules! for_each_curve {
    ($curve:expr, $known:ident, $body:block) => {
        match $curve {
            Curve::Identity => {
                let $known = Curve::Identity;
                $body
            }
            Curve::Relu => {
                let $known = Curve::Relu;
                $body
            }
            Curve::Relu6 => {
                let $known = Curve::Relu6;
                $body
            }
            Curve::Swish => {
                let $known = Curve::Swish;
                $body
            }
        }
    };
}

/// Computes `y = curve(z * scale + shift + residual)`.
///
/// Scale and shift are per column.
pub(crate) fn scale_shift_curve(
    z: &[f32],
    [scale, shift]: [&[f32]; 2],
    residual: Option<&[f32]>,
    curve: Curve,
    y: &mut [f32],
) {
    let n = scale.len();
    Arch::new().dispatch(
        #[inline(always)]
        || {
            for_each_curve!(curve, curve, {
                for (i, (y, z)) in y.chunks_exact_mut(n).zip(z.chunks_exact(n)).enumerate() {
                    let columns = y.iter_mut().zip(z).zip(scale).zip(shift);
                    match residual {
                        None => {
                            for (((y, &z), &scale), &shift) in columns {
                                *y = curve.value(z * scale + shift);
                            }
                        }
                        Some(residual) => {
                            let residual = &residual[i * n..(i + 1) * n];
                            for ((((y, &z), &scale), &shift), &r) in columns.zip(residual) {
                                *y = curve.value(z * scale + shift + r);
                            }
                        }
                    }
                }
            });
        },
    );
}

/// Backward pass of [`scale_shift_curve`].
///
/// Computes `du = g * curve'(z * scale + shift + residual)`. Adds the column sums of
/// `du` to `sum`, and those of `du * (z - mean)` to `sum_z`.
pub(crate) fn scale_shift_curve_backward(
    z: &[f32],
    [scale, shift, mean]: [&[f32]; 3],
    residual: Option<&[f32]>,
    curve: Curve,
    (g, du): (&[f32], &mut [f32]),
    [sum, sum_z]: [&mut [f32]; 2],
) {
    let n = scale.len();
    Arch::new().dispatch(
        #[inline(always)]
        || {
            for_each_curve!(curve, curve, {
                let rows = du.chunks_exact_mut(n).zip(z.chunks_exact(n));
                for (i, ((du, z), g)) in rows.zip(g.chunks_exact(n)).enumerate() {
                    let residual = residual.map(|r| &r[i * n..(i + 1) * n]);
                    for c in 0..n {
                        let r = residual.map_or(0.0, |r| r[c]);
                        du[c] = g[c] * curve.slope(z[c] * scale[c] + shift[c] + r);
                    }
                    let (sum, sum_z) = (&mut sum[..n], &mut sum_z[..n]);
                    for c in 0..n {
                        sum[c] += du[c];
                        sum_z[c] += du[c] * (z[c] - mean[c]);
                    }
                }
            });
        },
    );
}

/// Computes `du = a * du + b * z + c` with factors per column.
pub(crate) fn combine_columns(du: &mut [f32], z: &[f32], [a, b, c]: [&[f32]; 3]) {
    let n = a.len();
    Arch::new().dispatch(
        #[inline(always)]
        || {
            for (du, z) in du.chunks_exact_mut(n).zip(z.chunks_exact(n)) {
                for i in 0..n {
                    du[i] = a[i] * du[i] + b[i] * z[i] + c[i];
                }
            }
        },
    );
}
