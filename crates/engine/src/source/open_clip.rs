//! Converts checkpoints of open_clip to CLIPs of `transformers`.
//!
//! `open_clip_config.json` describes the same two towers in other terms, and
//! tensors have other names. They are renamed on reading, and models are saved
//! in the layout of `transformers`. A model whose text tower is a network of
//! `transformers` becomes a two-tower model.

mod part;
mod text_network;

use std::collections::HashMap;

use serde_json::{Map, Value, json};

use crate::{Error, Result, models::TWO_TOWERS, params::RawTensor};
use part::{Part, invalid_config};
use text_network::TextNetwork;

/// File with a checkpoint's sizes and preprocessing.
pub(super) const CONFIG_FILE: &str = part::CONFIG_FILE;

/// Weight files of a checkpoint, in the order in which open_clip tries them.
pub(super) const WEIGHT_FILES: [&str; 3] = [
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
];

/// A checkpoint's description, converted to that of `transformers`.
#[derive(Debug)]
pub(super) struct Described {
    /// A `config.json`.
    pub(super) config: Value,
    pub(super) companions: Companions,
}

/// The parts of a checkpoint's description other than the sizes.
#[derive(Debug)]
pub(super) struct Companions {
    /// A `preprocessor_config.json`.
    pub(super) preprocessor: Value,
    /// The longest text in tokens, if it is shorter than the network allows.
    pub(super) max_tokens: Option<usize>,
}

/// Converts an `open_clip_config.json`; `read` reads another file of the model.
///
/// # Errors
/// [`Error::Checkpoint`] names the field that describes another network than
/// two plain transformers.
pub(super) fn describe(
    json: &Value,
    read: &dyn Fn(&str) -> Result<Option<Value>>,
) -> Result<Described> {
    let model = json
        .get("model_cfg")
        .ok_or_else(|| invalid_config("it has no `model_cfg`"))?;
    // These parts describe networks other than two towers.
    for part in [
        "multimodal_cfg",
        "audio_cfg",
        "genlip_cfg",
        "genlap_cfg",
        "init_logit_bias",
    ] {
        if model.get(part).is_some_and(|value| !value.is_null()) {
            return Err(invalid_config(format!(
                "`model_cfg.{part}` is set, which is not supported"
            )));
        }
    }
    let (vision, text) = (Part::of(model, "vision_cfg")?, Part::of(model, "text_cfg")?);
    vision.refuse_others(
        &[
            "layers",
            "width",
            "head_width",
            "mlp_ratio",
            "patch_size",
            "image_size",
        ],
        &[
            ("pos_embed_type", json!("learnable")),
            ("pool_type", json!("tok")),
            ("attn_pooler_queries", json!(256)),
            ("attn_pooler_heads", json!(8)),
            ("timm_pool", json!("avg")),
            ("timm_proj", json!("linear")),
            ("block_type", json!("default")),
            // These fields affect only training in open_clip.
            ("output_tokens", json!(true)),
        ],
    )?;
    let embedding = match model.get("embed_dim").and_then(Value::as_u64) {
        Some(embedding) => embedding,
        None => return Err(invalid_config("it has no `model_cfg.embed_dim`")),
    };
    let network = TextNetwork::of(&text, embedding, read)?;
    let activation = match model.get("quick_gelu").and_then(Value::as_bool) {
        Some(true) => "quick_gelu",
        _ => "gelu",
    };
    let tower = |part: &Part<'_>, width: u64, heads: u64| -> Result<Value> {
        Ok(json!({
            "hidden_size": width,
            "intermediate_size": (width as f64 * part.number("mlp_ratio", 4.0)) as u64,
            "num_hidden_layers": part.count("layers", 12)?,
            "num_attention_heads": heads,
            "hidden_act": activation,
            "layer_norm_eps": 1e-5,
            "projection_dim": embedding,
        }))
    };
    let (width, size) = (
        vision.count("width", 768)?,
        vision.count("image_size", 224)?,
    );
    let mut vision_config = tower(&vision, width, width / vision.count("head_width", 64)?)?;
    vision_config["image_size"] = size.into();
    vision_config["patch_size"] = vision.count("patch_size", 16)?.into();
    vision_config["model_type"] = "clip_vision_model".into();
    let preprocessor = preprocessor(json.get("preprocess_cfg"), size)?;
    if let Some(network) = network {
        let mut config = json!({
            "model_type": TWO_TOWERS,
            "projection_dim": embedding,
            "text_pooler": network.pooler,
            "vision_pooler": "cls",
            "text_config": network.config,
            "vision_config": vision_config,
        });
        if let Some(hidden) = network.hidden {
            config["text_projection_hidden"] = hidden.into();
        }
        return Ok(Described {
            config,
            companions: Companions {
                preprocessor,
                max_tokens: Some(network.longest as usize),
            },
        });
    }
    refuse_other_text(&text)?;
    let mut text_config = tower(&text, text.count("width", 512)?, text.count("heads", 8)?)?;
    let tokens = text.count("vocab_size", 49_408)?;
    text_config["vocab_size"] = tokens.into();
    text_config["max_position_embeddings"] = text.count("context_length", 77)?.into();
    text_config["model_type"] = "clip_text_model".into();
    // A text's embedding is taken from its highest token id, the end token.
    text_config["eos_token_id"] = (tokens - 1).into();
    text_config["bos_token_id"] = tokens.saturating_sub(2).into();
    Ok(Described {
        config: json!({
            "architectures": ["CLIPModel"],
            "model_type": "clip",
            "projection_dim": embedding,
            "text_config": text_config,
            "vision_config": vision_config,
            "dtype": "float32",
        }),
        companions: Companions {
            preprocessor,
            max_tokens: None,
        },
    })
}

