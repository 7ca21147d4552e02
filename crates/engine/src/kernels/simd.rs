//! Row and element kernels, compiled for every x86-64 level and chosen at run
//! time by [`pulp::Arch`]. On other CPUs the baseline is used.
//!
//! Sums run in [`LANES`] parallel lanes and are folded at the end: fast, and
//! the same on every machine.

use pulp::Arch;

const LANES: usize = 16;

/// Cephes' `expf` without branches: relative error below 2e-7 on [-87, 88].
#[inline(always)]
fn exp(x: f32) -> f32 {
    // Adding and subtracting 1.5 * 2^23 rounds to the nearest integer, and
    // leaves that integer in the low bits of the sum.
    const ROUND: f32 = 12_582_912.0;
    let x = x.clamp(-87.3, 88.3);
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = x - n * 0.693_359_4;
    let r = r + n * 2.121_944_4e-4;
    let mut p = 1.987_569_1e-4;
    p = p * r + 1.398_199_9e-3;
    p = p * r + 8.333_452e-3;
    p = p * r + 4.166_579_6e-2;
    p = p * r + 1.666_666_5e-1;
    p = p * r + 5e-1;
    let y = p * r * r + r + 1.0;
    let exponent = shifted.to_bits().wrapping_sub(ROUND.to_bits());
    y * f32::from_bits(exponent.wrapping_add(127) << 23)
}

/// Abramowitz and Stegun 7.1.26: absolute error below 2e-7.
#[inline(always)]
fn erf(x: f32) -> f32 {
    let a = x.abs();
    let t = 1.0 / (1.0 + 0.327_591_1 * a);
    let mut p = 1.061_405_4;
    p = p * t - 1.453_152;
    p = p * t + 1.421_413_7;
    p = p * t - 0.284_496_74;
    p = p * t + 0.254_829_6;
    (1.0 - p * t * exp(-a * a)).copysign(x)
}

#[inline(always)]
fn sum(n: usize, f: impl Fn(usize) -> f32) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let whole = n / LANES * LANES;
    let mut i = 0;
    while i < whole {
        for (j, lane) in lanes.iter_mut().enumerate() {
            *lane += f(i + j);
        }
        i += LANES;
    }
    let mut total: f32 = lanes.iter().sum();
    for i in whole..n {
        total += f(i);
    }
    total
}

#[inline(always)]
fn max(x: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let chunks = x.chunks_exact(LANES);
    let rest = chunks.remainder();
    for chunk in chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane = if x > *lane { x } else { *lane };
        }
    }
    lanes
        .iter()
        .chain(rest)
        .fold(f32::NEG_INFINITY, |m, &x| m.max(x))
}

/// Mean and reciprocal standard deviation of a row.
#[inline(always)]
fn moments(x: &[f32], eps: f32) -> (f32, f32) {
    let n = x.len();
    let mean = sum(n, |i| x[i]) / n as f32;
    let variance = sum(n, |i| {
        let d = x[i] - mean;
        d * d
    }) / n as f32;
    (mean, 1.0 / (variance + eps).sqrt())
}

pub(crate) fn layer_norm_rows(x: &[f32], weight: &[f32], bias: &[f32], eps: f32, y: &mut [f32]) {
    let n = weight.len();
    Arch::new().dispatch(
        #[inline(always)]
        || {
            for (x, y) in x.chunks_exact(n).zip(y.chunks_exact_mut(n)) {
                let (mean, rstd) = moments(x, eps);
                for (((y, &x), &w), &b) in y.iter_mut().zip(x).zip(weight).zip(bias) {
                    *y = (x - mean) * rstd * w + b;
                }
            }
        },
    );
}

/// Adds to `dx`, `dweight` and `dbias`.
pub(crate) fn layer_norm_backward_rows(
    x: &[f32],
    weight: &[f32],
    eps: f32,
    g: &[f32],
    dx: &mut [f32],
    dweight: &mut [f32],
    dbias: &mut [f32],
) {
    let n = weight.len();
    let (dweight, dbias) = (&mut dweight[..n], &mut dbias[..n]);
    Arch::new().dispatch(
        #[inline(always)]
        || {
            for ((x, g), dx) in x
                .chunks_exact(n)
                .zip(g.chunks_exact(n))
                .zip(dx.chunks_exact_mut(n))
            {
                let (mean, rstd) = moments(x, eps);
                let mean_g = sum(n, |i| g[i] * weight[i]) / n as f32;
                let mean_gx = sum(n, |i| g[i] * weight[i] * ((x[i] - mean) * rstd)) / n as f32;
                for i in 0..n {
                    let normed = (x[i] - mean) * rstd;
                    dx[i] += rstd * (g[i] * weight[i] - mean_g - normed * mean_gx);
                    dweight[i] += g[i] * normed;
                    dbias[i] += g[i];
                }
            }
        },
    );
}

/// Softmax of one row in place; the elements from `visible` on count as minus
/// infinity.
pub(crate) fn softmax_row(row: &mut [f32], visible: usize) {
    let (row, hidden) = row.split_at_mut(visible);
    hidden.fill(0.0);
    Arch::new().dispatch(
        #[inline(always)]
        || {
            let m = max(row);
            for x in row.iter_mut() {
                *x = exp(*x - m);
            }
            let scale = 1.0 / sum(row.len(), |i| row[i]);
            for x in row.iter_mut() {
                *x *= scale;
            }
        },
    );
}

