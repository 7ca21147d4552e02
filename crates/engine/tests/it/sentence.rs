//! Compares models of sentence-transformers with that library: all kinds of modules,
//! prompts, limits, gradients, and the folder that a run saves. The expected values come
//! from `fixtures/make_sentence_transformers.py`.

use std::path::Path;

use candle_core::Device;
use finetuner_engine::{
    infer::Encoder,
    prepare::ItemRef,
    source::{LoadOptions, LoadedModel, ModelSource, open_artifact},
};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    runs::{Data, Run, config, run, run_from, texts},
    support::{
        embeddings_agree, fixture, gradients_agree, json as fixture_json, norm, relative_error,
        tensor, tensors,
    },
};

const TEXTS: [&str; 3] = [
    "a long red dress",
    "white running shoe",
    "the blue boat on a lake with a small RED hat",
];

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let to = to.join(entry.file_name());
        match entry.path().is_dir() {
            true => copy(&entry.path(), &to),
            false => {
                std::fs::copy(entry.path(), to).unwrap();
            }
        }
    }
}

/// Copies the folder of a fixture's model.
pub(crate) fn folder(name: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    copy(&fixture("sentence/network"), folder.path());
    copy(&fixture(&format!("sentence/{name}")), folder.path());
    folder
}

fn rows(json: &Value) -> Vec<f32> {
    let rows = json.as_array().unwrap().iter();
    let values = rows.flat_map(|row| row.as_array().unwrap());
    values.map(|x| x.as_f64().unwrap() as f32).collect()
}

fn embedded(encoder: &Encoder) -> Vec<f32> {
    encoder.encode_texts(&TEXTS).unwrap().values
}

fn write(folder: &Path, name: &str, json: &Value) {
    std::fs::write(folder.join(name), json.to_string()).unwrap();
}

fn read(folder: &Path, name: &str) -> Value {
    serde_json::from_slice(&std::fs::read(folder.join(name)).unwrap()).unwrap()
}

