//! Optimizers: how gradients change parameters. Names, formulas, options and
//! defaults are those of `torch.optim`.

mod adam;
mod choose;
mod rules;
mod schedule;

use std::{borrow::Cow, collections::HashMap};

use rayon::prelude::*;

pub use adam::Adam;
pub use choose::{OptimizerSpec, layer_scales};
pub use schedule::{Schedule, ScheduleSpec};

use crate::{Error, Result, params::Params};

/// Elements of a parameter handled by one task.
const CHUNK: usize = 1 << 16;

/// Changes parameters along their gradients.
pub trait Optimizer: Send {
    /// One step with the gradients that [`Params::backward`] has left, at the
    /// given learning rate.
    ///
    /// # Errors
    /// The device fails.
    fn step(&mut self, params: &Params, learning_rate: f64) -> Result<()>;

    /// How many numbers are kept for each weight.
    fn moments(&self) -> usize;

    /// All that the next step depends on beside the parameters: lists of numbers
    /// by name, as the optimizer holds them.
    fn state(&self) -> Vec<(String, Cow<'_, [f32]>)>;

    /// Goes on from a [`Optimizer::state`].
    ///
    /// # Errors
    /// Where the state is not one of this optimizer.
    fn load_state(&mut self, state: HashMap<String, Vec<f32>>) -> Result<()>;
}

/// A part of a parameter, its gradient, and what the optimizer keeps of it.
pub(crate) struct Part<'a> {
    pub(crate) value: &'a mut [f32],
    pub(crate) grad: &'a [f32],
    pub(crate) slots: Vec<&'a mut [f32]>,
}

/// An optimizer that treats every element alike: what it keeps, and one step.
pub(crate) trait Rule: Send + Sync {
    /// The names of what is kept for each element, as in `torch.optim`.
    fn slots(&self) -> &'static [&'static str];

    /// What they begin with.
    fn initial(&self, _slot: &str, _learning_rate: f64) -> f32 {
        0.0
    }

    /// Step number `step`, counted from 1.
    fn apply(&self, part: Part<'_>, step: u64, learning_rate: f64);
}

/// An optimizer made from a rule.
pub(crate) struct Stepper<R> {
    rule: R,
    steps: u64,
    /// What is kept, slot by slot, of each parameter.
    kept: HashMap<String, Vec<Vec<f32>>>,
    /// What the learning rate of a parameter is multiplied with, where it is
    /// not 1.
    scales: HashMap<String, f64>,
}

impl<R: Rule> Stepper<R> {
    pub(crate) fn new(rule: R, scales: HashMap<String, f64>) -> Self {
        Self {
            rule,
            steps: 0,
            kept: HashMap::new(),
            scales,
        }
    }
}

impl<R: Rule> Optimizer for Stepper<R> {
    fn step(&mut self, params: &Params, learning_rate: f64) -> Result<()> {
        self.steps += 1;
        let (rule, step) = (&self.rule, self.steps);
        for param in params.iter() {
            let Some(grad) = param.grad() else { continue };
            let rate = learning_rate * self.scales.get(param.name()).copied().unwrap_or(1.0);
            let slots = rule.slots();
            let kept = self.kept.entry(param.name().to_owned()).or_insert_with(|| {
                let first = slots.iter().map(|slot| rule.initial(slot, rate));
                first.map(|value| vec![value; grad.len()]).collect()
            });
            if kept.iter().any(|slot| slot.len() != grad.len()) {
                return Err(Error::checkpoint(format!(
                    "the optimizer's state does not fit `{}`",
                    param.name()
                )));
            }
            param.update(|value| {
                // Chunks of all slots, side by side.
                let chunks = grad.len().div_ceil(CHUNK);
                let mut parts: Vec<Vec<&mut [f32]>> = (0..chunks).map(|_| Vec::new()).collect();
                for slot in &mut *kept {
                    for (part, chunk) in parts.iter_mut().zip(slot.chunks_mut(CHUNK)) {
                        part.push(chunk);
                    }
                }
                value
                    .par_chunks_mut(CHUNK)
                    .zip(grad.par_chunks(CHUNK))
                    .zip(parts)
                    .for_each(|((value, grad), slots)| {
                        rule.apply(Part { value, grad, slots }, step, rate);
                    });
            })?;
        }
        Ok(())
    }

