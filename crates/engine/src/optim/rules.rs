//! Optimizers other than Adam, as in `torch.optim`.

use super::rule::{Part, Rule};

/// Stochastic gradient descent, optionally with momentum (Sutskever et al.
/// 2013).
pub(super) struct Sgd {
    pub(super) momentum: f64,
    pub(super) dampening: f64,
    pub(super) weight_decay: f64,
    pub(super) nesterov: bool,
}

impl Rule for Sgd {
    fn slots(&self) -> &'static [&'static str] {
        if self.momentum == 0.0 {
            &[]
        } else {
            &["momentum_buffer"]
        }
    }

    fn apply(&self, mut part: Part<'_>, step: u64, learning_rate: f64) {
        let (rate, momentum) = (learning_rate as f32, self.momentum as f32);
        // The first gradient is not dampened.
        let fresh = if step == 1 {
            1.0
        } else {
            1.0 - self.dampening as f32
        };
        for i in 0..part.grad.len() {
            let mut g = part.grad[i] + self.weight_decay as f32 * part.value[i];
            if let Some(buffer) = part.slots.first_mut() {
                buffer[i] = momentum * buffer[i] + fresh * g;
                g = if self.nesterov {
                    g + momentum * buffer[i]
                } else {
                    buffer[i]
                };
            }
            part.value[i] -= rate * g;
        }
    }
}

/// Adadelta (Zeiler 2012, arXiv:1212.5701).
pub(super) struct Adadelta {
    pub(super) rho: f64,
    pub(super) eps: f64,
    pub(super) weight_decay: f64,
}

impl Rule for Adadelta {
    fn slots(&self) -> &'static [&'static str] {
        &["square_avg", "acc_delta"]
    }

    fn apply(&self, mut part: Part<'_>, _: u64, learning_rate: f64) {
        let (rho, eps) = (self.rho as f32, self.eps as f32);
        if let [square, acc] = &mut part.slots[..] {
            for i in 0..part.grad.len() {
                let g = part.grad[i] + self.weight_decay as f32 * part.value[i];
                square[i] = rho * square[i] + (1.0 - rho) * g * g;
                let delta = (acc[i] + eps).sqrt() / (square[i] + eps).sqrt() * g;
                acc[i] = rho * acc[i] + (1.0 - rho) * delta * delta;
                part.value[i] -= learning_rate as f32 * delta;
            }
        }
    }
}

/// Adagrad (Duchi et al. 2011).
pub(super) struct Adagrad {
    pub(super) lr_decay: f64,
    pub(super) weight_decay: f64,
    pub(super) initial_accumulator_value: f64,
    pub(super) eps: f64,
}

impl Rule for Adagrad {
    fn slots(&self) -> &'static [&'static str] {
        &["sum"]
    }

    fn initial(&self, _: &str, _: f64) -> f32 {
        self.initial_accumulator_value as f32
    }

    fn apply(&self, mut part: Part<'_>, step: u64, learning_rate: f64) {
        let rate = (learning_rate / (1.0 + (step - 1) as f64 * self.lr_decay)) as f32;
        if let [sum] = &mut part.slots[..] {
            for i in 0..part.grad.len() {
                let g = part.grad[i] + self.weight_decay as f32 * part.value[i];
                sum[i] += g * g;
                part.value[i] -= rate * g / (sum[i].sqrt() + self.eps as f32);
            }
        }
    }
}

/// Adamax (Kingma and Ba 2015, section 7.1).
pub(super) struct Adamax {
    pub(super) betas: (f64, f64),
    pub(super) eps: f64,
    pub(super) weight_decay: f64,
}

impl Rule for Adamax {
    fn slots(&self) -> &'static [&'static str] {
        &["exp_avg", "exp_inf"]
    }

    fn apply(&self, mut part: Part<'_>, step: u64, learning_rate: f64) {
        let (beta1, beta2) = (self.betas.0 as f32, self.betas.1 as f32);
        let rate = (learning_rate / (1.0 - self.betas.0.powf(step as f64))) as f32;
        if let [m, u] = &mut part.slots[..] {
            for i in 0..part.grad.len() {
                let g = part.grad[i] + self.weight_decay as f32 * part.value[i];
                m[i] += (1.0 - beta1) * (g - m[i]);
                u[i] = (beta2 * u[i]).max(g.abs() + self.eps as f32);
                part.value[i] -= rate * m[i] / u[i];
            }
        }
    }
}

