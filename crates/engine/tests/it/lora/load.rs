//! Models loaded from a folder with an adapter in PEFT's format.

use std::path::Path;

use finetuner_engine::{
    Pooler,
    infer::Encoder,
    params::{FloatFormat, write_safetensors},
    source::{LoadOptions, ModelSource},
};
use serde_json::{Value, json};

use super::{base, unpadded};
use crate::support::{self, embeddings_agree, fixture, pixels, tensors};

/// Writes a folder with an adapter of a fixture. Its base is in the same
/// folder, or in another one that the adapter names by `path`.
fn adapter_folder(name: &str, root: &Path, path: Option<&str>) {
    let (config, weights) = base(name);
    let base = path.map_or(root.to_owned(), |path| root.join(path));
    std::fs::create_dir_all(&base).unwrap();
    std::fs::write(base.join("config.json"), config.to_string()).unwrap();
    write_safetensors(&base.join("model.safetensors"), &weights, FloatFormat::F32).unwrap();
    let network = fixture("sentence/network");
    for file in ["tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(network.join(file), base.join(file)).unwrap();
    }
    let own = fixture(&format!("lora/{name}"));
    let mut adapter = support::json(&format!("lora/{name}/adapter_config.json"));
    adapter["base_model_name_or_path"] = path.into();
    std::fs::write(root.join("adapter_config.json"), adapter.to_string()).unwrap();
    let weights = "adapter_model.safetensors";
    std::fs::copy(own.join(weights), root.join(weights)).unwrap();
}

#[test]
fn an_adapter_loads_merged_from_its_own_or_a_named_base() {
    for (name, expected, pooler) in [
        ("vit", "cls", Pooler::Cls),
        ("mpnet", "mean", Pooler::Mean),
        ("xlm-roberta", "mean", Pooler::Mean),
    ] {
        for path in [None, Some("./base")] {
            let root = tempfile::tempdir().unwrap();
            adapter_folder(name, root.path(), path);
            if name != "vit" {
                // The fixtures' tokenizer has more words than the models.
                let folder = path.map_or(root.path().to_owned(), |path| root.path().join(path));
                small_tokenizer(&folder.join("tokenizer.json"));
            }
            let source = ModelSource::resolve(
                root.path().to_str().unwrap(),
                &finetuner_protocol::worker::LocalModels::Anywhere,
            );
            let options = LoadOptions {
                pooler: Some(pooler),
                ..LoadOptions::default()
            };
            let files = source.unwrap().read().unwrap();
            let loaded = files.load(&options, &candle_core::Device::Cpu).unwrap();
            let (model, notes) = (loaded.model, loaded.notes);
            assert!(
                notes.iter().any(|note| note.contains("merged")),
                "{notes:?}"
            );
            let input = match name {
                "vit" => pixels(&tensors("backbones/vit-values.safetensors")),
                name => unpadded(name),
            };
            let found = model.encode(&model.inference(), &input).unwrap();
            let values = tensors(&format!("lora/{name}/values.safetensors"));
            embeddings_agree(&format!("{name} {path:?}"), &found, &values[expected].1);
        }
    }
}

/// Writes a tokenizer of a few words.
fn small_tokenizer(path: &Path) {
    let words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a"];
    let vocabulary: serde_json::Map<String, Value> = words
        .iter()
        .enumerate()
        .map(|(id, word)| ((*word).to_owned(), id.into()))
        .collect();
    let json = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
        "normalizer": null, "pre_tokenizer": {"type": "Whitespace"}, "post_processor": null,
        "decoder": null,
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "[UNK]"},
    });
    std::fs::write(path, json.to_string()).unwrap();
}

#[test]
fn an_unsupported_adapter_is_refused_by_its_setting() {
    for (field, value, part) in [
        ("peft_type", json!("IA3"), "`peft_type` is `IA3`"),
        ("use_dora", json!(true), "`use_dora` is true"),
        ("lora_alpha", json!("x"), "`lora_alpha` is \"x\""),
        (
            "alpha_pattern",
            json!({"layer.[0-4]": 1}),
            "`alpha_pattern` has `layer.[0-4]`",
        ),
    ] {
        let root = tempfile::tempdir().unwrap();
        adapter_folder("vit", root.path(), None);
        let file = root.path().join("adapter_config.json");
        let mut adapter: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
        adapter[field] = value;
        std::fs::write(&file, adapter.to_string()).unwrap();
        let error = Encoder::from_folder(root.path())
            .map(drop)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains(part) && error.contains("adapter_config.json"),
            "{error}"
        );
    }
    // Without a base.
    let root = tempfile::tempdir().unwrap();
    adapter_folder("vit", root.path(), None);
    std::fs::remove_file(root.path().join("config.json")).unwrap();
    let error = Encoder::from_folder(root.path())
        .map(drop)
        .unwrap_err()
        .to_string();
    assert!(error.contains("`base_model_name_or_path`"), "{error}");
    // With tensors of another model.
    let root = tempfile::tempdir().unwrap();
    adapter_folder("vit", root.path(), None);
    let weights = "adapter_model.safetensors";
    std::fs::copy(
        fixture("lora/mpnet").join(weights),
        root.path().join(weights),
    )
    .unwrap();
    let error = Encoder::from_folder(root.path())
        .map(drop)
        .unwrap_err()
        .to_string();
    assert!(error.contains("the model has no layer for"), "{error}");
}

#[test]
fn an_adapters_base_must_be_in_an_allowed_folder() {
    let root = tempfile::tempdir().unwrap();
    let (allowed, secret) = (root.path().join("allowed"), root.path().join("secret"));
    adapter_folder("vit", &allowed, None);
    std::fs::create_dir(&secret).unwrap();
    std::fs::rename(allowed.join("config.json"), secret.join("config.json")).unwrap();
    let file = allowed.join("adapter_config.json");
    for path in [secret.to_str().unwrap(), "../secret"] {
        let mut adapter: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
        adapter["base_model_name_or_path"] = path.into();
        std::fs::write(&file, adapter.to_string()).unwrap();
        let local = finetuner_protocol::worker::LocalModels::In(vec![allowed.clone()]);
        let error = ModelSource::resolve(allowed.to_str().unwrap(), &local);
        let error = error.unwrap_err().to_string();
        assert!(error.contains("only from folders in"), "{error}");
    }
}