    fn moments(&self) -> usize {
        self.rule.slots().len()
    }

    fn state(&self) -> Vec<(String, Cow<'_, [f32]>)> {
        // A step count beyond f32's integers would take years to reach.
        let steps: Cow<'_, [f32]> = Cow::Owned(vec![self.steps as f32]);
        let mut state = vec![("steps".to_owned(), steps)];
        let mut names: Vec<&String> = self.kept.keys().collect();
        names.sort();
        for name in names {
            for (slot, values) in self.rule.slots().iter().zip(&self.kept[name]) {
                state.push((format!("{name}.{slot}"), Cow::Borrowed(values.as_slice())));
            }
        }
        state
    }

    fn load_state(&mut self, mut state: HashMap<String, Vec<f32>>) -> Result<()> {
        let missing = |what: &str| Error::checkpoint(format!("no `{what}` of the optimizer"));
        let steps = state.remove("steps").ok_or_else(|| missing("steps"))?;
        self.steps = steps.first().copied().ok_or_else(|| missing("steps"))? as u64;
        self.kept.clear();
        let slots = self.rule.slots();
        let Some(first) = slots.first() else {
            return Ok(());
        };
        let names: Vec<String> = state
            .keys()
            .filter_map(|key| key.strip_suffix(&format!(".{first}")).map(str::to_owned))
            .collect();
        for name in names {
            let kept = slots.iter().map(|slot| {
                let key = format!("{name}.{slot}");
                state.remove(&key).ok_or_else(|| missing(&key))
            });
            let kept = kept.collect::<Result<Vec<_>>>()?;
            self.kept.insert(name, kept);
        }
        Ok(())
    }
}

/// The first parameter whose gradient has a value that is not finite.
pub(crate) fn not_finite<'a>(params: &[&'a Params]) -> Option<&'a str> {
    /// Bits of a positive infinity; those of other numbers without their sign that
    /// are not finite are above.
    const INFINITE: u32 = 0x7F80_0000;
    let of_part = |part: &[f32]| {
        let bits = part.iter().map(|g| g.to_bits() & 0x7FFF_FFFF);
        bits.fold(0, u32::max) < INFINITE
    };
    let mut all = params.iter().flat_map(|params| params.iter());
    let bad = all.find(|param| {
        let grad = param.grad();
        grad.is_some_and(|grad| !grad.par_chunks(CHUNK).all(of_part))
    });
    bad.map(|param| param.name())
}

/// Scales all gradients so that their common length is at most `limit`, as
/// `torch.nn.utils.clip_grad_norm_` does. Returns the length that they had.
pub(crate) fn clip_gradients(params: &[&Params], limit: f64) -> f64 {
    let mut squares = 0.0;
    for param in params.iter().flat_map(|params| params.iter()) {
        if let Some(grad) = param.grad() {
            // Chunk by chunk in their order: the same sum on every run.
            let parts: Vec<f64> = grad
                .par_chunks(CHUNK)
                .map(|part| part.iter().map(|g| f64::from(*g) * f64::from(*g)).sum())
                .collect();
            squares += parts.iter().sum::<f64>();
        }
    }
    let length = squares.sqrt();
    let factor = (limit / (length + 1e-6)) as f32;
    if factor < 1.0 {
        for param in params.iter().flat_map(|params| params.iter()) {
            if let Some(mut grad) = param.grad() {
                grad.par_chunks_mut(CHUNK)
                    .for_each(|part| part.iter_mut().for_each(|g| *g *= factor));
            }
        }
    }
    length
}