/// Averaged SGD (Polyak and Juditsky 1992), without the average that
/// `torch.optim` keeps and never uses.
pub(super) struct Asgd {
    pub(super) lambd: f64,
    pub(super) alpha: f64,
    pub(super) weight_decay: f64,
}

impl Rule for Asgd {
    fn slots(&self) -> &'static [&'static str] {
        &[]
    }

    fn apply(&self, part: Part<'_>, step: u64, learning_rate: f64) {
        let before = (step - 1) as f64;
        let eta = learning_rate / (1.0 + self.lambd * learning_rate * before).powf(self.alpha);
        let shrink = (1.0 - self.lambd * eta) as f32;
        for (value, grad) in part.value.iter_mut().zip(part.grad) {
            let g = grad + self.weight_decay as f32 * *value;
            *value = *value * shrink - eta as f32 * g;
        }
    }
}

/// Weight decay in a step.
enum Decay {
    /// Multiplies the weight by this factor.
    Decoupled(f32),
    /// Adds this fraction of the weight to its gradient.
    Coupled(f32),
}

impl Decay {
    fn new(weight_decay: f64, decoupled: bool, learning_rate: f64) -> Self {
        if decoupled {
            Self::Decoupled(1.0 - (learning_rate * weight_decay) as f32)
        } else {
            Self::Coupled(weight_decay as f32)
        }
    }

    /// Applies the decay to the weight, or returns the gradient with it.
    fn apply(&self, value: &mut f32, grad: f32) -> f32 {
        match self {
            Self::Decoupled(factor) => {
                *value *= factor;
                grad
            }
            Self::Coupled(part) => grad + part * *value,
        }
    }
}

/// NAdam (Dozat 2016).
pub(super) struct NAdam {
    pub(super) betas: (f64, f64),
    pub(super) eps: f64,
    pub(super) weight_decay: f64,
    pub(super) momentum_decay: f64,
    pub(super) decoupled: bool,
}

impl NAdam {
    fn momentum(&self, step: u64) -> f64 {
        self.betas.0 * (1.0 - 0.5 * 0.96f64.powf(step as f64 * self.momentum_decay))
    }

    /// Returns the factors of gradient and mean in a step.
    pub(super) fn rates(&self, step: u64, learning_rate: f64) -> [f64; 2] {
        let product: f64 = (1..=step).map(|t| self.momentum(t)).product();
        let (now, next) = (self.momentum(step), self.momentum(step + 1));
        [
            learning_rate * (1.0 - now) / (1.0 - product),
            learning_rate * next / (1.0 - product * next),
        ]
    }
}

impl Rule for NAdam {
    fn slots(&self) -> &'static [&'static str] {
        &["exp_avg", "exp_avg_sq"]
    }

    fn apply(&self, mut part: Part<'_>, step: u64, learning_rate: f64) {
        let (beta1, beta2) = (self.betas.0 as f32, self.betas.1 as f32);
        let correction = 1.0 - self.betas.1.powf(step as f64);
        let [of_grad, of_mean] = self.rates(step, learning_rate).map(|rate| rate as f32);
        let decay = Decay::new(self.weight_decay, self.decoupled, learning_rate);
        if let [m, v] = &mut part.slots[..] {
            for i in 0..part.grad.len() {
                let g = decay.apply(&mut part.value[i], part.grad[i]);
                m[i] += (1.0 - beta1) * (g - m[i]);
                v[i] = beta2 * v[i] + (1.0 - beta2) * g * g;
                let root = (v[i] / correction as f32).sqrt() + self.eps as f32;
                part.value[i] -= of_grad * g / root + of_mean * m[i] / root;
            }
        }
    }
}

/// RAdam (Liu et al. 2020, arXiv:1908.03265).
pub(super) struct RAdam {
    pub(super) betas: (f64, f64),
    pub(super) eps: f64,
    pub(super) weight_decay: f64,
    pub(super) decoupled: bool,
}

