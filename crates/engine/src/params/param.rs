//! A parameter: its value, its gradient, and packed forms of the value.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use candle_core::{CpuStorage, Device, InplaceOp1, Layout, Storage, Tensor, Var};

use super::gradient::Gradient;
use crate::{Result, kernels::gemm::Factor};

/// Shape and values of a checkpoint's tensor.
pub type RawTensor = (Vec<usize>, Vec<f32>);

/// Identifies a packed form of a parameter.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct FactorKey {
    /// First row of the parameter.
    pub(crate) first: usize,
    /// Number of columns of the packed factor.
    pub(crate) outputs: usize,
    /// Whether values are rounded to 8 bits.
    pub(crate) int8: bool,
}

/// A named parameter.
pub struct Param {
    pub(super) name: String,
    pub(super) value: Var,
    /// Gradient accumulated since the last optimizer step; `None` for a frozen
    /// parameter.
    pub(super) grad: Option<Gradient>,
    factors: RwLock<Factors>,
}

/// Packed forms of a parameter's value for inference. They are created at the
/// first use, and dropped when the value changes.
#[derive(Default)]
struct Factors {
    packed: Vec<(FactorKey, Arc<Factor>)>,
    /// Number of changes of the value.
    changes: u64,
}

impl Factors {
    fn get(&self, key: FactorKey) -> Option<Arc<Factor>> {
        let found = self.packed.iter().find(|(other, _)| *other == key);
        found.map(|(_, factor)| factor.clone())
    }
}

impl Param {
    /// Creates a trainable parameter on the CPU that belongs to no checkpoint.
    pub(crate) fn trainable(name: &str, shape: Vec<usize>, data: Vec<f32>) -> Result<Arc<Self>> {
        Self::new(name, (shape, data), &Device::Cpu, true)
    }

    pub(super) fn new(
        name: &str,
        (shape, data): RawTensor,
        device: &Device,
        trainable: bool,
    ) -> Result<Arc<Self>> {
        let grad = trainable.then(|| Gradient::zeros(data.len(), !device.is_cpu()));
        let value = Var::from_tensor(&Tensor::from_vec(data, shape, device)?)?;
        Ok(Arc::new(Self {
            name: name.to_owned(),
            value,
            grad,
            factors: Default::default(),
        }))
    }

    /// Returns the name in the checkpoint.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the current value.
    #[must_use]
    pub fn tensor(&self) -> &Tensor {
        self.value.as_tensor()
    }

    /// Returns whether training updates this parameter by gradients.
    #[must_use]
    pub fn is_trainable(&self) -> bool {
        self.grad.is_some()
    }