/// Refuses a text tower of open_clip's own with other parts than CLIP's.
fn refuse_other_text(text: &Part<'_>) -> Result<()> {
    text.refuse_others(
        &[
            "context_length",
            "vocab_size",
            "width",
            "heads",
            "layers",
            "mlp_ratio",
        ],
        &[
            ("text_arch", json!("clip")),
            ("pool_type", json!("argmax")),
            ("proj_type", json!("linear")),
            ("hf_model_pretrained", json!(true)),
            ("hf_proj_type", json!("mlp")),
            ("hf_pooler_type", json!("mean_pooler")),
            ("hf_tokenizer_name", json!("")),
            ("tokenizer_type", json!("")),
            ("tiktoken_name", json!("cl100k_base")),
            ("block_type", json!("default")),
        ],
    )
}

/// Converts `preprocess_cfg` to a `preprocessor_config.json`.
fn preprocessor(json: Option<&Value>, model: u64) -> Result<Value> {
    let none = Map::new();
    let fields = json.and_then(Value::as_object).unwrap_or(&none);
    let field = |name: &str| fields.get(name).filter(|value| !value.is_null());
    let wrong = |name: &str| invalid_config(format!("`preprocess_cfg.{name}` is {}", fields[name]));
    let word = |name: &str, default: &str| match field(name) {
        None => Ok(default.to_owned()),
        Some(value) => value.as_str().map(str::to_owned).ok_or_else(|| wrong(name)),
    };
    if word("mode", "RGB")? != "RGB" {
        return Err(wrong("mode"));
    }
    let size = match field("size") {
        None => model,
        Some(Value::Array(sides)) if sides.len() == 2 && sides[0] == sides[1] => {
            sides[0].as_u64().ok_or_else(|| wrong("size"))?
        }
        Some(size) => size.as_u64().ok_or_else(|| wrong("size"))?,
    };
    let square = json!({"height": size, "width": size});
    let mut steps = json!({
        "image_processor_type": "CLIPImageProcessor",
        "crop_size": square,
    });
    match word("resize_mode", "shortest")?.as_str() {
        "shortest" => steps["size"] = json!({"shortest_edge": size}),
        "squash" => {
            steps["size"] = square;
            steps["do_center_crop"] = false.into();
        }
        _ => return Err(wrong("resize_mode")),
    }
    steps["resample"] = match word("interpolation", "bicubic")?.as_str() {
        // The random choice applies only to training.
        "bicubic" | "random" => 3.into(),
        "bilinear" => 2.into(),
        _ => return Err(wrong("interpolation")),
    };
    for (name, to) in [("mean", "image_mean"), ("std", "image_std")] {
        if let Some(values) = field(name) {
            steps[to] = values.clone();
        }
    }
    Ok(steps)
}

/// Renames tensors as in `transformers`; unknown ones keep their names.
pub(super) fn rename(tensors: HashMap<String, RawTensor>) -> Result<HashMap<String, RawTensor>> {
    let mut all = HashMap::with_capacity(tensors.len());
    for (name, tensor) in tensors {
        let name = name.strip_prefix("module.").unwrap_or(&name);
        if let Some(inner) = name.strip_prefix("text.transformer.")
            && !inner.starts_with("resblocks.")
        {
            all.insert(format!("text_model.{inner}"), tensor);
            continue;
        }
        if let Some(inner) = name.strip_prefix("text.proj.") {
            all.insert(format!("text_projection.{inner}"), tensor);
            continue;
        }
        // A separate text tower has the same names after `text.`.
        let plain = name.strip_prefix("text.").unwrap_or(name);
        let (tower, inner) = match name.strip_prefix("visual.") {
            Some(inner) => ("vision_model", inner),
            None => ("text_model", plain),
        };
        if let Some(inner) = inner.strip_prefix("transformer.resblocks.") {
            block(&mut all, &format!("{tower}.encoder.layers."), inner, tensor)?;
            continue;
        }
        let renamed = match (tower, inner) {
            ("vision_model", "class_embedding") => "vision_model.embeddings.class_embedding",
            ("vision_model", "positional_embedding") => {
                "vision_model.embeddings.position_embedding.weight"
            }
            ("vision_model", "conv1.weight") => "vision_model.embeddings.patch_embedding.weight",
            // The name in `transformers` has this typo.
            ("vision_model", "ln_pre.weight") => "vision_model.pre_layrnorm.weight",
            ("vision_model", "ln_pre.bias") => "vision_model.pre_layrnorm.bias",
            ("vision_model", "ln_post.weight") => "vision_model.post_layernorm.weight",
            ("vision_model", "ln_post.bias") => "vision_model.post_layernorm.bias",
            ("text_model", "token_embedding.weight") => {
                "text_model.embeddings.token_embedding.weight"
            }
            ("text_model", "positional_embedding") => {
                "text_model.embeddings.position_embedding.weight"
            }
            ("text_model", "ln_final.weight") => "text_model.final_layer_norm.weight",
            ("text_model", "ln_final.bias") => "text_model.final_layer_norm.bias",
            ("vision_model", "proj") => {
                all.insert("visual_projection.weight".to_owned(), transposed(tensor)?);
                continue;
            }
            ("text_model", "text_projection") => {
                all.insert("text_projection.weight".to_owned(), transposed(tensor)?);
                continue;
            }
            _ => plain,
        };
        all.insert(renamed.to_owned(), tensor);
    }
    Ok(all)
}

