//! The parameters of a model: their values, their gradients, their names.
//!
//! Names and shapes are those of the Hugging Face checkpoint, so that what is
//! loaded and what is saved can be exchanged with `transformers`.

mod files;
pub(crate) mod stream;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
};

use candle_core::{
    CpuStorage, Device, InplaceOp1, Layout, Storage, Tensor, Var, backprop::GradStore,
};
pub(crate) use files::encode_safetensors;
pub use files::{FloatFormat, parse_safetensors, write_safetensors};

use crate::{Error, Result, kernels::gemm::Factor};

/// Which factor of products it is that is made of a parameter.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct FactorKey {
    /// The first row that is used.
    pub(crate) first: usize,
    /// Columns of the factor.
    pub(crate) outputs: usize,
    /// Whether it is rounded to 8 bits.
    pub(crate) int8: bool,
}

/// One named parameter.
pub struct Param {
    name: String,
    value: Var,
    /// What backward passes have added up since the last optimizer step;
    /// `None` for a frozen parameter.
    grad: Option<Mutex<Vec<f32>>>,
    factors: RwLock<Factors>,
}

/// A parameter's value, or parts of it, as inference multiplies with them:
/// packed at the first use, and dropped when the value changes.
#[derive(Default)]
struct Factors {
    packed: Vec<(FactorKey, Arc<Factor>)>,
    /// How often the value has changed.
    changes: u64,
}

impl Factors {
    fn get(&self, key: FactorKey) -> Option<Arc<Factor>> {
        let found = self.packed.iter().find(|(other, _)| *other == key);
        found.map(|(_, factor)| factor.clone())
    }
}

impl Param {
    /// A parameter of its own, on the CPU, which training changes.
    pub(crate) fn trainable(name: &str, shape: Vec<usize>, data: Vec<f32>) -> Result<Arc<Self>> {
        Self::new(name, (shape, data), &Device::Cpu, true)
    }

    fn new(
        name: &str,
        (shape, data): RawTensor,
        device: &Device,
        trainable: bool,
    ) -> Result<Arc<Self>> {
        let grad = trainable.then(|| Mutex::new(vec![0.0; data.len()]));
        let value = Var::from_tensor(&Tensor::from_vec(data, shape, device)?)?;
        Ok(Arc::new(Self {
            name: name.to_owned(),
            value,
            grad,
            factors: Default::default(),
        }))
    }

    /// The name in the checkpoint.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The current value.
    #[must_use]
    pub fn tensor(&self) -> &Tensor {
        self.value.as_tensor()
    }

    /// Whether training changes this parameter.
    #[must_use]
    pub fn is_trainable(&self) -> bool {
        self.grad.is_some()
    }

    /// The gradient added up since the last [`Params::zero_grad`]; `None` for
    /// a frozen parameter.
    #[must_use]
    pub fn grad(&self) -> Option<MutexGuard<'_, Vec<f32>>> {
        self.grad
            .as_ref()
            .map(|grad| grad.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether training changes the value, by gradients or as running moments.
    pub(crate) fn changes(&self) -> bool {
        self.is_trainable() || self.name.contains(".running_")
    }

    /// The value as a flat list in row-major order.
    ///
    /// # Errors
    /// The device fails.
    pub fn to_vec(&self) -> Result<Vec<f32>> {
        Ok(self.tensor().flatten_all()?.to_vec1()?)
    }

    /// Calls `read` with the value, without a copy of it on the CPU.
    ///
    /// # Errors
    /// The device fails.
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

    /// A part of the value as a factor of products, which `pack` makes of the
    /// whole value at the first use.
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
        // Without the lock: packing waits for other threads, and meanwhile this
        // one may begin another inference that needs the same factor.
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

    /// Lets `change` rewrite the value.
    ///
    /// # Errors
    /// The device fails.
    pub fn update(&self, change: impl FnOnce(&mut [f32])) -> Result<()> {
        let changed = self.rewrite(change);
        // Dropped after the change: factors that were packed in between are old.
        let mut factors = self.factors.write().unwrap_or_else(PoisonError::into_inner);
        factors.packed.clear();
        factors.changes += 1;
        changed
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

/// Lends a tensor's memory to a closure.
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
            _ => candle_core::bail!("a parameter is contiguous f32"),
        }
    }
}

