//! The list of all architectures.

use std::sync::Arc;

use serde_json::Value;

use super::{
    architecture::Architecture, clip, clip_vision, dinov2, efficientnet, gemma3, mlp, modernbert,
    mpnet, nomic_bert, pointnet, qwen3, resnet, siglip, siglip_vision, t5, text, two_towers, vit,
};
use crate::{Error, Result};

/// Parses the `config.json` of one architecture.
type Parse = fn(&Value) -> Result<Arc<dyn Architecture>>;

/// All architectures, by the `model_type` of their `config.json`.
const ARCHITECTURES: &[(&str, Parse)] = &[
    ("bert", text::parse_bert),
    ("camembert", text::parse_roberta),
    ("clip", clip::parse),
    ("clip_vision_model", clip_vision::parse),
    ("dinov2", dinov2::parse),
    ("distilbert", text::parse_distilbert),
    ("efficientnet", efficientnet::parse),
    ("gemma3_text", gemma3::parse),
    ("mlp", mlp::parse),
    ("modernbert", modernbert::parse),
    ("mpnet", mpnet::parse),
    ("nomic_bert", nomic_bert::parse),
    ("pointnet2", pointnet::parse),
    ("qwen3", qwen3::parse),
    ("resnet", resnet::parse),
    ("roberta", text::parse_roberta),
    ("siglip", siglip::parse),
    ("siglip2", siglip::parse_naflex),
    ("siglip_vision_model", siglip_vision::parse),
    ("t5", t5::parse),
    (two_towers::TWO_TOWERS, parse_two_towers),
    (two_towers::DUAL_ENCODER, parse_two_towers),
    ("vit", vit::parse),
    ("xlm-roberta", text::parse_roberta),
];

/// Parses a `config.json` according to its `model_type`.
pub(super) fn parse(json: &Value) -> Result<Arc<dyn Architecture>> {
    let known = || {
        let names: Vec<&str> = ARCHITECTURES.iter().map(|(name, _)| *name).collect();
        names.join(", ")
    };
    let Some(kind) = json.get("model_type").and_then(Value::as_str) else {
        return Err(Error::checkpoint(format!(
            "config.json has no `model_type`: add it; {} are known",
            known()
        )));
    };
    if json
        .get("quantization_config")
        .is_some_and(|how| !how.is_null())
    {
        return Err(Error::checkpoint(
            "config.json has a `quantization_config`: quantized weights are not supported. \
             Use the model that it was made from",
        ));
    }
    match ARCHITECTURES.iter().find(|(name, _)| *name == kind) {
        Some((_, parse)) => parse(json),
        None => Err(Error::checkpoint(format!(
            "config.json describes a model of type `{kind}`; {} are known",
            known()
        ))),
    }
}

fn parse_two_towers(json: &Value) -> Result<Arc<dyn Architecture>> {
    two_towers::parse(json, parse)
}
