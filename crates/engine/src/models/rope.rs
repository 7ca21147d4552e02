//! How a `config.json` describes rotary embeddings, in its newer and older
//! forms, and the kinds of layers that have their own.

use serde::Deserialize;
use serde_json::Value;

use super::encoder::bad_config;
use crate::Result;

/// Which places a layer sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub(super) enum LayerType {
    #[serde(rename = "full_attention")]
    Global,
    #[serde(rename = "sliding_attention")]
    Local,
}

/// The field `rope_parameters`, of one kind of layers.
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct Rope {
    rope_theta: Option<f32>,
    rope_type: Option<String>,
}

/// The field `rope_parameters`, of both kinds of layers.
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct Ropes {
    full_attention: Option<Rope>,
    sliding_attention: Option<Rope>,
}

impl Rope {
    /// The base of the angles, or `default` where it isn't given.
    pub(super) fn theta(&self, default: f32) -> Result<f32> {
        if let Some(kind) = self.rope_type.as_deref().filter(|kind| *kind != "default") {
            return Err(bad_config(format!(
                "`rope_type` is `{kind}`; `default` is known"
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
    /// The bases of global and of local layers.
    pub(super) fn thetas(&self, global: f32, local: f32) -> Result<[f32; 2]> {
        let of = |rope: &Option<Rope>, default| rope.clone().unwrap_or_default().theta(default);
        Ok([
            of(&self.full_attention, global)?,
            of(&self.sliding_attention, local)?,
        ])
    }
}

/// Refuses the fields of older versions that scale the angles.
pub(super) fn check_scaling(scaling: Option<&Value>) -> Result<()> {
    match scaling.filter(|scaling| !scaling.is_null()) {
        Some(scaling) => Err(bad_config(format!(
            "`rope_scaling` is {scaling}; only models without it are known"
        ))),
        None => Ok(()),
    }
}

/// Refuses heads that rotary embeddings can't turn, as they turn pairs.
pub(super) fn check_head(head: usize) -> Result<()> {
    if head == 0 || !head.is_multiple_of(2) {
        return Err(bad_config(format!(
            "heads of {head} elements; rotary embeddings turn pairs"
        )));
    }
    Ok(())
}

/// The kind of each layer: as listed, or by `usual`.
pub(super) fn layer_types(
    listed: Option<&[LayerType]>,
    layers: usize,
    usual: impl Fn(usize) -> LayerType,
) -> Result<Vec<LayerType>> {
    match listed {
        Some(types) if types.len() != layers => Err(bad_config(format!(
            "`layer_types` names {} layers, `num_hidden_layers` {layers}",
            types.len()
        ))),
        Some(types) => Ok(types.to_vec()),
        None => Ok((0..layers).map(usual).collect()),
    }
}
