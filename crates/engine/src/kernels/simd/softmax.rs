//! Softmax of rows and its backward pass.

use pulp::Arch;

use super::math::{exp, max, sum};

/// Computes the softmax of one row in place.
///
/// Elements from `visible` on are masked.
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

/// Converts the gradient of a softmax's output to that of its input, in place.
///
/// `p` is the output; the input is the one before scaling.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn softmax_sums_to_one_masks_and_handles_large_values() {
        let mut row: Vec<f32> = (0..37).map(|i| (i * i % 19) as f32 * 50.0).collect();
        softmax_row(&mut row, 30);
        assert!((row.iter().sum::<f32>() - 1.0).abs() < 1e-6);
        assert!(row[30..].iter().all(|&p| p == 0.0));
        assert!(row.iter().all(|p| p.is_finite()));
    }
}
