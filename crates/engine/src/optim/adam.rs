//! Adam (Kingma and Ba 2015, arXiv:1412.6980) and AdamW (Loshchilov and
//! Hutter 2019, arXiv:1711.05101), step for step as `torch.optim` does them.

use std::collections::HashMap;

use rayon::prelude::*;

use super::Optimizer;
use crate::{
    Error, Result,
    kernels::simd::{AdamStep, adam},
    params::{Params, RawTensor},
};

/// Elements of a parameter handled by one task.
const CHUNK: usize = 1 << 16;

/// Adam with coupled or decoupled weight decay.
pub struct Adam {
    beta1: f64,
    beta2: f64,
    eps: f64,
    weight_decay: f64,
    decoupled: bool,
    steps: u64,
    /// First and second moments by parameter.
    moments: HashMap<String, (Vec<f32>, Vec<f32>)>,
}

impl Default for Adam {
    fn default() -> Self {
        Self::new()
    }
}

impl Adam {
    /// `torch.optim.Adam` with its defaults: betas 0.9 and 0.999, eps 1e-8, no
    /// weight decay.
    #[must_use]
    pub fn new() -> Self {
        Self {
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            weight_decay: 0.0,
            decoupled: false,
            steps: 0,
            moments: HashMap::new(),
        }
    }

    /// `torch.optim.AdamW` with its defaults: as Adam, and a decoupled weight
    /// decay of 0.01.
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

    /// Sets what keeps the division away from zero.
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
}

impl Optimizer for Adam {
    fn step(&mut self, params: &Params, learning_rate: f64) -> Result<()> {
        self.steps += 1;
        let steps = self.steps as f64;
        let decay = self.weight_decay;
        let step = AdamStep {
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
        };
        for param in params.iter() {
            let Some(grad) = param.grad() else { continue };
            let n = grad.len();
            let (first, second) = self
                .moments
                .entry(param.name().to_owned())
                .or_insert_with(|| (vec![0.0; n], vec![0.0; n]));
            param.update(|value| {
                value
                    .par_chunks_mut(CHUNK)
                    .zip(first.par_chunks_mut(CHUNK))
                    .zip(second.par_chunks_mut(CHUNK))
                    .zip(grad.par_chunks(CHUNK))
                    .for_each(|(((p, m), v), g)| adam(p, m, v, g, &step));
            })?;
        }
        Ok(())
    }

    fn state(&self) -> HashMap<String, RawTensor> {
        let mut state = HashMap::new();
        // A step count beyond f32's integers would take years to reach.
        state.insert("steps".to_owned(), (vec![1], vec![self.steps as f32]));
        for (name, (first, second)) in &self.moments {
            state.insert(
                format!("{name}.exp_avg"),
                (vec![first.len()], first.clone()),
            );
            state.insert(
                format!("{name}.exp_avg_sq"),
                (vec![second.len()], second.clone()),
            );
        }
        state
    }

    fn load_state(&mut self, mut state: HashMap<String, RawTensor>) -> Result<()> {
        let missing = |what: &str| Error::checkpoint(format!("no `{what}` of the optimizer"));
        let (_, steps) = state.remove("steps").ok_or_else(|| missing("steps"))?;
        self.steps = steps.first().copied().ok_or_else(|| missing("steps"))? as u64;
        self.moments.clear();
        let names: Vec<String> = state
            .keys()
            .filter_map(|key| key.strip_suffix(".exp_avg").map(str::to_owned))
            .collect();
        for name in names {
            let mut take = |part: &str| {
                let key = format!("{name}.{part}");
                state.remove(&key).map(|t| t.1).ok_or_else(|| missing(&key))
            };
            let moments = (take("exp_avg")?, take("exp_avg_sq")?);
            if moments.0.len() != moments.1.len() {
                return Err(missing(&name));
            }
            self.moments.insert(name, moments);
        }
        Ok(())
    }
}