    /// Returns the gradient since the last
    /// [`Params::zero_grad`](super::Params::zero_grad), if it is in host
    /// memory. `None` for a frozen parameter, and for a gradient on a device;
    /// see [`Param::gradient`].
    #[must_use]
    pub fn grad(&self) -> Option<MutexGuard<'_, Vec<f32>>> {
        let grad = self.grad.as_ref().filter(|grad| !grad.is_tensor());
        grad.map(Gradient::floats)
    }

    /// Copies the gradient since the last
    /// [`Params::zero_grad`](super::Params::zero_grad), from any memory; `None`
    /// for a frozen parameter.
    ///
    /// # Errors
    /// If the device fails.
    pub fn gradient(&self) -> Result<Option<Vec<f32>>> {
        if let Some(grad) = self.grad() {
            return Ok(Some(grad.clone()));
        }
        let grad = self.tensor_gradient()?;
        Ok(grad.map(|grad| grad.flatten_all()?.to_vec1()).transpose()?)
    }

    /// Returns the gradient as a tensor, if it is stored as one.
    ///
    /// # Errors
    /// If the device fails.
    pub(crate) fn tensor_gradient(&self) -> Result<Option<Tensor>> {
        let Some(grad) = self.grad.as_ref().filter(|grad| grad.is_tensor()) else {
            return Ok(None);
        };
        let found = grad.tensor().clone();
        Ok(Some(match found {
            Some(found) => found,
            None => self.tensor().zeros_like()?,
        }))
    }

    /// Scales a gradient that is stored as a tensor.
    ///
    /// # Errors
    /// If the device fails.
    pub(crate) fn scale_tensor_gradient(&self, factor: f64) -> Result<()> {
        if let Some(grad) = &self.grad {
            let mut sum = grad.tensor();
            if let Some(found) = sum.take() {
                *sum = Some(found.affine(factor, 0.0)?);
            }
        }
        Ok(())
    }

    /// Adds to the gradient, unless the parameter is frozen.
    pub(crate) fn add_gradient(&self, found: &Tensor) -> candle_core::Result<()> {
        match &self.grad {
            None => Ok(()),
            Some(grad) => grad.add(&found.reshape(self.tensor().shape())?),
        }
    }

    /// Returns whether training changes the value, by gradients or as running
    /// statistics.
    pub(crate) fn changes(&self) -> bool {
        self.is_trainable() || self.name.contains(".running_")
    }

    /// Copies the value to a list in row-major order.
    ///
    /// # Errors
    /// If the device fails.
    pub fn to_vec(&self) -> Result<Vec<f32>> {
        Ok(self.tensor().flatten_all()?.to_vec1()?)
    }

    /// Calls `read` with the value. On the CPU this makes no copy.
    ///
    /// # Errors
    /// If the device fails.
    pub(crate) fn read<T>(&self, read: impl FnOnce(&[f32]) -> T) -> Result<T> {
        let (storage, layout) = self.tensor().storage_and_layout();
        if let (Storage::Cpu(CpuStorage::F32(data)), Some((start, end))) =
            (&*storage, layout.contiguous_offsets())
        {
            return Ok(read(&data[start..end]));
        }
        drop(storage);
        Ok(read(&self.to_vec()?))
    }

    /// Returns a packed form of the value, which `pack` creates from the whole
    /// value at the first use.
    pub(crate) fn factor(
        &self,
        key: FactorKey,
        pack: impl FnOnce(&[f32]) -> Result<Factor>,
    ) -> Result<Arc<Factor>> {
        let changes = {
            let factors = self.factors.read().unwrap_or_else(PoisonError::into_inner);
            if let Some(factor) = factors.get(key) {
                return Ok(factor);
            }
            factors.changes
        };
        // Don't hold the lock here: packing waits for other threads, and
        // meanwhile this thread may start another inference that needs the same
        // factor.
        let factor = Arc::new(pack(&self.to_vec()?)?);
        let mut factors = self.factors.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(factor) = factors.get(key) {
            return Ok(factor);
        }
        if factors.changes == changes {
            factors.packed.push((key, factor.clone()));
        }
        Ok(factor)
    }

    /// Changes the value in place by `change`.
    ///
    /// # Errors
    /// If the device fails.
    pub fn update(&self, change: impl FnOnce(&mut [f32])) -> Result<()> {
        let changed = self.rewrite(change);
        self.drop_factors();
        changed
    }

    /// Replaces the value, without a copy through host memory.
    ///
    /// # Errors
    /// If the device fails, or the value has another shape.
    pub(crate) fn set(&self, value: &Tensor) -> Result<()> {
        let changed = self.value.set(&value.detach());
        self.drop_factors();
        Ok(changed?)
    }

    /// Limits all elements to at most `largest`.
    ///
    /// # Errors
    /// If the device fails.
    pub(crate) fn limit(&self, largest: f32) -> Result<()> {
        if self.tensor().device().is_cpu() {
            return self.update(|value| value.iter_mut().for_each(|v| *v = v.min(largest)));
        }
        self.set(&self.tensor().detach().minimum(largest)?)
    }

    /// Drops factors after a change. Those packed meanwhile are outdated too.
    fn drop_factors(&self) {
        let mut factors = self.factors.write().unwrap_or_else(PoisonError::into_inner);
        factors.packed.clear();
        factors.changes += 1;
    }

    fn rewrite(&self, change: impl FnOnce(&mut [f32])) -> Result<()> {
        if self.tensor().device().is_cpu() {
            let op = InPlace(Mutex::new(Some(change)));
            return Ok(self.tensor().inplace_op1(&op)?);
        }
        let mut value = self.to_vec()?;
        change(&mut value);
        let tensor = Tensor::from_vec(value, self.tensor().shape(), self.tensor().device())?;
        Ok(self.value.set(&tensor)?)
    }
}

/// Gives a closure access to a tensor's memory.
struct InPlace<F>(Mutex<Option<F>>);

impl<F: FnOnce(&mut [f32])> InplaceOp1 for InPlace<F> {
    fn name(&self) -> &'static str {
        "update"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> candle_core::Result<()> {
        let change = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        match (storage, layout.contiguous_offsets(), change) {
            (CpuStorage::F32(data), Some((start, end)), Some(change)) => {
                change(&mut data[start..end]);
                Ok(())
            }
            _ => candle_core::bail!("a parameter must be a contiguous f32 tensor"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: FactorKey = FactorKey {
        first: 0,
        outputs: 3,
        int8: false,
    };

    fn pack(value: &[f32]) -> Result<Factor> {
        Ok(Factor::new(value, 2, false))
    }

    fn param() -> Arc<Param> {
        let tensor = (vec![3, 2], vec![1.0; 6]);
        Param::new("weight", tensor, &Device::Cpu, true).unwrap()
    }

    #[test]
    fn a_factor_may_be_requested_while_it_is_packed() {
        let param = param();
        let mut inner = None;
        let outer = param.factor(KEY, |value| {
            inner = Some(param.factor(KEY, pack).unwrap());
            pack(value)
        });
        let kept = param.factor(KEY, |_| unreachable!("it is kept")).unwrap();
        assert!(Arc::ptr_eq(&outer.unwrap(), &kept));
        assert!(Arc::ptr_eq(&inner.unwrap(), &kept));
    }

    #[test]
    fn a_factor_of_a_changed_value_is_not_cached() {
        let param = param();
        let change = || param.update(|value| value.fill(2.0)).unwrap();
        let before = param.factor(KEY, pack).unwrap();
        change();
        let between = param.factor(KEY, |value| {
            change();
            pack(value)
        });
        let after = param.factor(KEY, pack).unwrap();
        assert!(!Arc::ptr_eq(&before, &after));
        assert!(!Arc::ptr_eq(&between.unwrap(), &after));
    }
}
