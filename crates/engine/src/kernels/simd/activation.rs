//! Activation functions of transformers and their derivatives.

use pulp::Arch;

use super::math::{erf, exp};

/// `x * sigmoid(1.702 x)`, the activation of OpenAI's CLIP.
pub(crate) fn quick_gelu(x: &[f32], y: &mut [f32]) {
    Arch::new().dispatch(
        #[inline(always)]
        || {
            for (y, &x) in y.iter_mut().zip(x) {
                *y = x / (1.0 + exp(-1.702 * x));
            }
        },
    );
}

/// `g *= quick_gelu'(x)`, and `x = quick_gelu(x)`.
pub(crate) fn quick_gelu_backward(x: &mut [f32], g: &mut [f32]) {
    Arch::new().dispatch(
        #[inline(always)]
        || {
            for (x, g) in x.iter_mut().zip(g) {
                let s = 1.0 / (1.0 + exp(-1.702 * *x));
                *g *= s * (1.0 + 1.702 * *x * (1.0 - s));
                *x *= s;
            }
        },
    );
}

/// `x * Phi(x)` with the error function, as in BERT.
pub(crate) fn gelu(x: &[f32], y: &mut [f32]) {
    Arch::new().dispatch(
        #[inline(always)]
        || {
            for (y, &x) in y.iter_mut().zip(x) {
                *y = 0.5 * x * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2));
            }
        },
    );
}

/// `g *= gelu'(x)`, and `x = gelu(x)`.
pub(crate) fn gelu_backward(x: &mut [f32], g: &mut [f32]) {
    Arch::new().dispatch(
        #[inline(always)]
        || {
            for (x, g) in x.iter_mut().zip(g) {
                let cdf = 0.5 * (1.0 + erf(*x * std::f32::consts::FRAC_1_SQRT_2));
                let pdf = 0.398_942_3 * exp(-0.5 * *x * *x);
                *g *= cdf + *x * pdf;
                *x *= cdf;
            }
        },
    );
}

/// `sqrt(2 / pi)`
const ROOT: f32 = 0.797_884_6;
const CUBIC: f32 = 0.044_715;

/// GELU approximated with tanh.
///
/// `x / 2 * (1 + tanh(u))` is computed as `x * sigmoid(2 u)`.
pub(crate) fn gelu_tanh(x: &[f32], y: &mut [f32]) {
    Arch::new().dispatch(
        #[inline(always)]
        || {
            for (y, &x) in y.iter_mut().zip(x) {
                let u = ROOT * (x + CUBIC * x * x * x);
                *y = x / (1.0 + exp(-2.0 * u));
            }
        },
    );
}

/// `g *= gelu_tanh'(x)`, and `x = gelu_tanh(x)`.
pub(crate) fn gelu_tanh_backward(x: &mut [f32], g: &mut [f32]) {
    Arch::new().dispatch(
        #[inline(always)]
        || {
            for (x, g) in x.iter_mut().zip(g) {
                let u = ROOT * (*x + CUBIC * *x * *x * *x);
                let slope = ROOT * (1.0 + 3.0 * CUBIC * *x * *x);
                let s = 1.0 / (1.0 + exp(-2.0 * u));
                *g *= s + *x * s * (1.0 - s) * 2.0 * slope;
                *x *= s;
            }
        },
    );
}

/// `x * sigmoid(x)`
pub(crate) fn silu(x: &[f32], y: &mut [f32]) {
    Arch::new().dispatch(
        #[inline(always)]
        || {
            for (y, &x) in y.iter_mut().zip(x) {
                *y = x / (1.0 + exp(-x));
            }
        },
    );
}

/// `g *= silu'(x)`, and `x = silu(x)`.
pub(crate) fn silu_backward(x: &mut [f32], g: &mut [f32]) {
    Arch::new().dispatch(
        #[inline(always)]
        || {
            for (x, g) in x.iter_mut().zip(g) {
                let s = 1.0 / (1.0 + exp(-*x));
                *g *= s * (1.0 + *x * (1.0 - s));
                *x *= s;
            }
        },
    );
}

