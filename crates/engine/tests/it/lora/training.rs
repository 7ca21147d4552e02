//! Runs that train adapters, and the adapters in their artifacts.

use std::path::Path;

use finetuner_engine::infer::{CrossEncoder, Encoder};
use finetuner_protocol::Document;
use serde_json::{Value, json};

use super::PREFIX;
use crate::{
    runs::{Data, Run, config, run, texts},
    support::{Tensors, fixture, relative_error},
};

/// Trains adapters on the small network of the sentence fixtures.
fn trained(lora: Value, options: Value, callbacks: Value) -> Result<Run, finetuner_engine::Error> {
    let data = Data::from([("train", texts())]);
    let mut model = json!({"name": fixture("sentence/pooling-mean").to_str().unwrap(),
        "options": {"lora": lora}, "to_onnx": true});
    for (name, value) in options.as_object().unwrap() {
        model[name] = value.clone();
    }
    let folder = crate::sentence::folder("pooling-mean");
    model["name"] = folder.path().to_str().unwrap().into();
    let hyper = json!({"loss": "TripletMarginLoss", "epochs": 2, "batch_size": 6,
        "learning_rate": 1e-2});
    run(config(model, hyper, callbacks), &data)
}

/// Loads only the adapter of a run, on the model of a folder.
fn saved_adapter(run: &Run, base: &Path) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let file = std::fs::File::open(&run.finished.artifact).unwrap();
    let mut zip = zip::ZipArchive::new(file).unwrap();
    for name in ["adapter_config.json", "adapter_model.safetensors"] {
        let mut entry = zip.by_name(&format!("r/adapter/{name}")).unwrap();
        let mut to = std::fs::File::create(folder.path().join(name)).unwrap();
        std::io::copy(&mut entry, &mut to).unwrap();
    }
    let file = folder.path().join("adapter_config.json");
    let mut adapter: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    adapter["base_model_name_or_path"] = base.to_str().unwrap().into();
    std::fs::write(&file, adapter.to_string()).unwrap();
    folder
}

#[test]
fn a_run_saves_its_adapter_and_the_merged_model() {
    let run = trained(
        json!({"r": 4, "target_modules": "all-linear"}),
        json!({}),
        json!([]),
    );
    let run = run.unwrap();
    assert!(run.logged("LoRA: adapters of rank 4 in"), "{:?}", run.log());
    let merged = run.encoder();
    let texts = ["how do I sew on a button", "what do cats eat"];
    let embedded = merged.encode_texts(&texts).unwrap();
    let plain = crate::sentence::folder("pooling-mean");
    let before = Encoder::from_folder(plain.path()).unwrap();
    let change = relative_error(
        &embedded.values,
        &before.encode_texts(&texts).unwrap().values,
    );
    assert!(change > 1e-3, "nothing was learned: {change}");

    // Only the adapter, on the run's base model.
    let folder = saved_adapter(&run, plain.path());
    let file = folder.path().join("adapter_config.json");
    let adapter: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    assert_eq!(adapter["peft_type"], "LORA");
    assert_eq!(adapter["r"], 4);
    // Each linear layer of both blocks.
    assert_eq!(adapter["target_modules"].as_array().unwrap().len() % 6, 0);
    let again = Encoder::from_folder(folder.path()).unwrap();
    let again = again.encode_texts(&texts).unwrap();
    let error = relative_error(&again.values, &embedded.values);
    assert!(error < 1e-6, "{error}");
}

#[test]
fn the_adapter_of_a_cross_encoder_has_the_names_of_its_class_and_keeps_its_head() {
    let base = fixture("cross-encoders/bert");
    let pair = |i: usize| {
        let pair = Document::new().with_chunk(Document::text("a hat"));
        let pair = pair.with_chunk(Document::text(["a red hat", "the lake"][i % 2]));
        pair.with_tag("finetuner_score", (i % 2) as f64)
    };
    let data = Data::from([("train", (0..6).map(pair).collect())]);
    let hyper = json!({"loss": "BinaryCrossEntropyLoss", "epochs": 2, "batch_size": 3,
        "learning_rate": 1e-2});
    let model = json!({"name": base, "options": {"lora": {"target_modules": "all-linear"}}});
    let run = run(config(model, hyper, json!([])), &data).unwrap();
    let adapter = saved_adapter(&run, &base);
    let names = tensors_of(&adapter.path().join("adapter_model.safetensors"));
    let known = ["bert.encoder.layer.", "bert.pooler.dense.", "classifier."];
    for part in known {
        let begins = format!("{PREFIX}{part}");
        assert!(names.keys().any(|name| name.starts_with(&begins)), "{part}");
    }
    let is_known = |name: &String| {
        let name = name.strip_prefix(PREFIX).unwrap();
        known.iter().any(|part| name.starts_with(part))
    };
    assert!(names.keys().all(is_known), "{:?}", names.keys());
    let scores = |folder: &Path| {
        let model = CrossEncoder::from_folder(folder).unwrap();
        model.predict(&[["a hat", "a red hat"], ["a hat", "the lake"]])
    };
    let merged = scores(run.opened().path()).unwrap().values;
    let again = scores(adapter.path()).unwrap().values;
    assert!(
        relative_error(&again, &merged) < 1e-5,
        "{again:?} {merged:?}"
    );
}

#[test]
fn weights_are_averaged_after_merging() {
    let all = json!({"target_modules": "all-linear"});
    let embed = |alpha: f64| {
        let callback = json!([{"name": "WiSEFTCallback", "options": {"alpha": alpha}}]);
        let run = trained(all.clone(), json!({}), callback).unwrap();
        let folder = run.opened();
        tensors_of(&folder.path().join("model.safetensors"))
    };
    let (before, half, after) = (embed(0.0), embed(0.5), embed(1.0));
    let mut moved = 0;
    for (name, (_, half)) in &half {
        let mean = before[name]
            .1
            .iter()
            .zip(&after[name].1)
            .map(|(a, b)| (a + b) / 2.0);
        let mean: Vec<f32> = mean.collect();
        assert!(relative_error(half, &mean) < 1e-5, "{name}");
        moved += usize::from(before[name].1 != after[name].1);
    }
    assert!(moved > 0);
}

fn tensors_of(path: &Path) -> Tensors {
    finetuner_engine::params::parse_safetensors(&std::fs::read(path).unwrap(), "weights").unwrap()
}

#[test]
fn impossible_adapter_settings_are_refused_by_name() {
    for (lora, options, part) in [
        (
            json!({"target_modules": ["q_proj"]}),
            json!({}),
            "names `q_proj`, but no linear layer",
        ),
        (
            json!({"modules_to_save": ["head"]}),
            json!({}),
            "names `head`: the model has no such",
        ),
        (json!({"rank": 2}), json!({}), "`rank` is 2"),
        (
            json!({}),
            json!({"freeze": true}),
            "`freeze` keeps the network unchanged",
        ),
        (json!(8), json!({}), "`lora` is 8: give an object"),
    ] {
        let error = trained(lora, options, json!([]))
            .map(|_| ())
            .unwrap_err()
            .to_string();
        assert!(
            error.contains(part) && error.contains("model_options"),
            "{error}"
        );
    }
}
