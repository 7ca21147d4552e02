//! Optimizers: how gradients change parameters.

mod adam;

use std::collections::HashMap;

pub use adam::Adam;

use crate::{
    Result,
    params::{Params, RawTensor},
};

/// Changes parameters along their gradients.
pub trait Optimizer: Send {
    /// One step with the gradients that [`Params::backward`] has left, at the
    /// given learning rate.
    ///
    /// # Errors
    /// Where the device fails.
    fn step(&mut self, params: &Params, learning_rate: f64) -> Result<()>;

    /// All that the next step depends on beside the parameters.
    fn state(&self) -> HashMap<String, RawTensor>;

    /// Goes on from a [`Optimizer::state`].
    ///
    /// # Errors
    /// Where the state is not one of this optimizer.
    fn load_state(&mut self, state: HashMap<String, RawTensor>) -> Result<()>;
}
