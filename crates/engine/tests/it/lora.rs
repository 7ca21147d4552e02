//! Compares adapters with PEFT, by `fixtures/make_lora.py`: embeddings,
//! gradients and files; and runs trainings of adapters.

use std::{collections::BTreeSet, path::Path};

use candle_core::Tensor;
use finetuner_engine::{
    Kernels, Pooler,
    infer::{CrossEncoder, Encoder},
    lora::{LoraSpec, Targets},
    models::{Input, Model, ModelSetup},
    params::{FloatFormat, write_safetensors},
    source::{LoadOptions, ModelSource},
    tokenizer::TokenBatch,
};
use finetuner_protocol::Document;
use serde_json::{Value, json};

use crate::{
    runs::{Data, Run, config, run, texts},
    support::{
        self, Tensors, embeddings_agree, fixture, flat, gradients_agree, pixels, relative_error,
        tensor, tensors,
    },
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
