//! The trait of optimizers, and of rules that update parameters element by element.

use std::{borrow::Cow, collections::HashMap};

use candle_core::Tensor;

use crate::{Result, params::Params};

/// Number of elements of a parameter that one task processes.
pub(super) const CHUNK: usize = 1 << 16;

/// Updates parameters by their gradients.
pub trait Optimizer: Send {
    /// Updates parameters by the gradients that [`Params::backward`] computed.
    ///
    /// # Errors
    /// If the device fails.
    fn step(&mut self, params: &Params, learning_rate: f64) -> Result<()>;

    /// Returns the number of values stored per weight.
    fn moments(&self) -> usize;

    /// Returns all state besides the parameters that the next step needs: lists
    /// of numbers by name. Borrows those in host memory and copies those on a
    /// device.
    ///
    /// # Errors
    /// If the device fails.
    fn state(&self) -> Result<Vec<(String, Cow<'_, [f32]>)>>;

    /// Restores a [`Optimizer::state`].
    ///
    /// # Errors
    /// If the state belongs to another optimizer.
    fn load_state(&mut self, state: HashMap<String, Vec<f32>>) -> Result<()>;
}

/// A chunk of a parameter, with its gradient and optimizer state.
pub(crate) struct Part<'a> {
    pub(crate) value: &'a mut [f32],
    pub(crate) grad: &'a [f32],
    pub(crate) slots: Vec<&'a mut [f32]>,
}

/// An element-wise optimizer: its state per element, and one step.
pub(crate) trait Rule: TensorRule + Send + Sync {
    /// Returns the names of the state per element, as in `torch.optim`.
    fn slots(&self) -> &'static [&'static str];

    /// Returns the initial value of a state.
    fn initial(&self, _slot: &str, _learning_rate: f64) -> f32 {
        0.0
    }

    /// Applies step number `step`, counted from 1.
    fn apply(&self, part: Part<'_>, step: u64, learning_rate: f64);
}

/// A step of an optimizer.
#[derive(Clone, Copy)]
pub(crate) struct Step {
    /// Number of the step, from 1.
    pub(crate) number: u64,
    /// The learning rate.
    pub(crate) rate: f64,
}

/// A [`Rule`] on tensors.
pub(crate) trait TensorRule {
    /// Returns the value after a step, and updates the slots, which are in the
    /// order of the rule's names.
    fn apply_tensors(
        &self,
        value: &Tensor,
        grad: &Tensor,
        slots: &mut [Tensor],
        step: Step,
    ) -> candle_core::Result<Tensor>;
}