/// Turns the gradient with respect to a softmax's result `p` into the one with
/// respect to its unscaled input, in place.
pub(crate) fn softmax_backward_row(p: &[f32], g: &mut [f32], scale: f32) {
    Arch::new().dispatch(
        #[inline(always)]
        || {
            let g = &mut g[..p.len()];
            let dot = sum(p.len(), |i| p[i] * g[i]);
            for (g, &p) in g.iter_mut().zip(p) {
                *g = p * (*g - dot) * scale;
            }
        },
    );
}

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

/// `out = a + b`
pub(crate) fn add(a: &[f32], b: &[f32], out: &mut [f32]) {
    Arch::new().dispatch(
        #[inline(always)]
        || {
            for ((out, &a), &b) in out.iter_mut().zip(a).zip(b) {
                *out = a + b;
            }
        },
    );
}

/// `acc += x`
pub(crate) fn add_assign(acc: &mut [f32], x: &[f32]) {
    Arch::new().dispatch(
        #[inline(always)]
        || {
            for (acc, &x) in acc.iter_mut().zip(x) {
                *acc += x;
            }
        },
    );
}

/// `acc += a * b`, element by element.
pub(crate) fn multiply_add(acc: &mut [f32], a: &[f32], b: &[f32]) {
    Arch::new().dispatch(
        #[inline(always)]
        || {
            for ((acc, &a), &b) in acc.iter_mut().zip(a).zip(b) {
                *acc += a * b;
            }
        },
    );
}

/// Adds the squares of the differences of each row from `mean` to `acc`.
pub(crate) fn add_squared_differences(x: &[f32], mean: &[f32], acc: &mut [f32]) {
    let n = mean.len();
    Arch::new().dispatch(
        #[inline(always)]
        || {
            for row in x.chunks_exact(n) {
                for ((acc, &x), &mean) in acc.iter_mut().zip(row).zip(mean) {
                    *acc += (x - mean) * (x - mean);
                }
            }
        },
    );
}

/// What comes behind the normalization of a convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Curve {
    /// Nothing.
    Identity,
    /// `max(x, 0)`
    Relu,
    /// `min(max(x, 0), 6)`
    Relu6,
    /// `x * sigmoid(x)`
    Swish,
}

impl Curve {
    /// The name used in a Hugging Face `config.json`.
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

/// Runs a loop compiled for each curve, so that the choice is made once.
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

/// `y = curve(z * scale + shift + residual)`, scale and shift for each column.
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

/// `du = g * curve'(z * scale + shift + residual)`; adds the sums of `du` to
/// `sums[0]`, and those of `du * (z - mean)` to `sums[1]`, column by column.
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

/// `du = a * du + b * z + c` for each column.
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

/// The constants of one Adam step, the same for every parameter.
#[derive(Clone, Copy)]
pub(crate) struct AdamStep {
    pub(crate) beta1: f32,
    pub(crate) beta2: f32,
    /// The learning rate over the first bias correction.
    pub(crate) rate: f32,
    /// One over the square root of the second bias correction.
    pub(crate) second_scale: f32,
    pub(crate) eps: f32,
    /// What the parameter is multiplied with first (decoupled decay).
    pub(crate) shrink: f32,
    /// What of the parameter is added to its gradient (coupled decay).
    pub(crate) l2: f32,
}

/// One step of Adam for a slice of a parameter and of its two moments.
pub(crate) fn adam(p: &mut [f32], m: &mut [f32], v: &mut [f32], g: &[f32], step: &AdamStep) {
    let s = *step;
    let n = p.len();
    let (m, v, g) = (&mut m[..n], &mut v[..n], &g[..n]);
    Arch::new().dispatch(
        #[inline(always)]
        || {
            for i in 0..n {
                let grad = g[i] + s.l2 * p[i];
                m[i] += (1.0 - s.beta1) * (grad - m[i]);
                v[i] = s.beta2 * v[i] + (1.0 - s.beta2) * grad * grad;
                p[i] = p[i] * s.shrink - s.rate * m[i] / (v[i].sqrt() * s.second_scale + s.eps);
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

    /// Applies a kernel to one element, with neighbours to fill a vector.
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
    fn exp_is_within_a_few_ulps() {
        for x in points().map(|x| x * 4.0) {
            let expected = f64::from(x).exp();
            assert!(
                (f64::from(exp(x)) / expected - 1.0).abs() < 3e-7,
                "exp({x})"
            );
        }
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
            // The slope of gelu against its own values, which the PyTorch
            // fixtures pin down.
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
    fn softmax_sums_to_one_hides_the_rest_and_survives_large_values() {
        let mut row: Vec<f32> = (0..37).map(|i| (i * i % 19) as f32 * 50.0).collect();
        softmax_row(&mut row, 30);
        assert!((row.iter().sum::<f32>() - 1.0).abs() < 1e-6);
        assert!(row[30..].iter().all(|&p| p == 0.0));
        assert!(row.iter().all(|p| p.is_finite()));
    }
}