/// Returns the error of loading a folder.
fn refused(folder: &Path) -> String {
    match Encoder::from_folder(folder) {
        Ok(_) => panic!("it was opened"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn embeddings_with_every_module_equal_those_of_sentence_transformers() {
    let expected = fixture_json("sentence/expected.json");
    for (name, answer) in expected.as_object().unwrap() {
        let folder = folder(name);
        let encoder = Encoder::from_folder(folder.path()).unwrap();
        let error = relative_error(&embedded(&encoder), &rows(&answer["embeddings"]));
        assert!(error < 1e-5, "{name}: {error}");
        for (prompt, embeddings) in answer["prompts"].as_object().unwrap() {
            let found = embedded(&encoder.prompt(prompt).unwrap());
            let error = relative_error(&found, &rows(embeddings));
            assert!(error < 1e-5, "{name} {prompt}: {error}");
        }
    }
}

#[test]
fn a_prompt_is_chosen_by_name_or_omitted() {
    let folder = folder("prompts");
    let encoder = Encoder::from_folder(folder.path()).unwrap();
    let names: Vec<&str> = encoder.prompts().names().collect();
    for wanted in ["query", "passage"] {
        assert!(names.contains(&wanted), "{names:?}");
    }
    assert_eq!(
        encoder.prompts().default_prompt(),
        Some(("query", "query: "))
    );
    let by_hand: Vec<String> = TEXTS.iter().map(|text| format!("query: {text}")).collect();
    let by_hand: Vec<&str> = by_hand.iter().map(String::as_str).collect();
    let plain = encoder.without_prompt().encode_texts(&by_hand).unwrap();
    assert_eq!(plain.values, embedded(&encoder));
    let error = encoder.prompt("title").map(|_| ()).unwrap_err().to_string();
    assert!(
        error.contains("`title`") && error.contains("`passage`"),
        "{error}"
    );
}

fn load(folder: &Path) -> LoadedModel {
    let files = ModelSource::Folder(folder.to_owned()).read().unwrap();
    files.load(&LoadOptions::default(), &Device::Cpu).unwrap()
}

/// The model has the layout of `distiluse-base-multilingual-cased-v1`; its results come
/// from `fixtures/make_distiluse.py`.
#[test]
fn a_distilbert_with_a_dense_module_embeds_and_learns_like_in_sentence_transformers() {
    let texts = [
        "a long Red dress",
        "white running shoe",
        "das blaue Boot auf dem See",
    ];
    let expected = tensors("distiluse/expected.safetensors");
    let loaded = load(&fixture("distiluse"));
    let items: Vec<ItemRef<'_>> = texts.iter().map(|text| ItemRef::Text(text)).collect();
    let input = loaded
        .preparer
        .prepare(&items, |_| None, &Device::Cpu)
        .unwrap();
    let model = loaded.model;
    let found = model.encode(&model.training(), &input).unwrap();
    embeddings_agree("distiluse", &found, &expected["embeddings"].1);
    let loss = (found * tensor(&expected["cotangent"])).unwrap();
    gradients_agree("distiluse", &model, &loss.sum_all().unwrap(), &expected);
    let backbone = finetuner_protocol::find_backbone("distiluse-base-multi");
    assert!(backbone.is_some_and(|backbone| backbone.trainable));
}

#[test]
fn gradients_of_modules_and_network_equal_those_of_pytorch() {
    let folder = folder("chain");
    let values = tensors("sentence/chain/gradients.safetensors");
    let loaded = load(folder.path());
    let items: Vec<ItemRef<'_>> = TEXTS.iter().map(|text| ItemRef::Text(text)).collect();
    let input = loaded
        .preparer
        .prepare(&items, |_| None, &Device::Cpu)
        .unwrap();
    let model = loaded.model;
    let found = model.encode(&model.training(), &input).unwrap();
    let loss = (found * tensor(&values["cotangent"]))
        .unwrap()
        .sum_all()
        .unwrap();
    model.params().backward(&loss).unwrap();
    let mut compared = 0;
    for param in model.params().iter() {
        let Some((_, expected)) = values.get(param.name()) else {
            assert!(!param.name().starts_with("modules."), "{}", param.name());
            continue;
        };
        let found = param.grad().unwrap();
        let difference = found.iter().zip(expected).map(|(a, b)| a - b);
        let error = norm(difference) / norm(expected.iter().copied());
        assert!(error < 1e-4, "{}: {error}", param.name());
        compared += 1;
    }
    assert_eq!(compared, values.len() - 1);
}

#[test]
fn a_network_in_its_own_folder_is_found() {
    let plain = folder("pooling-mean");
    let moved = tempfile::tempdir().unwrap();
    copy(&fixture("sentence/network"), &moved.path().join("0_BERT"));
    copy(&fixture("sentence/pooling-mean"), moved.path());
    let mut list = read(moved.path(), "modules.json");
    list[0]["path"] = "0_BERT".into();
    write(moved.path(), "modules.json", &list);
    let expected = embedded(&Encoder::from_folder(plain.path()).unwrap());
    for root in [None, Some(json!({"__version__": "0.3.8"}))] {
        if let Some(root) = root {
            write(moved.path(), "config.json", &root);
        }
        let name = moved.path().to_str().unwrap();
        let source = ModelSource::resolve(name, &Default::default());
        assert!(source.is_err(), "folders are not allowed by default");
        let found = Encoder::from_backbone(name).unwrap();
        assert_eq!(embedded(&found), expected);
        assert_eq!(load(moved.path()).model.kind(), found.kind());
    }
}

#[test]
fn a_normalize_without_its_folder_still_normalises() {
    let folder = folder("normalize");
    std::fs::remove_dir_all(folder.path().join("2_Normalize")).unwrap_or_default();
    let found = Encoder::from_folder(folder.path()).unwrap();
    for row in found.encode_texts(&TEXTS).unwrap().iter() {
        assert!((norm(row.iter().copied()) - 1.0).abs() < 1e-6);
    }
}

#[test]
fn texts_are_lowercased_if_the_folder_says_so() {
    let folder = folder("pooling-mean");
    let settings = json!({"tokenizer_class": "BertTokenizer", "do_lower_case": false});
    write(folder.path(), "tokenizer_config.json", &settings);
    let encode = |text: &str| {
        let encoder = Encoder::from_folder(folder.path()).unwrap();
        encoder.encode_texts(&[text]).unwrap().values
    };
    assert_ne!(encode("a RED dress"), encode("a red dress"));
    let sentence = json!({"max_seq_length": 20, "do_lower_case": true});
    write(folder.path(), "sentence_bert_config.json", &sentence);
    assert_eq!(encode("a RED dress"), encode("a red dress"));
}

#[test]
fn more_tokens_than_rows_are_refused_when_the_model_is_loaded() {
    let folder = folder("pooling-mean");
    let mut file = read(folder.path(), "tokenizer.json");
    let rows = read(folder.path(), "config.json")["vocab_size"]
        .as_u64()
        .unwrap();
    let token = json!({
        "id": rows, "content": "zalando", "single_word": true, "lstrip": false,
        "rstrip": false, "normalized": true, "special": false,
    });
    file["added_tokens"].as_array_mut().unwrap().push(token);
    write(folder.path(), "tokenizer.json", &file);
    let error = refused(folder.path());
    for part in [
        format!("{} tokens", rows + 1),
        format!("the model {rows}"),
        "`zalando`".to_owned(),
        "resize_token_embeddings".to_owned(),
    ] {
        assert!(error.contains(&part), "{error}");
    }
}

#[test]
fn unknown_settings_that_change_embeddings_are_refused_by_name() {
    for (file, field, value) in [
        ("config.json", "is_decoder", json!(true)),
        ("config.json", "quantization_config", json!({"bits": 4})),
        ("config.json", "type_vocab_size", json!(0)),
        (
            "config.json",
            "position_embedding_type",
            json!("relative_key"),
        ),
        ("tokenizer_config.json", "padding_side", json!("left")),
        (
            "config_sentence_transformers.json",
            "truncate_dim",
            json!(8),
        ),
    ] {
        let folder = folder("pooling-mean");
        let mut settings = read(folder.path(), file);
        settings[field] = value;
        write(folder.path(), file, &settings);
        let error = refused(folder.path());
        assert!(error.contains(file) && error.contains(field), "{error}");
    }
    let folder = folder("pooling-mean");
    write(folder.path(), "adapter_config.json", &json!({}));
    let error = refused(folder.path());
    assert!(
        error.contains("it has adapter_config.json but no"),
        "{error}"
    );
    std::fs::remove_file(folder.path().join("adapter_config.json")).unwrap();
    let mut tokenizer = read(folder.path(), "tokenizer.json");
    tokenizer["padding"] = json!({
        "strategy": "BatchLongest", "direction": "Left", "pad_to_multiple_of": null,
        "pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]",
    });
    write(folder.path(), "tokenizer.json", &tokenizer);
    let error = refused(folder.path());
    assert!(error.contains("`padding.direction`"), "{error}");
}

#[test]
fn a_pooler_that_does_not_fit_the_modules_is_refused() {
    let folder = folder("chain");
    let files = ModelSource::Folder(folder.path().to_owned())
        .read()
        .unwrap();
    let options = LoadOptions {
        pooler: Some(finetuner_engine::Pooler::Max),
        ..LoadOptions::default()
    };
    let error = files.load(&options, &Device::Cpu).map(|_| ()).unwrap_err();
    let error = error.to_string();
    assert!(
        error.contains("dimension 32") && error.contains("dimension 16"),
        "{error}"
    );
}

/// Trains on a folder for two epochs.
fn trained(folder: &Path, options: Value) -> Run {
    let data = Data::from([("train", texts())]);
    let model = json!({"name": folder.to_str().unwrap(), "options": options["model"],
        "freeze": options["freeze"].as_bool().unwrap_or(false),
        "output_dim": options["output_dim"]});
    let hyper = json!({"loss": "TripletMarginLoss", "epochs": 2, "batch_size": 6,
        "learning_rate": 1e-3});
    run(config(model, hyper, json!([])), &data).unwrap()
}

/// Unpacks the saved folder, once complete and once without this project's own
/// files, as sentence-transformers reads it.
fn opened(run: &Run) -> (TempDir, TempDir) {
    let (ours, theirs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    open_artifact(&run.finished.artifact, ours.path()).unwrap();
    copy(ours.path(), theirs.path());
    for own in ["finetuner.json", "projection_head.safetensors"] {
        std::fs::remove_file(theirs.path().join(own)).unwrap_or_default();
    }
    (ours, theirs)
}

#[test]
fn a_saved_model_contains_all_modules_prompts_and_files() {
    for name in [
        "chain",
        "prompts",
        "prompt-left-out-cls",
        "short",
        "normalize",
    ] {
        let folder = folder(name);
        let run = trained(folder.path(), json!({}));
        let (ours, theirs) = opened(&run);
        let classes = |folder: &Path| -> Vec<String> {
            let list = read(folder, "modules.json");
            let list = list.as_array().unwrap().iter();
            let names = list.map(|entry| entry["type"].as_str().unwrap().rsplit('.').next());
            names.map(|name| name.unwrap().to_owned()).collect()
        };
        assert_eq!(classes(ours.path()), classes(folder.path()), "{name}");
        for file in ["tokenizer.json", "tokenizer_config.json"] {
            let [before, after] = [folder.path(), ours.path()]
                .map(|folder| std::fs::read(folder.join(file)).unwrap());
            assert!(before == after, "{name}: {file} changed");
        }
        let prompts = "config_sentence_transformers.json";
        assert_eq!(read(ours.path(), prompts), read(folder.path(), prompts));
        let [ours, theirs] = [&ours, &theirs].map(|f| Encoder::from_folder(f.path()).unwrap());
        assert_eq!(embedded(&ours), embedded(&theirs), "{name}");
        let default = ours.prompts().default_prompt().is_some();
        assert_eq!(run.logged("default prompt"), default, "{name}");
        let before = embedded(&Encoder::from_folder(folder.path()).unwrap());
        assert_ne!(embedded(&ours), before, "{name}: nothing was learned");
    }
}

#[test]
fn a_head_is_saved_as_dense_modules_before_the_normalize() {
    for (name, pooler) in [("normalize", "cls"), ("chain", ""), ("pooling-max", "mean")] {
        for (freeze, dim) in [(true, None), (false, Some(5)), (true, Some(5))] {
            let folder = folder(name);
            let mut options = json!({"freeze": freeze, "output_dim": dim, "model": {}});
            if !pooler.is_empty() {
                options["model"]["pooler"] = pooler.into();
            }
            let run = trained(folder.path(), options);
            let (folder, theirs) = opened(&run);
            let list = read(theirs.path(), "modules.json");
            let classes: Vec<&str> = list
                .as_array()
                .unwrap()
                .iter()
                .map(|entry| entry["type"].as_str().unwrap().rsplit('.').next().unwrap())
                .collect();
            let ends_normalised = classes.ends_with(&["Dense", "Dense", "Normalize"]);
            assert_eq!(ends_normalised, name != "pooling-max", "{classes:?}");
            let [ours, theirs] =
                [&folder, &theirs].map(|f| Encoder::from_folder(f.path()).unwrap());
            if let Some(dim) = dim {
                assert_eq!(ours.dim(), dim);
            }
            let error = relative_error(&embedded(&theirs), &embedded(&ours));
            assert!(error < 1e-5, "{name} {freeze} {dim:?}: {error}");
            // The head continues training with its own normalisations.
            let again = trained(folder.path(), json!({}));
            let (again, _) = opened(&again);
            assert_eq!(read(again.path(), "modules.json"), list);
        }
    }
}

#[test]
fn a_pooler_that_sentence_transformers_lacks_is_saved_without_module_list() {
    let folder = folder("prompts");
    let run = trained(
        folder.path(),
        json!({"model": {"pooler": "GeM", "collate_options": {"max_length": 7}}}),
    );
    assert!(run.logged("sentence-transformers has no `GeM` pooling"));
    let (ours, _) = opened(&run);
    assert!(!ours.path().join("modules.json").exists());
    let encoder = Encoder::from_folder(ours.path()).unwrap();
    assert_eq!(
        encoder.prompts().default_prompt(),
        Some(("query", "query: "))
    );
    let long = "red ".repeat(9);
    let longer = format!("{long} white");
    let encode = |text: &str| encoder.encode_texts(&[text]).unwrap().values;
    assert_eq!(
        encode(&long),
        encode(&longer),
        "the limit of the run is kept"
    );
    let data = Data::from([("train", texts())]);
    let hyper = json!({"loss": "TripletMarginLoss", "epochs": 1, "batch_size": 6});
    let config = config(json!({"artifact": "a"}), hyper, json!([]));
    let again = run_from(config, &data, Some(ours.path())).unwrap();
    assert!(again.logged("default prompt `query`"));
}
