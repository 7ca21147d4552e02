//! Compares the embeddings and gradients of models with adapters with PEFT's, which
//! `fixtures/make_lora.py` wrote. `load` tests adapters in files, `training` runs that
//! train adapters.

mod load;
mod training;

use std::collections::BTreeSet;

use candle_core::Tensor;
use finetuner_engine::{
    Kernels, Pooler,
    lora::{LoraSpec, Targets},
    models::{Input, Model, ModelSetup},
    tokenizer::TokenBatch,
};
use serde_json::Value;

use crate::support::{
    self, Tensors, embeddings_agree, flat, gradients_agree, pixels, tensor, tensors,
};

const BOTH: [Kernels; 2] = [Kernels::Fused, Kernels::Composite];
const PREFIX: &str = "base_model.model.";

/// Returns the settings in an `adapter_config.json`.
fn spec(config: &Value) -> LoraSpec {
    let names = |list: &Value| -> Vec<String> {
        let list = list.as_array().map(Vec::as_slice).unwrap_or_default();
        let names = list.iter().map(|name| name.as_str().unwrap().to_owned());
        names.collect()
    };
    LoraSpec {
        r: config["r"].as_u64().unwrap() as usize,
        lora_alpha: config["lora_alpha"].as_f64().unwrap(),
        target_modules: Targets::Named(names(&config["target_modules"])),
        modules_to_save: names(&config["modules_to_save"]),
        use_rslora: config["use_rslora"].as_bool().unwrap(),
        ..LoraSpec::default()
    }
}

/// Converts a name of transformers 5 to that in checkpoints of a ViT.
fn vit_name(name: &str) -> String {
    [
        ("layers.", "encoder.layer."),
        ("attention.q_proj", "attention.attention.query"),
        ("attention.k_proj", "attention.attention.key"),
        ("attention.v_proj", "attention.attention.value"),
        ("attention.o_proj", "attention.output.dense"),
        ("mlp.fc1", "intermediate.dense"),
        ("mlp.fc2", "output.dense"),
    ]
    .iter()
    .fold(name.to_owned(), |name, (theirs, own)| {
        name.replace(theirs, own)
    })
}

/// Returns the base model of a fixture: `config.json` and weights.
fn base(name: &str) -> (Value, Tensors) {
    match name {
        "clip" => (
            support::json("tiny-clip/config.json"),
            tensors("tiny-clip/model.safetensors"),
        ),
        name => (
            support::json(&format!("backbones/{name}.json")),
            tensors(&format!("backbones/{name}.safetensors")),
        ),
    }
}

/// Returns a model in training with the adapters of a fixture, and PEFT's
/// results.
fn adapted(name: &str, pooler: Option<Pooler>, kernels: Kernels) -> (Model, Tensors) {
    let rename = |theirs: &str| match name {
        "vit" => vit_name(theirs),
        _ => theirs.to_owned(),
    };
    let setup = ModelSetup {
        pooler,
        lora: Some(spec(&support::json(&format!(
            "lora/{name}/adapter_config.json"
        )))),
        ..ModelSetup::default()
    };
    let (config, weights) = base(name);
    let mut model = support::model(&config, weights, setup);
    model.set_kernels(kernels);
    let saved = tensors(&format!("lora/{name}/adapter_model.safetensors"));
    let saved = saved.into_iter().map(|(key, tensor)| {
        let theirs = key.strip_prefix(PREFIX).unwrap();
        (rename(theirs), tensor)
    });
    let saved: Tensors = saved.collect();
    let trained = model.params().iter().filter(|param| param.is_trainable());
    let trained: BTreeSet<&str> = trained.map(|param| param.name()).collect();
    let given: BTreeSet<&str> = saved.keys().map(String::as_str).collect();
    assert_eq!(trained, given, "{name}: other parameters are trained");
    for param in model.params().iter().filter(|param| param.is_trainable()) {
        let (shape, values) = &saved[param.name()];
        assert_eq!(param.tensor().dims(), shape, "{}", param.name());
        param.update(|own| own.copy_from_slice(values)).unwrap();
    }
    let values = tensors(&format!("lora/{name}/values.safetensors"));
    let values = values.into_iter().map(|(key, tensor)| {
        let key = match key.strip_prefix("grad.") {
            Some(theirs) => format!("grad.{}", rename(theirs)),
            None => key,
        };
        (key, tensor)
    });
    (model, values.collect())
}

