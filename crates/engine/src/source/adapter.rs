//! Adapters in PEFT's layout: finding their base model, and merging them into
//! it.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use serde_json::Value;

use super::weights;
use crate::{
    Error, Result,
    lora::scale,
    models::{ModelConfig, PEFT_PREFIX},
    ops::{ADAPTER_A, ADAPTER_B, add_product},
    params::RawTensor,
};

/// The file that describes an adapter.
pub(super) const ADAPTER_FILE: &str = "adapter_config.json";
/// The file with an adapter's weights, in either format.
const WEIGHT_FILES: [&str; 2] = ["adapter_model.safetensors", "adapter_model.bin"];

type Tensors = HashMap<String, RawTensor>;

fn bad(reason: impl std::fmt::Display) -> Error {
    Error::checkpoint(format!("{ADAPTER_FILE}: {reason}"))
}

/// Returns the name of an adapter's base model.
///
/// # Errors
/// [`Error::Model`] if the adapter names none.
pub(super) fn base_name(name: &str, adapter: &Value) -> Result<String> {
    let base = adapter["base_model_name_or_path"].as_str();
    let base = base.filter(|base| !base.is_empty()).ok_or_else(|| {
        let reason = format!(
            "its {ADAPTER_FILE} has no `base_model_name_or_path`: name the adapter's base model, \
             or put that model's files next to it"
        );
        Error::model(name, reason)
    })?;
    let revision = adapter["revision"].as_str();
    let revision = revision.filter(|revision| !revision.is_empty() && !is_path(base));
    Ok(match revision {
        Some(revision) if !base.contains('@') && base.contains('/') => {
            format!("{base}@{revision}")
        }
        _ => base.to_owned(),
    })
}

/// Returns whether a model's name is a path.
pub(super) fn is_path(name: &str) -> bool {
    Path::new(name).is_absolute() || name.starts_with("./") || name.starts_with("../")
}

/// Reads the tensors of an adapter.
pub(super) fn read(name: &str, find: &dyn Fn(&str) -> Result<Option<PathBuf>>) -> Result<Tensors> {
    for file in WEIGHT_FILES {
        if let Some(path) = find(file)? {
            return weights::read_file(&path, file);
        }
    }
    let reason = format!("it has {ADAPTER_FILE} but no {}", WEIGHT_FILES.join(" or "));
    Err(Error::model(name, reason))
}

/// Merges an adapter into the weights of its base model.
///
/// # Errors
/// [`Error::Checkpoint`] names the unsupported setting, or the tensor that
/// belongs to no layer of the model.
pub(super) fn merge(
    config: &ModelConfig,
    base: Tensors,
    adapter: &Value,
    mut factors: Tensors,
) -> Result<Tensors> {
    check(adapter)?;
    let mut base = config.canonical(base)?;
    let known = config.module_names();
    let tensor_of = |name: &str| {
        let found = name.strip_prefix(PEFT_PREFIX).unwrap_or(name);
        let found = config.known_name(found, &known)?;
        known.get(&found).cloned()
    };
    let mut names: Vec<String> = factors.keys().cloned().collect();
    names.sort();
    for name in names {
        let Some(layer) = name.strip_suffix(ADAPTER_A) else {
            continue;
        };
        let second = format!("{layer}{ADAPTER_B}");
        let (Some((a_shape, a)), Some((b_shape, b))) =
            (factors.remove(&name), factors.remove(&second))
        else {
            return Err(bad(format!("`{second}` is missing")));
        };
        let weight = tensor_of(&format!("{layer}.weight"));
        let weight = weight.and_then(|weight| base.get_mut(&weight));
        let Some((shape, values)) = weight else {
            return Err(bad(format!("the model has no layer for `{name}`")));
        };
        let fits = match (&a_shape[..], &b_shape[..], &shape[..]) {
            (&[rank, inputs], &[rows, other], &[own_rows, own_inputs]) => {
                rank == other && rank > 0 && inputs == own_inputs && rows == own_rows
            }
            _ => false,
        };
        if !fits {
            return Err(bad(format!(
                "`{name}` {a_shape:?} and `{second}` {b_shape:?} don't fit a layer of {shape:?}"
            )));
        }
        let rank = a_shape[0];
        let alpha = alpha_of(adapter, layer)?;
        let by_root = adapter["use_rslora"].as_bool().unwrap_or(false);
        add_product(values, &a, &b, rank, scale(alpha, rank, by_root));
    }
    // Modules that were trained in full, and biases.
    for (name, (shape, values)) in factors {
        let plain = name
            .replace(".modules_to_save.default", "")
            .replace(".modules_to_save", "")
            .replace(".base_layer", "");
        let own = tensor_of(&plain).and_then(|own| base.get_mut(&own));
        match own {
            Some(own) if own.0 == shape => own.1 = values,
            Some(own) => {
                return Err(bad(format!(
                    "`{name}` has the shape {shape:?}, the model's tensor {:?}",
                    own.0
                )));
            }
            // Parts of the model that embeddings don't need.
            None if ["pooler.", "classifier.", "score."]
                .iter()
                .any(|part| plain.contains(part)) => {}
            None => return Err(bad(format!("the model has no tensor for `{name}`"))),
        }
    }
    Ok(base)
}

