//! Element-wise sums and products.

use pulp::Arch;

use super::math::LANES;

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

/// `acc *= x`, element by element.
pub(crate) fn multiply_assign(acc: &mut [f32], x: &[f32]) {
    Arch::new().dispatch(
        #[inline(always)]
        || {
            for (acc, &x) in acc.iter_mut().zip(x) {
                *acc *= x;
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

/// Adds the squared differences of each row from `mean` to `acc`.
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

/// Applies scale, bias and residual to a tile, in place.
///
/// The tile has rows of `columns` values, of which the first `width` are used. The
/// residual comes with its row stride.
pub(crate) fn finish_tile(
    sums: &mut [f32],
    (columns, width): (usize, usize),
    scale: Option<&[f32]>,
    bias: Option<&[f32]>,
    residual: Option<(&[f32], usize)>,
) {
    if scale.is_none() && bias.is_none() && residual.is_none() {
        return;
    }
    Arch::new().dispatch(
        #[inline(always)]
        || {
            for (i, sums) in sums.chunks_exact_mut(columns).enumerate() {
                let sums = &mut sums[..width];
                if let Some(scale) = scale {
                    for (sum, &scale) in sums.iter_mut().zip(scale) {
                        *sum *= scale;
                    }
                }
                if let Some(bias) = bias {
                    for (sum, &bias) in sums.iter_mut().zip(bias) {
                        *sum += bias;
                    }
                }
                if let Some((residual, stride)) = residual {
                    for (sum, &x) in sums.iter_mut().zip(&residual[i * stride..]) {
                        *sum += x;
                    }
                }
            }
        },
    );
}

/// Computes `z = Σ weight[w..] * x[i..]` over the pairs `(w, i)` of `places`.
pub(crate) fn weighted_sum(x: &[f32], weight: &[f32], places: &[(usize, usize)], z: &mut [f32]) {
    Arch::new().dispatch(
        #[inline(always)]
        || {
            let n = z.len();
            let (blocks, rest) = z.as_chunks_mut::<LANES>();
            for (block, z) in blocks.iter_mut().enumerate() {
                let first = block * LANES;
                let mut sum = [0.0f32; LANES];
                for (w, i) in places {
                    let (w, x) = (&weight[w + first..][..LANES], &x[i + first..][..LANES]);
                    for j in 0..LANES {
                        sum[j] += w[j] * x[j];
                    }
                }
                *z = sum;
            }
            let first = n - rest.len();
            for (j, z) in rest.iter_mut().enumerate() {
                let at = first + j;
                *z = places.iter().map(|(w, i)| weight[w + at] * x[i + at]).sum();
            }
        },
    );
}

/// Computes the element-wise maximum of `x[i..]` over the offsets `places`.
pub(crate) fn largest(x: &[f32], places: &[usize], y: &mut [f32]) {
    Arch::new().dispatch(
        #[inline(always)]
        || {
            y.fill(f32::NEG_INFINITY);
            for at in places {
                for (y, x) in y.iter_mut().zip(&x[*at..]) {
                    // NaN is ignored.
                    *y = if *x > *y { *x } else { *y };
                }
            }
        },
    );
}
