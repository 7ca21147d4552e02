//! The adapters of a model: merges them into the weights, and names them as
//! PEFT does.

use std::collections::HashMap;

use super::{adapters::WEIGHT, head::PREFIX as HEAD_PREFIX, model::Model};
use crate::{
    Error, Result,
    modules::PREFIX as MODULE_PREFIX,
    ops::{ADAPTER_A, ADAPTER_B, add_product},
    params::{AdapterForm, RawTensor},
};

/// Prefix of layer names in PEFT files.
pub(crate) const PEFT_PREFIX: &str = "base_model.model.";

/// Adapters as PEFT stores them in files.
pub(crate) struct SavedAdapter {
    /// Layers with adapters, by their names in `transformers`.
    pub(crate) layers: Vec<String>,
    /// Tensors by their PEFT names.
    pub(crate) tensors: HashMap<String, RawTensor>,
}

impl Model {
    /// Returns whether training applies dropout to the inputs of adapters.
    pub(crate) fn drops_in_adapters(&self) -> bool {
        let form = self.params.adapter_form();
        form.is_some_and(|form| form.dropped > 0.0)
    }

    /// Returns the number of layers with adapters.
    pub(crate) fn adapted_layers(&self) -> usize {
        let factors = self.params.iter();
        factors.filter(|p| p.name().ends_with(ADAPTER_A)).count()
    }

    /// Returns the adapters as PEFT saves them, or `None` for a model without
    /// adapters.
    ///
    /// # Errors
    /// If the device fails.
    pub(crate) fn saved_adapter(&self) -> Result<Option<SavedAdapter>> {
        let Some(lora) = &self.setup.lora else {
            return Ok(None);
        };
        let architecture = self.config.architecture();
        let (mut layers, mut tensors) = (Vec::new(), HashMap::new());
        for param in self.params.iter() {
            let name = param.name();
            let of_network = !name.starts_with(HEAD_PREFIX) && !name.starts_with(MODULE_PREFIX);
            let saved = match name.strip_suffix(ADAPTER_A) {
                Some(layer) => {
                    layers.push(architecture.module_name(layer));
                    true
                }
                None => {
                    let theirs = architecture.module_name(name);
                    name.ends_with(ADAPTER_B) || of_network && lora.trains_whole([name, &theirs])
                }
            };
            if saved {
                let name = format!("{PEFT_PREFIX}{}", architecture.module_name(name));
                tensors.insert(name, (param.tensor().dims().to_vec(), param.to_vec()?));
            }
        }
        Ok(Some(SavedAdapter { layers, tensors }))
    }

    /// Adds the adapters to the weights of their layers and sets their second
    /// factors to zero, so that the model computes the same as before.
    ///
    /// # Errors
    /// If the device fails.
    pub(crate) fn merge_adapters(&self) -> Result<()> {
        let Some(AdapterForm { scale, .. }) = self.params.adapter_form() else {
            return Ok(());
        };
        for a in self.params.iter() {
            let Some(layer) = a.name().strip_suffix(ADAPTER_A) else {
                continue;
            };
            let find = |ending: &str| self.params.find(&format!("{layer}{ending}"));
            let (Some(weight), Some(b)) = (find(WEIGHT), find(ADAPTER_B)) else {
                return Err(Error::checkpoint(format!("`{layer}` has half an adapter")));
            };
            let (first, second) = (a.to_vec()?, b.to_vec()?);
            let rank = a.tensor().dims().first().copied().unwrap_or(1);
            weight.update(|weight| add_product(weight, &first, &second, rank, scale))?;
            b.update(|second| second.fill(0.0))?;
        }
        Ok(())
    }
}
