//! Adds low-rank adapters to a model, and decides which tensors stay trainable
//! besides them.

use super::{config::ModelConfig, head::PREFIX as HEAD_PREFIX};
use crate::{
    Result,
    lora::LoraSpec,
    modules::PREFIX as MODULE_PREFIX,
    ops::{ADAPTER_A, ADAPTER_B},
    params::{AdapterForm, Params},
};

/// Suffix of a layer's weight.
pub(super) const WEIGHT: &str = ".weight";

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

/// Returns whether a parameter is a factor of an adapter.
pub(crate) fn is_adapter(name: &str) -> bool {
    name.ends_with(ADAPTER_A) || name.ends_with(ADAPTER_B)
}