/// All parameters of a model, by name.
pub struct Params {
    by_name: BTreeMap<String, Arc<Param>>,
    device: Device,
    /// Settings that all adapters share, if there are adapters.
    adapter_form: Option<AdapterForm>,
    /// The names of weights of linear layers, as networks take them.
    linears: Arc<Mutex<BTreeSet<String>>>,
}

/// What the adapters of a model have in common.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AdapterForm {
    /// Factor of their output.
    pub(crate) scale: f32,
    /// The share of their inputs that training drops.
    pub(crate) dropped: f32,
}

/// Shape and content of one tensor of a checkpoint.
pub type RawTensor = (Vec<usize>, Vec<f32>);

impl Params {
    /// Takes over named tensors; `trainable` says which ones training changes.
    ///
    /// # Errors
    /// Where a tensor's content does not fit its shape.
    pub fn new(
        tensors: HashMap<String, RawTensor>,
        device: &Device,
        trainable: impl Fn(&str) -> bool,
    ) -> Result<Self> {
        let by_name = tensors
            .into_iter()
            .map(|(name, tensor)| {
                let trainable = trainable(&name);
                Ok((name.clone(), Param::new(&name, tensor, device, trainable)?))
            })
            .collect::<Result<_>>()?;
        Ok(Self {
            by_name,
            device: device.clone(),
            adapter_form: None,
            linears: Arc::default(),
        })
    }

    /// Parameters that were made one by one, on the CPU.
    pub(crate) fn of(params: Vec<Arc<Param>>) -> Self {
        let named = params.into_iter().map(|param| (param.name.clone(), param));
        Self {
            by_name: named.collect(),
            device: Device::Cpu,
            adapter_form: None,
            linears: Arc::default(),
        }
    }

    /// The parameter of that name with that shape.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] where there is none, or it has another shape.
    pub fn get(&self, name: &str, shape: &[usize]) -> Result<Arc<Param>> {
        let param = self
            .by_name
            .get(name)
            .ok_or_else(|| Error::checkpoint(format!("the tensor `{name}` is missing")))?;
        if param.tensor().dims() != shape {
            return Err(Error::checkpoint(format!(
                "the tensor `{name}` has the shape {:?}, but its config.json asks for {shape:?}",
                param.tensor().dims()
            )));
        }
        Ok(param.clone())
    }

    /// The same with the factors of adapters.
    ///
    /// # Errors
    /// The device fails.
    pub(crate) fn with_adapters(
        mut self,
        factors: impl IntoIterator<Item = (String, RawTensor)>,
        form: AdapterForm,
    ) -> Result<Self> {
        for (name, tensor) in factors {
            let param = Param::new(&name, tensor, &self.device, true)?;
            self.by_name.insert(name, param);
        }
        self.adapter_form = Some(form);
        Ok(self)
    }

    /// Settings that all adapters share, if there are adapters.
    pub(crate) fn adapter_form(&self) -> Option<AdapterForm> {
        self.adapter_form
    }

    /// The rows of the parameter of that name, if there is one.
    pub(crate) fn rows(&self, name: &str) -> Option<usize> {
        let param = self.by_name.get(name)?;
        param.tensor().dims().first().copied()
    }

    /// Notes that a network has a linear layer with this weight.
    pub(crate) fn note_linear(&self, weight: &Param) {
        let mut linears = self.linears.lock().unwrap_or_else(PoisonError::into_inner);
        linears.insert(weight.name.clone());
    }

    /// The names of weights of linear layers that networks have taken.
    pub(crate) fn linears(&self) -> BTreeSet<String> {
        let linears = self.linears.lock().unwrap_or_else(PoisonError::into_inner);
        linears.clone()
    }

    /// Those whose names begin with `prefix`, by the rest of their names.
    pub(crate) fn under(&self, prefix: &str) -> Self {
        let own = self.by_name.iter().filter_map(|(name, param)| {
            let name = name.strip_prefix(prefix)?;
            Some((name.to_owned(), param.clone()))
        });
        Self {
            by_name: own.collect(),
            device: self.device.clone(),
            adapter_form: self.adapter_form,
            linears: self.linears.clone(),
        }
    }