/// Adds a tensor of a block; `inner` is the block's number and the tensor's
/// name.
fn block(
    all: &mut HashMap<String, RawTensor>,
    layers: &str,
    inner: &str,
    (shape, values): RawTensor,
) -> Result<()> {
    let (layer, name) = inner.split_once('.').unwrap_or((inner, ""));
    const NAMES: [(&str, &str); 5] = [
        ("ln_1.", "layer_norm1."),
        ("ln_2.", "layer_norm2."),
        ("attn.out_proj.", "self_attn.out_proj."),
        ("mlp.c_fc.", "mlp.fc1."),
        ("mlp.c_proj.", "mlp.fc2."),
    ];
    for (old, new) in NAMES {
        if let Some(part) = name.strip_prefix(old) {
            all.insert(format!("{layers}{layer}.{new}{part}"), (shape, values));
            return Ok(());
        }
    }
    // Queries, keys and values share one matrix.
    if let Some(part) = name.strip_prefix("attn.in_proj_") {
        let third = values.len() / 3;
        let mut shape = shape;
        match shape.first_mut() {
            Some(rows) if *rows % 3 == 0 && third > 0 => *rows /= 3,
            _ => {
                return Err(Error::checkpoint(format!(
                    "`{name}` has the shape {shape:?}, whose rows are not a multiple of 3"
                )));
            }
        }
        for (of, values) in ["q_proj", "k_proj", "v_proj"]
            .iter()
            .zip(values.chunks(third))
        {
            let name = format!("{layers}{layer}.self_attn.{of}.{part}");
            all.insert(name, (shape.clone(), values.to_vec()));
        }
        return Ok(());
    }
    all.insert(format!("{layers}{layer}.{name}"), (shape, values));
    Ok(())
}

fn transposed((shape, values): RawTensor) -> Result<RawTensor> {
    let [rows, columns] = shape[..] else {
        return Err(Error::checkpoint(format!(
            "a projection has the shape {shape:?} instead of two dimensions"
        )));
    };
    let values = (0..rows * columns).map(|i| values[i % rows * columns + i / rows]);
    Ok((vec![columns, rows], values.collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_name_the_field_of_an_unsupported_network() {
        let with = |part: &str, field: &str, value: Value| {
            let mut json = json!({"model_cfg": {
                "embed_dim": 8,
                "vision_cfg": {"width": 64, "layers": 2},
                "text_cfg": {"width": 32, "heads": 4},
            }});
            match part {
                "preprocess_cfg" => json[part] = json!({field: value}),
                part => json["model_cfg"][part][field] = value,
            }
            describe(&json, &|_| Ok(None))
        };
        for (part, field, value) in [
            ("vision_cfg", "timm_model_name", json!("convnext_base")),
            ("vision_cfg", "layers", json!([3, 4, 6, 3])),
            ("vision_cfg", "attentional_pool", json!(true)),
            ("vision_cfg", "pool_type", json!("avg")),
            ("text_cfg", "hf_model_name", json!("camembert-base")),
            ("text_cfg", "hf_model_name", json!("../camembert-base")),
            ("text_cfg", "no_causal_mask", json!(true)),
            ("text_cfg", "some_new_step", json!(true)),
            ("preprocess_cfg", "resize_mode", json!("longest")),
            ("preprocess_cfg", "interpolation", json!("nearest")),
        ] {
            let error = with(part, field, value).unwrap_err().to_string();
            assert!(error.contains(&format!("`{part}.{field}`")), "{error}");
        }
        let good = with("vision_cfg", "timm_model_name", Value::Null).unwrap();
        assert_eq!(good.config["vision_config"]["num_attention_heads"], 1);
        assert_eq!(good.config["text_config"]["intermediate_size"], 128);
        assert_eq!(
            good.companions.preprocessor["size"],
            json!({"shortest_edge": 224})
        );
    }
}
