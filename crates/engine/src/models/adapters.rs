//! Low-rank adapters of a model: which tensors stay trainable besides them,
//! merging them into the weights, and their names in PEFT files.

use std::collections::HashMap;

use super::{HEAD_PREFIX, MODULE_PREFIX, Model, ModelConfig};
use crate::{
    Error, Result,
    lora::LoraSpec,
    ops::{ADAPTER_A, ADAPTER_B, add_product},
    params::{AdapterForm, Params, RawTensor},
};

/// Prefix of layer names in PEFT files.
pub(crate) const PEFT_PREFIX: &str = "base_model.model.";
/// Suffix of a layer's weight.
const WEIGHT: &str = ".weight";

/// Checks `modules_to_save`, and adds to it the modules that start with random
/// weights.
pub(super) fn whole_modules(config: &ModelConfig, lora: &mut LoraSpec) -> Result<()> {
    let tensors = config.tensors();
    let names = tensors
        .iter()
        .map(|(name, _)| [name.clone(), config.0.module_name(name)]);
    lora.check_modules(&names.collect::<Vec<_>>())?;
    for (name, _) in &tensors {
        let module = name.strip_suffix(WEIGHT).unwrap_or(name);
        if config.0.trains_frozen(name) && !lora.trains_whole([name; 2]) {
            lora.modules_to_save.push(module.to_owned());
        }
    }
    Ok(())
}

/// Returns whether training changes a tensor of a model with adapters.
pub(super) fn is_trained_whole(config: &ModelConfig, lora: &LoraSpec, name: &str) -> bool {
    name.starts_with(HEAD_PREFIX)
        || name.starts_with(MODULE_PREFIX)
        || lora.trains_whole([name, &config.0.module_name(name)])
}

/// Adds new adapters to the linear layers that a network took from `params`.
pub(super) fn add(
    config: &ModelConfig,
    lora: &LoraSpec,
    params: Params,
    seed: u64,
) -> Result<Params> {
    let layers = params.linears();
    let layers = layers.iter().filter_map(|name| name.strip_suffix(WEIGHT));
    let layers = layers.map(|layer| [layer.to_owned(), config.0.module_name(layer)]);
    let chosen = lora.choose(&layers.collect::<Vec<_>>())?;
    let mut factors = Vec::with_capacity(2 * chosen.len());
    for (number, layer) in chosen.iter().enumerate() {
        let weight = params.find(&format!("{layer}{WEIGHT}"));
        let shape = weight.map_or(&[][..], |weight| weight.tensor().dims());
        // A separate seed per layer.
        let seed = seed.wrapping_add((number as u64 + 1) << 32);
        factors.extend(lora.factors(layer, shape, seed));
    }
    let form = AdapterForm {
        scale: lora.scale(),
        dropped: lora.lora_dropout as f32,
    };
    params.with_adapters(factors, form)
}

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

/// Returns whether a parameter is a factor of an adapter.
pub(crate) fn is_adapter(name: &str) -> bool {
    name.ends_with(ADAPTER_A) || name.ends_with(ADAPTER_B)
}