    /// All parameters in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Param>> {
        self.by_name.values()
    }

    /// Where the parameters live.
    #[must_use]
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The parameter of that name, if there is one.
    pub(crate) fn find(&self, name: &str) -> Option<&Arc<Param>> {
        self.by_name.get(name)
    }

    /// The number of scalar weights.
    #[must_use]
    pub fn count(&self) -> usize {
        self.iter().map(|p| p.tensor().elem_count()).sum()
    }

    /// The number of scalar weights that training changes.
    #[must_use]
    pub fn trained_count(&self) -> usize {
        let trained = self.iter().filter(|p| p.is_trainable());
        trained.map(|p| p.tensor().elem_count()).sum()
    }

    /// Forgets all gradients.
    pub fn zero_grad(&self) {
        use rayon::prelude::*;
        for param in self.iter() {
            if let Some(mut grad) = param.grad() {
                grad.par_chunks_mut(1 << 16).for_each(|part| part.fill(0.0));
            }
        }
    }

    /// Runs the backward pass from a scalar loss and adds every trainable
    /// parameter's gradient to [`Param::grad`].
    ///
    /// # Errors
    /// Where an operation has no backward pass, or the device fails.
    pub fn backward(&self, loss: &Tensor) -> Result<()> {
        let grads = loss.backward()?;
        self.collect(&grads)
    }

    /// Adds what candle's own operations found; the fused ones have already
    /// added theirs.
    pub(crate) fn collect(&self, grads: &GradStore) -> Result<()> {
        for param in self.iter() {
            if let (Some(mut sum), Some(found)) = (param.grad(), grads.get(&param.value)) {
                let found: Vec<f32> = found.flatten_all()?.to_vec1()?;
                crate::kernels::simd::add_assign(&mut sum, &found);
            }
        }
        Ok(())
    }

    /// A copy of every value.
    ///
    /// # Errors
    /// The device fails.
    pub fn snapshot(&self) -> Result<HashMap<String, RawTensor>> {
        self.iter()
            .map(|p| Ok((p.name.clone(), (p.tensor().dims().to_vec(), p.to_vec()?))))
            .collect()
    }

    /// Puts back the values of a [`Params::snapshot`].
    ///
    /// # Errors
    /// [`Error::Checkpoint`] where a value is missing or has another size.
    pub fn restore(&self, snapshot: &HashMap<String, RawTensor>) -> Result<()> {
        for param in self.iter() {
            match snapshot.get(&param.name) {
                Some((shape, data)) if shape == param.tensor().dims() => {
                    param.update(|value| value.copy_from_slice(data))?;
                }
                _ => {
                    return Err(Error::checkpoint(format!(
                        "no value that fits `{}`",
                        param.name
                    )));
                }
            }
        }
        Ok(())
    }

    /// Those that training changes: parameters that it trains, and running
    /// moments.
    pub(crate) fn changing(&self) -> impl Iterator<Item = &Arc<Param>> {
        self.iter().filter(|param| param.changes())
    }

    /// A number that tells the weights that training leaves as they are from
    /// others.
    ///
    /// # Errors
    /// The device fails.
    pub(crate) fn fingerprint_of_frozen(&self) -> Result<u64> {
        use rayon::prelude::*;
        // FNV-1a, by words of 32 bits.
        const START: u64 = 0xCBF2_9CE4_8422_2325;
        let mix = |hash: u64, word: u64| (hash ^ word).wrapping_mul(0x0100_0000_01B3);
        let frozen: Vec<_> = self.iter().filter(|param| !param.changes()).collect();
        let hashes = frozen.par_iter().map(|param| {
            let name = param.name.bytes().fold(START, |h, b| mix(h, u64::from(b)));
            param.read(|values| {
                let bits = values.iter().map(|x| u64::from(x.to_bits()));
                bits.fold(name, mix)
            })
        });
        let hashes = hashes.collect::<Result<Vec<u64>>>()?;
        Ok(hashes.into_iter().fold(START, mix))
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
    fn a_factor_may_be_asked_for_while_it_is_packed() {
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
    fn a_factor_of_a_value_that_has_changed_is_not_kept() {
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