/// `max(x, 0)`
pub(crate) fn relu(x: &[f32], y: &mut [f32]) {
    Arch::new().dispatch(
        #[inline(always)]
        || {
            for (y, &x) in y.iter_mut().zip(x) {
                *y = x.max(0.0);
            }
        },
    );
}

/// `g *= relu'(x)`, and `x = relu(x)`.
pub(crate) fn relu_backward(x: &mut [f32], g: &mut [f32]) {
    Arch::new().dispatch(
        #[inline(always)]
        || {
            for (x, g) in x.iter_mut().zip(g) {
                *g *= f32::from(u8::from(*x > 0.0));
                *x = x.max(0.0);
            }
        },
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn points() -> impl Iterator<Item = f32> {
        (-2000..=2000).map(|i| i as f32 * 0.01)
    }

    /// Applies a kernel to one element, repeated to fill a vector.
    fn at(kernel: fn(&[f32], &mut [f32]), x: f32) -> f32 {
        let mut out = [0.0; 33];
        kernel(&[x; 33], &mut out);
        assert!(out.iter().all(|o| o.to_bits() == out[0].to_bits()));
        out[0]
    }

    fn backward_at(kernel: fn(&mut [f32], &mut [f32]), x: f32) -> (f32, f32) {
        let (mut x, mut g) = ([x; 33], [1.0; 33]);
        kernel(&mut x, &mut g);
        (x[0], g[0])
    }

    #[test]
    fn activations_and_their_slopes_match_double_precision() {
        let quick = |x: f64| x / (1.0 + (-1.702 * x).exp());
        let slope = |f: &dyn Fn(f64) -> f64, x: f64| (f(x + 1e-5) - f(x - 1e-5)) / 2e-5;
        for x in points() {
            let wide = f64::from(x);
            assert!((f64::from(at(quick_gelu, x)) - quick(wide)).abs() < 3e-6);
            let (value, g) = backward_at(quick_gelu_backward, x);
            assert!((f64::from(value) - quick(wide)).abs() < 3e-6);
            assert!((f64::from(g) - slope(&quick, wide)).abs() < 3e-6, "at {x}");
            // Compare with the slope of the kernel itself, whose values are tested
            // against PyTorch.
            let (value, g) = backward_at(gelu_backward, x);
            assert_eq!(value.to_bits(), at(gelu, x).to_bits());
            let h = 0.01;
            let numeric = (at(gelu, x + h) - at(gelu, x - h)) / (2.0 * h);
            assert!((g - numeric).abs() < 1e-3, "at {x}: {g} {numeric}");
        }
        assert!((at(gelu, 1.0) - 0.841_344_7).abs() < 1e-6);
        assert!((at(gelu, -2.0) + 0.045_500_26).abs() < 1e-6);
    }

    #[test]
    fn activations_without_an_error_function_match_double_precision() {
        type Forward = fn(&[f32], &mut [f32]);
        type Backward = fn(&mut [f32], &mut [f32]);
        type Exact<'a> = &'a dyn Fn(f64) -> f64;
        let tanh = |x: f64| {
            let u = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3));
            0.5 * x * (1.0 + u.tanh())
        };
        let sigmoid = |x: f64| x / (1.0 + (-x).exp());
        let positive = |x: f64| x.max(0.0);
        let cases: [(Forward, Backward, Exact<'_>); 3] = [
            (gelu_tanh, gelu_tanh_backward, &tanh),
            (silu, silu_backward, &sigmoid),
            (relu, relu_backward, &positive),
        ];
        for (forward, backward, exact) in cases {
            for x in (-1999..2000).step_by(2).map(|i| i as f32 * 0.01) {
                let wide = f64::from(x);
                let (mut xs, mut ys, mut gs) = ([x; 33], [0.0; 33], [1.0; 33]);
                forward(&xs, &mut ys);
                backward(&mut xs, &mut gs);
                assert!((xs[32] - ys[32]).abs() <= 1e-6 * ys[32].abs(), "at {x}");
                assert!((f64::from(ys[32]) - exact(wide)).abs() < 3e-6, "at {x}");
                let slope = (exact(wide + 1e-5) - exact(wide - 1e-5)) / 2e-5;
                assert!((f64::from(gs[32]) - slope).abs() < 5e-6, "at {x}");
            }
        }
    }
}