/// Refuses unsupported kinds of adapters.
fn check(adapter: &Value) -> Result<()> {
    let kind = adapter["peft_type"].as_str().unwrap_or_default();
    if kind != "LORA" {
        return Err(bad(format!(
            "`peft_type` is `{kind}`; only `LORA` is supported"
        )));
    }
    let off = [
        "use_dora",
        "lora_bias",
        "layer_replication",
        "target_parameters",
        "trainable_token_indices",
        "alora_invocation_tokens",
        "use_qalora",
        "use_bdlora",
        "arrow_config",
        "kasa_config",
        "monteclora_config",
    ];
    for field in off {
        let value = &adapter[field];
        // An empty list of layers or parameters selects none.
        let is_empty =
            field != "alora_invocation_tokens" && value.as_array().is_some_and(Vec::is_empty);
        if !(value.is_null() || value == &Value::Bool(false) || is_empty) {
            return Err(bad(format!(
                "`{field}` is {value}, which is not supported: merge the adapter in Python \
                 (`merge_and_unload` of peft) and save the merged model"
            )));
        }
    }
    // Other initialisations also change the base model's weights, which PEFT
    // repeats when it loads the adapter.
    let init = &adapter["init_lora_weights"];
    let keeps_base = match init.as_str() {
        Some(name) => ["gaussian", "eva", "orthogonal"]
            .iter()
            .any(|known| name.eq_ignore_ascii_case(known)),
        None => init.is_null() || init.is_boolean(),
    };
    if !keeps_base {
        return Err(bad(format!(
            "`init_lora_weights` is {init}, which also changes the weights of the base model: \
             merge the adapter in Python (`merge_and_unload` of peft) and save the merged model"
        )));
    }
    Ok(())
}

/// Returns `lora_alpha` of a layer.
fn alpha_of(adapter: &Value, layer: &str) -> Result<f64> {
    let mut of_layer = &adapter["lora_alpha"];
    if let Some(patterns) = adapter["alpha_pattern"].as_object() {
        for (pattern, alpha) in patterns {
            let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
            if !pattern.chars().all(plain) {
                let reason = format!(
                    "`alpha_pattern` has `{pattern}`; only names of layers are supported, no patterns"
                );
                return Err(bad(reason));
            }
            let before = layer.strip_suffix(pattern.as_str());
            if before.is_some_and(|before| before.is_empty() || before.ends_with('.')) {
                of_layer = alpha;
                break;
            }
        }
    }
    let alpha = of_layer.as_f64().filter(|alpha| alpha.is_finite());
    alpha.ok_or_else(|| bad(format!("`lora_alpha` is {of_layer}; give a number")))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn initialisations_that_change_the_base_model_are_refused() {
        let of = |first: Value| check(&json!({"peft_type": "LORA", "init_lora_weights": first}));
        for known in [json!(null), json!(true), json!("gaussian"), json!("eva")] {
            of(known).unwrap();
        }
        assert!(of(json!("Gaussian")).is_ok());
        for unused in [
            json!({"kasa_config": null}),
            json!({"target_parameters": []}),
        ] {
            let mut adapter = unused;
            adapter["peft_type"] = json!("LORA");
            check(&adapter).unwrap();
        }
        let error = check(&json!({"peft_type": "LORA", "kasa_config": {}}));
        let error = error.unwrap_err().to_string();
        assert!(error.contains("`kasa_config` is {}"), "{error}");
        for other in ["pissa", "pissa_niter_16", "olora", "loftq"] {
            let error = of(json!(other)).unwrap_err().to_string();
            let expected = format!("`init_lora_weights` is \"{other}\"");
            assert!(error.contains(&expected), "{error}");
        }
    }
}
