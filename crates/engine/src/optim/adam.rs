//! Adam (Kingma and Ba 2015, arXiv:1412.6980) and AdamW (Loshchilov and Hutter
//! 2019, arXiv:1711.05101), with the same steps as `torch.optim`.

use std::collections::HashMap;

use super::{
    rule::{Optimizer, Part, Rule},
    stepper::Stepper,
};
use crate::kernels::simd::{AdamStep, adam};

/// Adam with coupled or decoupled weight decay.
#[derive(Clone, Debug)]
pub struct Adam {
    beta1: f64,
    beta2: f64,
    eps: f64,
    weight_decay: f64,
    decoupled: bool,
    amsgrad: bool,
}

impl Default for Adam {
    fn default() -> Self {
        Self::new()
    }
}

impl Adam {
    /// Returns `torch.optim.Adam` with its defaults: betas 0.9 and 0.999, eps
    /// 1e-8, no weight decay.
    #[must_use]
    pub fn new() -> Self {
        Self {
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            weight_decay: 0.0,
            decoupled: false,
            amsgrad: false,
        }
    }

    /// Returns `torch.optim.AdamW` with its defaults: those of Adam, and
    /// decoupled weight decay of 0.01.
    #[must_use]
    pub fn adamw() -> Self {
        Self {
            weight_decay: 0.01,
            decoupled: true,
            ..Self::new()
        }
    }

    /// Sets the decay rates of the two moments.
    #[must_use]
    pub fn betas(mut self, beta1: f64, beta2: f64) -> Self {
        (self.beta1, self.beta2) = (beta1, beta2);
        self
    }

    /// Sets the value that is added to the denominator.
    #[must_use]
    pub fn eps(mut self, eps: f64) -> Self {
        self.eps = eps;
        self
    }

    /// Sets the weight decay.
    #[must_use]
    pub fn weight_decay(mut self, weight_decay: f64) -> Self {
        self.weight_decay = weight_decay;
        self
    }

    /// Sets whether to divide by the largest second moment so far (Reddi et al.
    /// 2018, arXiv:1904.09237).
    #[must_use]
    pub fn amsgrad(mut self, amsgrad: bool) -> Self {
        self.amsgrad = amsgrad;
        self
    }

    /// Builds the optimizer.
    #[must_use]
    pub fn build(self) -> Box<dyn Optimizer> {
        self.scaled(HashMap::new())
    }

    /// Returns the coefficients of a step, counted from 1.
    pub(super) fn step(&self, step: u64, learning_rate: f64) -> AdamStep {
        let steps = step as f64;
        let decay = self.weight_decay;
        AdamStep {
            beta1: self.beta1 as f32,
            beta2: self.beta2 as f32,
            rate: (learning_rate / (1.0 - self.beta1.powf(steps))) as f32,
            second_scale: (1.0 / (1.0 - self.beta2.powf(steps)).sqrt()) as f32,
            eps: self.eps as f32,
            shrink: if self.decoupled {
                (1.0 - learning_rate * decay) as f32
            } else {
                1.0
            },
            l2: if self.decoupled { 0.0 } else { decay as f32 },
        }
    }

    pub(super) fn scaled(self, scales: HashMap<String, f64>) -> Box<dyn Optimizer> {
        Box::new(Stepper::new(self, scales))
    }
}

impl Rule for Adam {
    fn slots(&self) -> &'static [&'static str] {
        if self.amsgrad {
            &["exp_avg", "exp_avg_sq", "max_exp_avg_sq"]
        } else {
            &["exp_avg", "exp_avg_sq"]
        }
    }

    fn apply(&self, mut part: Part<'_>, step: u64, learning_rate: f64) {
        let step = self.step(step, learning_rate);
        match &mut part.slots[..] {
            [m, v] => adam(part.value, m, v, part.grad, &step),
            [m, v, most] => {
                for i in 0..part.grad.len() {
                    let g = part.grad[i] + step.l2 * part.value[i];
                    m[i] += (1.0 - step.beta1) * (g - m[i]);
                    v[i] = step.beta2 * v[i] + (1.0 - step.beta2) * g * g;
                    most[i] = most[i].max(v[i]);
                    let root = most[i].sqrt() * step.second_scale + step.eps;
                    part.value[i] = part.value[i] * step.shrink - step.rate * m[i] / root;
                }
            }
            _ => {}
        }
    }
}
