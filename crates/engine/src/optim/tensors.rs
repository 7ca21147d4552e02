//! Optimizer rules on tensors: values, gradients and state stay in the memory
//! of their device. Formulas are those of `rules` and `adam`.

use candle_core::{Result, Tensor};

use super::{
    adam::Adam,
    rule::{Step, TensorRule},
    rules,
};

/// Returns the gradient with coupled weight decay.
fn coupled(grad: &Tensor, value: &Tensor, decay: f64) -> Result<Tensor> {
    match decay == 0.0 {
        true => Ok(grad.clone()),
        false => grad + (value * decay)?,
    }
}

/// Returns `mean + (1 - keep) (new - mean)`.
fn follow(mean: &Tensor, new: &Tensor, keep: f64) -> Result<Tensor> {
    (mean * keep)? + (new * (1.0 - keep))?
}

impl TensorRule for Adam {
    fn apply_tensors(
        &self,
        value: &Tensor,
        grad: &Tensor,
        slots: &mut [Tensor],
        step: Step,
    ) -> Result<Tensor> {
        let [m, v, most @ ..] = slots else {
            return Ok(value.clone());
        };
        let form = self.step(step.number, step.rate);
        let g = coupled(grad, value, f64::from(form.l2))?;
        *m = follow(m, &g, f64::from(form.beta1))?;
        *v = follow(v, &g.sqr()?, f64::from(form.beta2))?;
        let second = match most {
            [most, ..] => {
                *most = most.maximum(&*v)?;
                &*most
            }
            [] => &*v,
        };
        let (scale, eps) = (f64::from(form.second_scale), f64::from(form.eps));
        let root = second.sqrt()?.affine(scale, eps)?;
        let change = ((&*m / root)? * f64::from(form.rate))?;
        match form.shrink == 1.0 {
            true => value - change,
            false => (value * f64::from(form.shrink))? - change,
        }
    }
}

impl TensorRule for rules::Sgd {
    fn apply_tensors(
        &self,
        value: &Tensor,
        grad: &Tensor,
        slots: &mut [Tensor],
        step: Step,
    ) -> Result<Tensor> {
        let mut g = coupled(grad, value, self.weight_decay)?;
        if let Some(buffer) = slots.first_mut() {
            // The first gradient is not dampened.
            let fresh = match step.number {
                1 => 1.0,
                _ => 1.0 - self.dampening,
            };
            *buffer = ((&*buffer * self.momentum)? + (&g * fresh)?)?;
            g = match self.nesterov {
                true => (g + (&*buffer * self.momentum)?)?,
                false => buffer.clone(),
            };
        }
        value - (g * step.rate)?
    }
}

impl TensorRule for rules::Adadelta {
    fn apply_tensors(
        &self,
        value: &Tensor,
        grad: &Tensor,
        slots: &mut [Tensor],
        step: Step,
    ) -> Result<Tensor> {
        let [square, acc] = slots else {
            return Ok(value.clone());
        };
        let g = coupled(grad, value, self.weight_decay)?;
        *square = follow(square, &g.sqr()?, self.rho)?;
        let root = |x: &Tensor| x.affine(1.0, self.eps)?.sqrt();
        let delta = ((root(acc)? / root(square)?)? * g)?;
        *acc = follow(acc, &delta.sqr()?, self.rho)?;
        value - (delta * step.rate)?
    }
}

impl TensorRule for rules::Adagrad {
    fn apply_tensors(
        &self,
        value: &Tensor,
        grad: &Tensor,
        slots: &mut [Tensor],
        step: Step,
    ) -> Result<Tensor> {
        let [sum] = slots else {
            return Ok(value.clone());
        };
        let rate = step.rate / (1.0 + (step.number - 1) as f64 * self.lr_decay);
        let g = coupled(grad, value, self.weight_decay)?;
        *sum = (&*sum + g.sqr()?)?;
        let root = sum.sqrt()?.affine(1.0, self.eps)?;
        value - ((g / root)? * rate)?
    }
}

impl TensorRule for rules::Adamax {
    fn apply_tensors(
        &self,
        value: &Tensor,
        grad: &Tensor,
        slots: &mut [Tensor],
        step: Step,
    ) -> Result<Tensor> {
        let [m, u] = slots else {
            return Ok(value.clone());
        };
        let (beta1, beta2) = self.betas;
        let rate = step.rate / (1.0 - beta1.powf(step.number as f64));
        let g = coupled(grad, value, self.weight_decay)?;
        *m = follow(m, &g, beta1)?;
        *u = (&*u * beta2)?.maximum(&g.abs()?.affine(1.0, self.eps)?)?;
        value - ((&*m / &*u)? * rate)?
    }
}

