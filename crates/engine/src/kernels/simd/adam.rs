//! The Adam update.

use pulp::Arch;

/// Constants of one Adam step, equal for all parameters.
#[derive(Clone, Copy)]
pub(crate) struct AdamStep {
    pub(crate) beta1: f32,
    pub(crate) beta2: f32,
    /// Learning rate divided by the first bias correction.
    pub(crate) rate: f32,
    /// Reciprocal square root of the second bias correction.
    pub(crate) second_scale: f32,
    pub(crate) eps: f32,
    /// Factor of the parameter before the step (decoupled weight decay).
    pub(crate) shrink: f32,
    /// Share of the parameter that is added to its gradient (coupled weight decay).
    pub(crate) l2: f32,
}

/// Updates a slice of a parameter and its two moments.
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
