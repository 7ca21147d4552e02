//! Rotary embeddings in a `config.json`, in the newer and the older form, and
//! layer types with their own rotary embeddings.

use serde::Deserialize;
use serde_json::Value;

use super::encoder::bad_config;
use crate::Result;

/// The tokens that a layer attends to: all, or a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub(super) enum LayerType {
    #[serde(rename = "full_attention")]
    Global,
    #[serde(rename = "sliding_attention")]
    Local,
}

/// The field `rope_parameters` for one layer type.
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct Rope {
    rope_theta: Option<f32>,
    rope_type: Option<String>,
}

/// The field `rope_parameters` for both layer types.
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct Ropes {
    full_attention: Option<Rope>,
    sliding_attention: Option<Rope>,
}

impl Rope {
    /// Returns the base frequency, or `default` if the field is missing.
    pub(super) fn theta(&self, default: f32) -> Result<f32> {
        if let Some(kind) = self.rope_type.as_deref().filter(|kind| *kind != "default") {
            return Err(bad_config(format!(
                "`rope_type` is `{kind}`; only `default` is supported"
            )));
        }
        let theta = self.rope_theta.unwrap_or(default);
        if theta > 0.0 {
            return Ok(theta);
        }
        Err(bad_config(format!(
            "`rope_theta` is {theta}; it must be above 0"
        )))
    }
}

impl Ropes {
    /// Returns the base frequencies of global and local layers.
    pub(super) fn thetas(&self, global: f32, local: f32) -> Result<[f32; 2]> {
        let of = |rope: &Option<Rope>, default| rope.clone().unwrap_or_default().theta(default);
        Ok([
            of(&self.full_attention, global)?,
            of(&self.sliding_attention, local)?,
        ])
    }
}

/// Refuses scaled rotary embeddings in the form of older versions.
pub(super) fn check_scaling(scaling: Option<&Value>) -> Result<()> {
    match scaling.filter(|scaling| !scaling.is_null()) {
        Some(scaling) => Err(bad_config(format!(
            "`rope_scaling` is {scaling}; only models without it are supported"
        ))),
        None => Ok(()),
    }
}

/// Refuses head sizes that rotary embeddings can't rotate: they rotate pairs.
pub(super) fn check_head(head: usize) -> Result<()> {
    if head == 0 || !head.is_multiple_of(2) {
        return Err(bad_config(format!(
            "attention heads have {head} elements; rotary embeddings need an even number"
        )));
    }
    Ok(())
}

/// Returns the type of each layer: from the list, or by `usual` if there is
/// none.
pub(super) fn layer_types(
    listed: Option<&[LayerType]>,
    layers: usize,
    usual: impl Fn(usize) -> LayerType,
) -> Result<Vec<LayerType>> {
    match listed {
        Some(types) if types.len() != layers => Err(bad_config(format!(
            "`layer_types` has {} layers, but `num_hidden_layers` is {layers}",
            types.len()
        ))),
        Some(types) => Ok(types.to_vec()),
        None => Ok((0..layers).map(usual).collect()),
    }
}