impl TensorRule for rules::Asgd {
    fn apply_tensors(
        &self,
        value: &Tensor,
        grad: &Tensor,
        _: &mut [Tensor],
        step: Step,
    ) -> Result<Tensor> {
        let before = (step.number - 1) as f64;
        let eta = step.rate / (1.0 + self.lambd * step.rate * before).powf(self.alpha);
        let g = coupled(grad, value, self.weight_decay)?;
        (value * (1.0 - self.lambd * eta))? - (g * eta)?
    }
}

/// Returns value and gradient, one of them with weight decay.
fn decayed(
    value: &Tensor,
    grad: &Tensor,
    (decay, decoupled): (f64, bool),
    rate: f64,
) -> Result<(Tensor, Tensor)> {
    match decoupled {
        true => Ok(((value * (1.0 - rate * decay))?, grad.clone())),
        false => Ok((value.clone(), coupled(grad, value, decay)?)),
    }
}

impl TensorRule for rules::NAdam {
    fn apply_tensors(
        &self,
        value: &Tensor,
        grad: &Tensor,
        slots: &mut [Tensor],
        step: Step,
    ) -> Result<Tensor> {
        let [m, v] = slots else {
            return Ok(value.clone());
        };
        let (beta1, beta2) = self.betas;
        let correction = 1.0 - beta2.powf(step.number as f64);
        let [of_grad, of_mean] = self.rates(step.number, step.rate);
        let decay = (self.weight_decay, self.decoupled);
        let (value, g) = decayed(value, grad, decay, step.rate)?;
        *m = follow(m, &g, beta1)?;
        *v = follow(v, &g.sqr()?, beta2)?;
        let root = v
            .affine(1.0 / correction, 0.0)?
            .sqrt()?
            .affine(1.0, self.eps)?;
        let change = ((g * of_grad)? + (&*m * of_mean)?)?;
        value - (change / root)?
    }
}

impl TensorRule for rules::RAdam {
    fn apply_tensors(
        &self,
        value: &Tensor,
        grad: &Tensor,
        slots: &mut [Tensor],
        step: Step,
    ) -> Result<Tensor> {
        let [m, v] = slots else {
            return Ok(value.clone());
        };
        let (beta1, beta2) = self.betas;
        let decay = (self.weight_decay, self.decoupled);
        let (value, g) = decayed(value, grad, decay, step.rate)?;
        *m = follow(m, &g, beta1)?;
        *v = follow(v, &g.sqr()?, beta2)?;
        let mean = (&*m * (step.rate / (1.0 - beta1.powf(step.number as f64))))?;
        match self.rectification(step.number) {
            None => value - mean,
            Some(factor) => {
                let factor = factor * (1.0 - beta2.powf(step.number as f64)).sqrt();
                let root = v.sqrt()?.affine(1.0, self.eps)?;
                value - ((mean * factor)? / root)?
            }
        }
    }
}

impl TensorRule for rules::RmsProp {
    fn apply_tensors(
        &self,
        value: &Tensor,
        grad: &Tensor,
        slots: &mut [Tensor],
        step: Step,
    ) -> Result<Tensor> {
        let [square, mean, buffer] = slots else {
            return Ok(value.clone());
        };
        let g = coupled(grad, value, self.weight_decay)?;
        *square = follow(square, &g.sqr()?, self.alpha)?;
        let mut around = square.clone();
        if self.centered {
            *mean = follow(mean, &g, self.alpha)?;
            around = (around - mean.sqr()?)?;
        }
        let mut scaled = (g / around.relu()?.sqrt()?.affine(1.0, self.eps)?)?;
        if self.momentum > 0.0 {
            *buffer = ((&*buffer * self.momentum)? + scaled)?;
            scaled = buffer.clone();
        }
        value - (scaled * step.rate)?
    }
}

impl TensorRule for rules::Rprop {
    fn apply_tensors(
        &self,
        value: &Tensor,
        grad: &Tensor,
        slots: &mut [Tensor],
        _: Step,
    ) -> Result<Tensor> {
        let [before, size] = slots else {
            return Ok(value.clone());
        };
        let agreement = (grad * &*before)?;
        let (same, other) = (agreement.gt(0f32)?, agreement.lt(0f32)?);
        let (smallest, largest) = (self.step_sizes.0 as f32, self.step_sizes.1 as f32);
        let stepped = |by: f64| (&*size * by)?.clamp(smallest, largest);
        let grown = same.where_cond(&stepped(self.etas.1)?, size)?;
        let changed = other.where_cond(&stepped(self.etas.0)?, &grown)?;
        *size = changed;
        let g = other.where_cond(&grad.zeros_like()?, grad)?;
        let value = (value - (g.sign()? * &*size)?)?;
        *before = g;
        Ok(value)
    }
}
