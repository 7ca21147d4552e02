//! Sums and products element by element.

use pulp::Arch;

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
