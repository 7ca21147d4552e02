//! The parameters of a model: names, values and gradients.
//!
//! Names and shapes are those of Hugging Face checkpoints, so that models can
//! be exchanged with `transformers`.

mod files;
mod gradient;
mod param;
pub(crate) mod stream;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex, PoisonError},
};

use candle_core::{Device, Tensor, backprop::GradStore};
pub(crate) use files::encode_safetensors;
pub use files::{FloatFormat, parse_safetensors, write_safetensors};
pub(crate) use param::FactorKey;
pub use param::{Param, RawTensor};

use crate::{Error, Result};

/// All parameters of a model, by name.
pub struct Params {
    by_name: BTreeMap<String, Arc<Param>>,
    device: Device,
    /// Settings of all adapters, if there are adapters.
    adapter_form: Option<AdapterForm>,
    /// Names of the weights of linear layers, collected as networks load them.
    linears: Arc<Mutex<BTreeSet<String>>>,
}

/// Settings that all adapters of a model share.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AdapterForm {
    /// Factor of the adapters' output.
    pub(crate) scale: f32,
    /// Dropout rate of the adapters' input.
    pub(crate) dropped: f32,
}

impl Params {
    /// Creates parameters from named tensors; `trainable` selects those that
    /// training changes.
    ///
    /// # Errors
    /// If a tensor's values don't fit its shape.
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

    /// Collects parameters that were created individually, on the CPU.
    pub(crate) fn of(params: Vec<Arc<Param>>) -> Self {
        let named = params.into_iter().map(|param| (param.name.clone(), param));
        Self {
            by_name: named.collect(),
            device: Device::Cpu,
            adapter_form: None,
            linears: Arc::default(),
        }
    }

    /// Returns the parameter with this name and shape.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] if it does not exist, or has another shape.
    pub fn get(&self, name: &str, shape: &[usize]) -> Result<Arc<Param>> {
        let param = self
            .by_name
            .get(name)
            .ok_or_else(|| Error::checkpoint(format!("the tensor `{name}` is missing")))?;
        if param.tensor().dims() != shape {
            return Err(Error::checkpoint(format!(
                "the tensor `{name}` has the shape {:?}, but config.json requires {shape:?}",
                param.tensor().dims()
            )));
        }
        Ok(param.clone())
    }

    /// Adds the factors of adapters.
    ///
    /// # Errors
    /// If the device fails.
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

    /// Returns the settings of all adapters, if there are adapters.
    pub(crate) fn adapter_form(&self) -> Option<AdapterForm> {
        self.adapter_form
    }

    /// Returns the number of rows of a parameter, if it exists.
    pub(crate) fn rows(&self, name: &str) -> Option<usize> {
        let param = self.by_name.get(name)?;
        param.tensor().dims().first().copied()
    }

    /// Records that a network has a linear layer with this weight.
    pub(crate) fn record_linear(&self, weight: &Param) {
        let mut linears = self.linears.lock().unwrap_or_else(PoisonError::into_inner);
        linears.insert(weight.name.clone());
    }

    /// Returns the names of the weights of linear layers that networks have
    /// loaded.
    pub(crate) fn linears(&self) -> BTreeSet<String> {
        let linears = self.linears.lock().unwrap_or_else(PoisonError::into_inner);
        linears.clone()
    }

    /// Returns the parameters under `prefix`, with the prefix removed from
    /// their names.
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

    /// Iterates over all parameters, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Param>> {
        self.by_name.values()
    }

    /// Returns the device of the parameters.
    #[must_use]
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Returns the parameter with this name, if it exists.
    pub(crate) fn find(&self, name: &str) -> Option<&Arc<Param>> {
        self.by_name.get(name)
    }

    /// Returns the number of scalar weights.
    #[must_use]
    pub fn count(&self) -> usize {
        self.iter().map(|p| p.tensor().elem_count()).sum()
    }

    /// Returns the number of scalar weights that training changes.
    #[must_use]
    pub fn trained_count(&self) -> usize {
        let trained = self.iter().filter(|p| p.is_trainable());
        trained.map(|p| p.tensor().elem_count()).sum()
    }

    /// Sets all gradients to zero.
    pub fn zero_grad(&self) {
        for grad in self.iter().filter_map(|param| param.grad.as_ref()) {
            grad.clear();
        }
    }

    /// Stores gradients as tensors, as on devices other than the CPU. Fused
    /// operations can't add to such gradients.
    pub(crate) fn keep_gradients_as_tensors(&self) {
        for grad in self.iter().filter_map(|param| param.grad.as_ref()) {
            grad.keep_as_tensor();
        }
    }

    /// Runs the backward pass from a scalar loss, and accumulates the gradients
    /// of trainable parameters.
    ///
    /// # Errors
    /// If an operation has no backward pass, or the device fails.
    pub fn backward(&self, loss: &Tensor) -> Result<()> {
        Self::backward_of([self], loss)
    }

    /// Runs the backward pass for the parameters of several parts, such as a
    /// model and its loss.
    ///
    /// # Errors
    /// As [`Params::backward`].
    pub fn backward_of<const N: usize>(all: [&Self; N], loss: &Tensor) -> Result<()> {
        let grads = loss.backward()?;
        all.iter().try_for_each(|params| params.collect(&grads))
    }

    /// Accumulates gradients that candle's own operations computed. Fused
    /// operations have already added theirs.
    pub(crate) fn collect(&self, grads: &GradStore) -> Result<()> {
        for param in self.iter() {
            if let Some(found) = grads.get(&param.value) {
                param.add_gradient(found)?;
            }
        }
        Ok(())
    }

    /// Copies all values.
    ///
    /// # Errors
    /// If the device fails.
    pub fn snapshot(&self) -> Result<HashMap<String, RawTensor>> {
        self.iter()
            .map(|p| Ok((p.name.clone(), (p.tensor().dims().to_vec(), p.to_vec()?))))
            .collect()
    }

    /// Restores the values of a [`Params::snapshot`].
    ///
    /// # Errors
    /// [`Error::Checkpoint`] if a value is missing or has another shape.
    pub fn restore(&self, snapshot: &HashMap<String, RawTensor>) -> Result<()> {
        for param in self.iter() {
            match snapshot.get(&param.name) {
                Some((shape, data)) if shape == param.tensor().dims() => {
                    param.update(|value| value.copy_from_slice(data))?;
                }
                _ => {
                    return Err(Error::checkpoint(format!(
                        "the snapshot has no value of the shape of `{}`",
                        param.name
                    )));
                }
            }
        }
        Ok(())
    }

    /// Iterates over parameters that training changes: trainable ones and
    /// running statistics.
    pub(crate) fn changing(&self) -> impl Iterator<Item = &Arc<Param>> {
        self.iter().filter(|param| param.changes())
    }

    /// Returns a hash of the weights that training does not change.
    ///
    /// # Errors
    /// If the device fails.
    pub(crate) fn fingerprint_of_frozen(&self) -> Result<u64> {
        use rayon::prelude::*;
        // FNV-1a over 32-bit words.
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
