//! Activations for inference, with fused multiply-add.
//!
//! They need not match a backward pass bit for bit. Errors are below 1e-6, relative to
//! the argument if it is above 1.

use pulp::{Arch, Simd, WithSimd};

use super::Curve;

/// An activation function, from the first slice to the second.
pub(crate) type Activate = fn(&[f32], &mut [f32]);

/// A function of one number, applied to each lane.
trait Lanes: Copy {
    fn of<S: Simd>(self, simd: S, x: S::f32s) -> S::f32s;
}

struct Map<'a, F> {
    x: &'a [f32],
    y: &'a mut [f32],
    f: F,
}

impl<F: Lanes> WithSimd for Map<'_, F> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { x, y, f } = self;
        let (xs, x_tail) = S::as_simd_f32s(x);
        let (ys, y_tail) = S::as_mut_simd_f32s(y);
        for (y, x) in ys.iter_mut().zip(xs) {
            *y = f.of(simd, *x);
        }
        if !x_tail.is_empty() {
            let y = f.of(simd, simd.partial_load_f32s(x_tail));
            simd.partial_store_f32s(y_tail, y);
        }
    }
}

/// `c[0] x^(n-1) + ... + c[n-1]`
#[inline(always)]
fn polynomial<S: Simd>(simd: S, x: S::f32s, coefficients: &[f32]) -> S::f32s {
    let mut sum = simd.splat_f32s(0.0);
    for c in coefficients {
        sum = simd.mul_add_e_f32s(sum, x, simd.splat_f32s(*c));
    }
    sum
}

#[derive(Clone, Copy)]
struct Gelu;

impl Lanes for Gelu {
    #[inline(always)]
    fn of<S: Simd>(self, simd: S, x: S::f32s) -> S::f32s {
        // `erf(x) = x P(x^2) / Q(x^2)` on [-4, 4], where it reaches 1 in single
        // precision. Coefficients are from Eigen.
        const P: [f32; 7] = [
            -2.726_142_3e-10,
            2.770_681_4e-8,
            -2.101_024e-6,
            -5.692_506_4e-5,
            -7.349_906_3e-4,
            -2.954_6e-3,
            -1.609_603_3e-2,
        ];
        const Q: [f32; 5] = [
            -1.456_607_2e-5,
            -2.133_740_6e-4,
            -1.682_827e-3,
            -7.373_329e-3,
            -1.426_473_9e-2,
        ];
        let half = simd.mul_f32s(x, simd.splat_f32s(0.5));
        let z = simd.mul_f32s(x, simd.splat_f32s(std::f32::consts::FRAC_1_SQRT_2));
        let z = simd.max_f32s(z, simd.splat_f32s(-4.0));
        let z = simd.min_f32s(z, simd.splat_f32s(4.0));
        let square = simd.mul_f32s(z, z);
        let p = simd.mul_f32s(z, polynomial(simd, square, &P));
        let erf = simd.div_f32s(p, polynomial(simd, square, &Q));
        simd.mul_add_e_f32s(half, erf, half)
    }
}

/// Computes `tanh(x)` as `x P(x^2) / Q(x^2)` on [-7.9, 7.9].
///
/// At the bounds it reaches 1 in single precision. Coefficients are from Eigen.
#[inline(always)]
fn tanh<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    const P: [f32; 7] = [
        -2.760_768_5e-16,
        2.000_188e-13,
        -8.604_672e-11,
        5.122_297e-8,
        1.485_722_4e-5,
        6.372_619e-4,
        4.893_524_6e-3,
    ];
    const Q: [f32; 4] = [1.198_258_4e-6, 1.185_347_1e-4, 2.268_434_6e-3, 4.893_525e-3];
    let x = simd.max_f32s(x, simd.splat_f32s(-7.905_311));
    let x = simd.min_f32s(x, simd.splat_f32s(7.905_311));
    let square = simd.mul_f32s(x, x);
    let p = simd.mul_f32s(x, polynomial(simd, square, &P));
    simd.div_f32s(p, polynomial(simd, square, &Q))
}

/// `x * sigmoid(factor * x)`
#[derive(Clone, Copy)]
struct Gated {
    factor: f32,
}

impl Lanes for Gated {
    #[inline(always)]
    fn of<S: Simd>(self, simd: S, x: S::f32s) -> S::f32s {
        // sigmoid(z) = (1 + tanh(z / 2)) / 2
        let half = simd.mul_f32s(x, simd.splat_f32s(0.5));
        let z = simd.mul_f32s(half, simd.splat_f32s(self.factor));
        simd.mul_add_e_f32s(half, tanh(simd, z), half)
    }
}

#[derive(Clone, Copy)]
struct GeluTanh;

