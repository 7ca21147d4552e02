//! Accumulation of a parameter's gradient: in host memory, where fused
//! operations add in place, or in the memory of the parameter's device.

use std::sync::{
    Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, Ordering},
};

use candle_core::Tensor;

use crate::kernels::simd;

/// The gradient of one parameter.
pub(super) struct Gradient {
    /// Whether the gradient is a tensor. Then `floats` is unused.
    as_tensor: AtomicBool,
    floats: Mutex<Vec<f32>>,
    /// `None` for a zero gradient.
    tensor: Mutex<Option<Tensor>>,
}

impl Gradient {
    /// Creates a zero gradient of `count` elements, as a tensor or in host
    /// memory.
    pub(super) fn zeros(count: usize, as_tensor: bool) -> Self {
        let floats = if as_tensor { 0 } else { count };
        Self {
            as_tensor: AtomicBool::new(as_tensor),
            floats: Mutex::new(vec![0.0; floats]),
            tensor: Mutex::new(None),
        }
    }

    /// Switches to a tensor, with a zero gradient.
    pub(super) fn keep_as_tensor(&self) {
        self.as_tensor.store(true, Ordering::Relaxed);
        *self.floats() = Vec::new();
        *self.tensor() = None;
    }

    pub(super) fn is_tensor(&self) -> bool {
        self.as_tensor.load(Ordering::Relaxed)
    }

    pub(super) fn floats(&self) -> MutexGuard<'_, Vec<f32>> {
        self.floats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn tensor(&self) -> MutexGuard<'_, Option<Tensor>> {
        self.tensor.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds the result of a backward pass.
    pub(super) fn add(&self, found: &Tensor) -> candle_core::Result<()> {
        // Detached, since it may keep its graph alive.
        let found = found.detach();
        if !self.is_tensor() {
            let found: Vec<f32> = found.flatten_all()?.to_vec1()?;
            simd::add_assign(&mut self.floats(), &found);
            return Ok(());
        }
        let mut sum = self.tensor();
        *sum = Some(match sum.take() {
            None => found.contiguous()?,
            Some(sum) => (sum + found)?,
        });
        Ok(())
    }

    /// Sets the gradient to zero.
    pub(super) fn clear(&self) {
        use rayon::prelude::*;
        *self.tensor() = None;
        let mut floats = self.floats();
        floats
            .par_chunks_mut(1 << 16)
            .for_each(|part| part.fill(0.0));
    }
}
