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

/// Fields with numbers of layers.
const LAYERS: [&str; 6] = [
    "num_hidden_layers",
    "num_layers",
    "n_layers",
    "n_layer",
    "depths",
    "num_block_repeats",
];
/// Largest number of layers.
const MOST_LAYERS: u64 = 10_000;

/// Refuses absurd numbers of layers: types and tensors of all layers are listed
/// before any weight is read.
fn check_layers(json: &Value) -> Result<()> {
    let towers = ["text_config", "vision_config"];
    let towers = towers.iter().flat_map(|tower| {
        let old = format!("{tower}_dict");
        [json.get(*tower), json.get(old)]
    });
    for part in std::iter::once(json).chain(towers.flatten()) {
        for field in LAYERS {
            let given = part.get(field).unwrap_or(&Value::Null);
            let counts = match given {
                Value::Array(counts) => counts.as_slice(),
                one => std::slice::from_ref(one),
            };
            let mut counts = counts.iter().filter_map(Value::as_u64);
            if let Some(count) = counts.find(|count| *count > MOST_LAYERS) {
                return Err(Error::config_json(format!(
                    "`{field}`: {count} layers; networks of at most {MOST_LAYERS} are supported"
                )));
            }
        }
    }
    Ok(())
}

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
    check_layers(json)?;
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn absurd_numbers_of_layers_are_refused() {
        let many = 1_u64 << 60;
        for config in [
            json!({"model_type": "qwen3", "num_hidden_layers": many}),
            json!({"model_type": "modernbert", "n_layer": many}),
            json!({"model_type": "resnet", "depths": [3, many]}),
            json!({"model_type": "clip", "text_config": {"num_hidden_layers": many}}),
            json!({"model_type": "clip", "vision_config_dict": {"num_hidden_layers": many}}),
        ] {
            let error = parse(&config).unwrap_err().to_string();
            assert!(error.contains("1152921504606846976 layers"), "{error}");
        }
        parse(&json!({"model_type": "bert", "num_hidden_layers": 48})).unwrap();
    }
}
