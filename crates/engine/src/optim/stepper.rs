//! An optimizer that applies a rule to all parameters.

use std::{borrow::Cow, collections::HashMap};

use candle_core::Tensor;
use rayon::prelude::*;

use super::rule::{CHUNK, Optimizer, Part, Rule, Step};
use crate::{Error, Result, params::Params};

/// An optimizer that applies a rule.
pub(crate) struct Stepper<R> {
    rule: R,
    steps: u64,
    /// The state of each parameter, slot by slot.
    kept: HashMap<String, Vec<Slot>>,
    /// Factors of the parameters' learning rates, if not 1.
    scales: HashMap<String, f64>,
}

/// A state of a parameter, in the same memory as its gradient.
enum Slot {
    Floats(Vec<f32>),
    Tensor(Tensor),
}

impl Slot {
    fn len(&self) -> usize {
        match self {
            Self::Floats(values) => values.len(),
            Self::Tensor(values) => values.elem_count(),
        }
    }

    /// Returns the values as a tensor with shape and device of `like`.
    fn tensor(&self, like: &Tensor) -> Result<Tensor> {
        Ok(match self {
            Self::Floats(values) => Tensor::from_slice(values, like.shape(), like.device())?,
            Self::Tensor(values) => values.clone(),
        })
    }

    fn values(&self) -> Result<Cow<'_, [f32]>> {
        Ok(match self {
            Self::Floats(values) => Cow::Borrowed(values),
            Self::Tensor(values) => Cow::Owned(values.flatten_all()?.to_vec1()?),
        })
    }
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
        let slots = rule.slots();
        for param in params.iter().filter(|param| param.is_trainable()) {
            let rate = learning_rate * self.scales.get(param.name()).copied().unwrap_or(1.0);
            let count = param.tensor().elem_count();
            let kept = self.kept.entry(param.name().to_owned()).or_insert_with(|| {
                let first = slots.iter().map(|slot| rule.initial(slot, rate));
                first
                    .map(|value| Slot::Floats(vec![value; count]))
                    .collect()
            });
            if kept.iter().any(|slot| slot.len() != count) {
                return Err(Error::checkpoint(format!(
                    "the optimizer's state does not fit `{}`",
                    param.name()
                )));
            }
            if let Some(grad) = param.tensor_gradient()? {
                let value = param.tensor().detach();
                let own = kept.iter().map(|slot| slot.tensor(&value));
                let mut own = own.collect::<Result<Vec<_>>>()?;
                let step = Step { number: step, rate };
                let changed = rule.apply_tensors(&value, &grad, &mut own, step)?;
                *kept = own.into_iter().map(Slot::Tensor).collect();
                param.set(&changed)?;
                continue;
            }
            let Some(grad) = param.grad() else { continue };
            let mut own: Vec<&mut Vec<f32>> = Vec::with_capacity(kept.len());
            for slot in kept {
                match slot {
                    Slot::Floats(values) => own.push(values),
                    Slot::Tensor(_) => {
                        return Err(Error::checkpoint(format!(
                            "the optimizer's state of `{}` is on a device",
                            param.name()
                        )));
                    }
                }
            }
            param.update(|value| {
                // Chunks of all slots, side by side.
                let chunks = grad.len().div_ceil(CHUNK);
                let mut parts: Vec<Vec<&mut [f32]>> = (0..chunks).map(|_| Vec::new()).collect();
                for slot in own {
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

    fn state(&self) -> Result<Vec<(String, Cow<'_, [f32]>)>> {
        // f32 represents step counts up to 2^24 exactly.
        let steps: Cow<'_, [f32]> = Cow::Owned(vec![self.steps as f32]);
        let mut state = vec![("steps".to_owned(), steps)];
        let mut names: Vec<&String> = self.kept.keys().collect();
        names.sort();
        for name in names {
            for (slot, values) in self.rule.slots().iter().zip(&self.kept[name]) {
                state.push((format!("{name}.{slot}"), values.values()?));
            }
        }
        Ok(state)
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
                let values = state.remove(&key).ok_or_else(|| missing(&key));
                values.map(Slot::Floats)
            });
            let kept = kept.collect::<Result<Vec<_>>>()?;
            self.kept.insert(name, kept);
        }
        Ok(())
    }
}