impl Lanes for GeluTanh {
    #[inline(always)]
    fn of<S: Simd>(self, simd: S, x: S::f32s) -> S::f32s {
        // sqrt(2 / pi) (x + 0.044715 x^3)
        const ROOT: f32 = 0.797_884_6;
        let half = simd.mul_f32s(x, simd.splat_f32s(0.5));
        let cubic = simd.mul_f32s(x, simd.splat_f32s(0.044_715 * ROOT));
        let square = simd.mul_f32s(x, x);
        let linear = simd.mul_f32s(x, simd.splat_f32s(ROOT));
        let u = simd.mul_add_e_f32s(cubic, square, linear);
        simd.mul_add_e_f32s(half, tanh(simd, u), half)
    }
}

#[derive(Clone, Copy)]
struct Clamp {
    highest: f32,
}

impl Lanes for Clamp {
    #[inline(always)]
    fn of<S: Simd>(self, simd: S, x: S::f32s) -> S::f32s {
        // For a NaN, the maximum is the second argument: NaN is kept.
        let low = simd.max_f32s(simd.splat_f32s(0.0), x);
        simd.min_f32s(simd.splat_f32s(self.highest), low)
    }
}

/// Fast form of [`super::gelu`].
pub(crate) fn fast_gelu(x: &[f32], y: &mut [f32]) {
    Arch::new().dispatch(Map { x, y, f: Gelu });
}

/// Fast form of [`super::quick_gelu`].
pub(crate) fn fast_quick_gelu(x: &[f32], y: &mut [f32]) {
    let f = Gated { factor: 1.702 };
    Arch::new().dispatch(Map { x, y, f });
}

/// Fast form of [`super::gelu_tanh`].
pub(crate) fn fast_gelu_tanh(x: &[f32], y: &mut [f32]) {
    let f = GeluTanh;
    Arch::new().dispatch(Map { x, y, f });
}

/// `x * sigmoid(x)`
pub(crate) fn fast_swish(x: &[f32], y: &mut [f32]) {
    let f = Gated { factor: 1.0 };
    Arch::new().dispatch(Map { x, y, f });
}

/// `max(x, 0)`
pub(crate) fn fast_relu(x: &[f32], y: &mut [f32]) {
    let highest = f32::INFINITY;
    let f = Clamp { highest };
    Arch::new().dispatch(Map { x, y, f });
}

fn relu6(x: &[f32], y: &mut [f32]) {
    let f = Clamp { highest: 6.0 };
    Arch::new().dispatch(Map { x, y, f });
}

impl Curve {
    /// Returns the function for inference; `None` for the identity.
    pub(crate) fn fast(self) -> Option<Activate> {
        match self {
            Self::Identity => None,
            Self::Relu => Some(fast_relu),
            Self::Relu6 => Some(relu6),
            Self::Swish => Some(fast_swish),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compare(fast: fn(&[f32], &mut [f32]), exact: impl Fn(f64) -> f64) {
        for n in [1, 7, 16, 33, 4001] {
            let points = (0..n).map(|i| (i as f32 - n as f32 / 2.0) * 0.01);
            let x: Vec<f32> = points.collect();
            let mut y = vec![f32::NAN; n];
            fast(&x, &mut y);
            for (x, y) in x.iter().zip(&y) {
                let exact = exact(f64::from(*x));
                let near = (f64::from(*y) - exact).abs() < 1e-6 * f64::from(x.abs().max(1.0));
                assert!(near, "at {x}: {y}, {exact}");
            }
        }
        let mut y = [0.0; 4];
        fast(&[-30.0, 30.0, f32::NAN, 0.0], &mut y);
        assert!((f64::from(y[0]) - exact(-30.0)).abs() < 1e-5);
        assert!((f64::from(y[1]) - exact(30.0)).abs() < 1e-5);
        assert!(y[2].is_nan());
        assert_eq!(y[3], 0.0);
    }

    #[test]
    fn fast_activations_equal_their_definitions_at_any_length() {
        // The error function by its series and its continued fraction.
        let phi = |x: f64| {
            let z = x.abs() / std::f64::consts::SQRT_2;
            let erfc = if z < 3.0 {
                let (mut term, mut sum) = (z, z);
                for n in 1..80 {
                    let n = f64::from(n);
                    term *= -z * z / n;
                    sum += term / (2.0 * n + 1.0);
                }
                1.0 - sum * 2.0 / std::f64::consts::PI.sqrt()
            } else {
                let fraction = (1..60).rev().fold(z, |f, n| z + f64::from(n) / 2.0 / f);
                (-z * z).exp() / fraction / std::f64::consts::PI.sqrt()
            };
            if x < 0.0 {
                erfc / 2.0
            } else {
                1.0 - erfc / 2.0
            }
        };
        compare(fast_gelu, |x| x * phi(x));
        compare(fast_quick_gelu, |x| x / (1.0 + (-1.702 * x).exp()));
        compare(fast_gelu_tanh, |x| {
            let u = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3));
            0.5 * x * (1.0 + u.tanh())
        });
        compare(fast_swish, |x| x / (1.0 + (-x).exp()));
        compare(fast_relu, |x| x.max(0.0));
        let mut y = [0.0; 4];
        relu6(&[-1.0, 3.0, 7.0, f32::NAN], &mut y);
        assert_eq!(y[..3], [0.0, 3.0, 6.0]);
        assert!(y[3].is_nan());
    }
}