impl RAdam {
    /// Returns the variance rectification, once the variance is tractable.
    pub(super) fn rectification(&self, step: u64) -> Option<f64> {
        let (t, beta2) = (step as f64, self.betas.1);
        // Length of the approximated simple moving average.
        let longest = 2.0 / (1.0 - beta2) - 1.0;
        let length = longest - 2.0 * t * beta2.powf(t) / (1.0 - beta2.powf(t));
        (length > 5.0).then(|| {
            ((length - 4.0) * (length - 2.0) * longest
                / ((longest - 4.0) * (longest - 2.0) * length))
                .sqrt()
        })
    }
}

impl Rule for RAdam {
    fn slots(&self) -> &'static [&'static str] {
        &["exp_avg", "exp_avg_sq"]
    }

    fn apply(&self, mut part: Part<'_>, step: u64, learning_rate: f64) {
        let t = step as f64;
        let (beta1, beta2) = self.betas;
        let first = 1.0 - beta1.powf(t);
        let second = 1.0 - beta2.powf(t);
        let rectify = self.rectification(step);
        let decay = Decay::new(self.weight_decay, self.decoupled, learning_rate);
        if let [m, v] = &mut part.slots[..] {
            for i in 0..part.grad.len() {
                let g = decay.apply(&mut part.value[i], part.grad[i]);
                m[i] += (1.0 - beta1 as f32) * (g - m[i]);
                v[i] = beta2 as f32 * v[i] + (1.0 - beta2 as f32) * g * g;
                let mean = m[i] / first as f32;
                let scaled = match rectify {
                    Some(rectify) => {
                        let root = v[i].sqrt() + self.eps as f32;
                        mean * rectify as f32 * (second.sqrt() as f32 / root)
                    }
                    None => mean,
                };
                part.value[i] -= learning_rate as f32 * scaled;
            }
        }
    }
}

/// RMSprop (Hinton 2012; centered by Graves 2013, arXiv:1308.0850).
pub(super) struct RmsProp {
    pub(super) alpha: f64,
    pub(super) eps: f64,
    pub(super) weight_decay: f64,
    pub(super) momentum: f64,
    pub(super) centered: bool,
}

impl Rule for RmsProp {
    fn slots(&self) -> &'static [&'static str] {
        &["square_avg", "grad_avg", "momentum_buffer"]
    }

    fn apply(&self, mut part: Part<'_>, _: u64, learning_rate: f64) {
        let (alpha, eps) = (self.alpha as f32, self.eps as f32);
        if let [square, mean, buffer] = &mut part.slots[..] {
            for i in 0..part.grad.len() {
                let g = part.grad[i] + self.weight_decay as f32 * part.value[i];
                square[i] = alpha * square[i] + (1.0 - alpha) * g * g;
                let mut around = square[i];
                if self.centered {
                    mean[i] += (1.0 - alpha) * (g - mean[i]);
                    around -= mean[i] * mean[i];
                }
                let mut scaled = g / (around.max(0.0).sqrt() + eps);
                if self.momentum > 0.0 {
                    buffer[i] = self.momentum as f32 * buffer[i] + scaled;
                    scaled = buffer[i];
                }
                part.value[i] -= learning_rate as f32 * scaled;
            }
        }
    }
}

/// Resilient propagation (Riedmiller and Braun 1993).
pub(super) struct Rprop {
    pub(super) etas: (f64, f64),
    pub(super) step_sizes: (f64, f64),
}

impl Rule for Rprop {
    fn slots(&self) -> &'static [&'static str] {
        &["prev", "step_size"]
    }

    fn initial(&self, slot: &str, learning_rate: f64) -> f32 {
        if slot == "step_size" {
            learning_rate as f32
        } else {
            0.0
        }
    }

    fn apply(&self, mut part: Part<'_>, _: u64, _: f64) {
        let (smallest, largest) = (self.step_sizes.0 as f32, self.step_sizes.1 as f32);
        if let [before, size] = &mut part.slots[..] {
            for i in 0..part.grad.len() {
                let mut g = part.grad[i];
                let agreement = g * before[i];
                if agreement > 0.0 {
                    size[i] = (size[i] * self.etas.1 as f32).clamp(smallest, largest);
                } else if agreement < 0.0 {
                    size[i] = (size[i] * self.etas.0 as f32).clamp(smallest, largest);
                    g = 0.0;
                }
                if g != 0.0 {
                    part.value[i] -= g.signum() * size[i];
                }
                before[i] = g;
            }
        }
    }
}