/// Returns the texts of a backbone's fixture, without their padding.
fn unpadded(name: &str) -> Input {
    let values = tensors(&format!("backbones/{name}-values.safetensors"));
    let (shape, ids) = &values["input_ids"];
    let lengths: Vec<usize> = values["lengths"].1.iter().map(|n| *n as usize).collect();
    let rows = ids.chunks(shape[1]).zip(&lengths);
    let ids = rows.flat_map(|(row, length)| row[..*length].iter().map(|id| *id as u32));
    Input::Texts(TokenBatch::new(ids.collect(), lengths))
}

fn times(embeddings: &Tensor, weights: &Tensors, name: &str) -> Tensor {
    let product = embeddings * tensor(&weights[name]);
    product.unwrap().sum_all().unwrap()
}

#[test]
fn text_models_with_adapters_embed_and_learn_like_in_peft() {
    for name in ["bert", "xlm-roberta", "mpnet", "modernbert"] {
        for kernels in BOTH {
            let (model, values) = adapted(name, Some(Pooler::Mean), kernels);
            let input = unpadded(name);
            let case = format!("{name} {kernels:?}");
            for pass in [model.inference(), model.training()] {
                let found = model.encode(&pass, &input).unwrap();
                embeddings_agree(&case, &found, &values["mean"].1);
            }
            let found = model.encode(&model.training(), &input).unwrap();
            gradients_agree(&case, &model, &times(&found, &values, "cotangent"), &values);
        }
    }
}

#[test]
fn image_models_with_adapters_embed_and_learn_like_in_peft() {
    for kernels in BOTH {
        let (model, values) = adapted("vit", Some(Pooler::Cls), kernels);
        let input = pixels(&tensors("backbones/vit-values.safetensors"));
        let case = format!("vit {kernels:?}");
        let found = model.encode(&model.inference(), &input).unwrap();
        embeddings_agree(&case, &found, &values["cls"].1);
        let found = model.encode(&model.training(), &input).unwrap();
        gradients_agree(&case, &model, &times(&found, &values, "cotangent"), &values);
    }
}

#[test]
fn both_towers_of_a_clip_with_adapters_embed_and_learn_like_in_peft() {
    let inputs = tensors("clip-quick-gelu.safetensors");
    let (texts, images) = (support::texts(&inputs), pixels(&inputs));
    for kernels in BOTH {
        let (model, values) = adapted("clip", None, kernels);
        let case = format!("clip {kernels:?}");
        for (name, input) in [("text", &texts), ("image", &images)] {
            let found = model.encode(&model.inference(), input).unwrap();
            embeddings_agree(&format!("{case} {name}"), &found, &values[name].1);
        }
        let pass = model.training();
        let text = model.encode(&pass, &texts).unwrap();
        let image = model.encode(&pass, &images).unwrap();
        let loss =
            times(&text, &values, "text_cotangent") + times(&image, &values, "image_cotangent");
        gradients_agree(&case, &model, &loss.unwrap(), &values);
    }
}

#[test]
fn a_new_adapter_changes_nothing_before_it_is_trained() {
    let (config, weights) = base("bert");
    let lora = LoraSpec {
        target_modules: Targets::AllLinear,
        ..LoraSpec::default()
    };
    let plain = support::model(&config, weights.clone(), ModelSetup::default());
    let setup = ModelSetup {
        lora: Some(lora),
        ..ModelSetup::default()
    };
    let model = support::model(&config, weights, setup);
    let input = unpadded("bert");
    let embed = |model: &Model| flat(&model.encode(&model.training(), &input).unwrap());
    assert_eq!(embed(&plain), embed(&model));
    // Only the adapters have memory for a gradient.
    for param in model.params().iter() {
        assert_eq!(
            param.is_trainable(),
            param.name().contains(".lora_"),
            "{}",
            param.name()
        );
    }
    assert!(model.params().trained_count() < model.params().count() / 2);
}
