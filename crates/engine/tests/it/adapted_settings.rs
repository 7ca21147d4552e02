//! Settings that a run adapts with a log line, and their effects.

use std::{collections::HashMap, io::Read};

use finetuner_engine::{infer::Encoder, source::open_artifact};
use finetuner_protocol::Document;
use serde_json::{Value, json};

use crate::{
    runs::{Run, config, features, images, run, run_from, texts},
    settings::pairs,
};

fn file_of(run: &Run, name: &str) -> Option<Vec<u8>> {
    let file = std::fs::File::open(&run.finished.artifact).unwrap();
    let mut zip = zip::ZipArchive::new(file).unwrap();
    let mut bytes = Vec::new();
    zip.by_name(&format!("r/{name}"))
        .ok()?
        .read_to_end(&mut bytes)
        .unwrap();
    Some(bytes)
}

#[test]
fn the_default_loss_of_a_clip_is_clip_loss() {
    let data = HashMap::from([("train", pairs())]);
    let hyper = json!({"loss": "TripletMarginLoss", "epochs": 1, "batch_size": 6});
    let run = run(
        config(json!({"name": "clip-small"}), hyper, json!([])),
        &data,
    )
    .unwrap();
    assert!(run.logged("a text-to-image model is trained with `CLIPLoss`"));
}

#[test]
fn settings_of_the_python_client_are_adapted_with_a_log_line() {
    let data = HashMap::from([("train", features())]);
    let model = json!({"name": "mlp", "options": {"input_size": 5, "hidden_sizes": []}});
    let hyper = json!({"loss": "TripletMarginLoss", "epochs": 2, "batch_size": 12,
        "optimizer_options": {"layer_wise_lr_decay": 0.9}, "scheduler": "linear",
        "scheduler_options": {"num_warmup_steps": 100}});
    let callbacks = json!([{"name": "EarlyStopping", "options": {"monitor": "loss"}}]);
    let run = run(config(model, hyper, callbacks), &data).unwrap();
    for line in [
        "`hidden_sizes` is empty: the perceptron has one layer of size `input_size` (5)",
        "`layer_wise_lr_decay` has no effect",
        "`num_warmup_steps` is 100, but training has 4 steps",
        "`monitor` of `EarlyStopping` is `loss`: it monitors `train_loss`",
        "Model improved from inf",
    ] {
        assert!(run.logged(line), "{line}");
    }
    assert_eq!(run.encoder().dim(), 5);
}

#[test]
fn collate_options_truncate_texts() {
    let data = HashMap::from([("train", texts())]);
    let hyper = json!({"loss": "TripletMarginLoss", "epochs": 1, "batch_size": 9,
        "learning_rate": 1e-12});
    let with = |collate: Value| {
        let model = json!({"name": "minilm-small", "options": {"collate_options": collate}});
        run(config(model, hyper.clone(), json!([])), &data)
    };
    let cut = with(json!({"max_length": 4, "truncation": true, "padding": true})).unwrap();
    // The Python client sends an object for each kind of input.
    let nested = with(json!({"text": {"max_length": 4, "truncation": true}})).unwrap();
    // The saved model truncates them as well, and so does a run that continues
    // from it.
    for cut in [cut, nested] {
        let encoder = cut.encoder();
        let embedded = encoder
            .encode_texts(&["what do cats eat", "what do dogs chase"])
            .unwrap();
        assert_eq!(embedded.get(0), embedded.get(1));
    }
    let whole = with(json!({})).unwrap().encoder();
    let embedded = whole
        .encode_texts(&["what do cats eat", "what do dogs chase"])
        .unwrap();
    assert_ne!(embedded.get(0), embedded.get(1));
    let refused = |collate: Value| with(collate).err().unwrap().to_string();
    let found = refused(json!({"max_length": 1000}));
    assert!(
        found.contains("`max_length` is 1000: the model reads at most 512 tokens"),
        "{found}"
    );
    let found = refused(json!({"return_tensors": "pt"}));
    assert!(
        found.contains("`return_tensors` is \"pt\": the options are max_length, truncation"),
        "{found}"
    );
    let found = refused(json!({"text": {"name": "bert-base-cased"}}));
    assert!(
        found.contains("collate_options.text") && found.contains("`name` is \"bert-base-cased\""),
        "{found}"
    );
    let found = refused(json!({"text": {"max_length": 4}, "max_length": 8}));
    assert!(found.contains("`max_length` is given twice"), "{found}");
    let found = refused(json!({"text": 4}));
    assert!(
        found.contains("collate_options.text") && found.contains("an object"),
        "{found}"
    );
    let model = json!({"name": "minilm-small", "options": {"pooler_options": {"p": 2}}});
    let found = run(config(model, hyper.clone(), json!([])), &data)
        .err()
        .unwrap()
        .to_string();
    assert!(found.contains("set `pooler` as well"), "{found}");
    let model = json!({"name": "minilm-small", "options": {"preprocess_options": {"lower": true}}});
    let found = run(config(model, hyper.clone(), json!([])), &data)
        .err()
        .unwrap()
        .to_string();
    assert!(
        found.contains("`lower` is true: texts go to the tokenizer unchanged"),
        "{found}"
    );
}

#[test]
fn texts_that_may_not_be_truncated_are_refused_by_document() {
    let mut all = texts();
    let mut long = Document::text("cat ".repeat(600)).with_label(1);
    long.id = "long".to_owned();
    all.push(long);
    let data = HashMap::from([("train", all)]);
    let hyper = json!({"loss": "TripletMarginLoss", "epochs": 1, "batch_size": 10});
    let model = json!({"name": "minilm-small",
        "options": {"collate_options": {"truncation": false}}});
    let found = run(config(model, hyper, json!([])), &data)
        .err()
        .unwrap()
        .to_string();
    assert!(
        found.contains("document `long`: the text has 602 tokens, the model reads"),
        "{found}"
    );
}

#[test]
fn a_frozen_clip_learns_heads_that_later_runs_continue_from() {
    let data = HashMap::from([("train", pairs())]);
    let model = json!({"name": "clip-small", "freeze": true, "output_dim": 16,
        "options": {"collate_options": {"max_length": 8}}});
    let hyper = json!({"loss": "CLIPLoss", "epochs": 12, "batch_size": 12, "learning_rate": 1e-2});
    let evaluation = json!([{"name": "EvaluationCallback", "options": {"query_data": "train"}}]);
    let first = run(config(model, hyper.clone(), evaluation), &data).unwrap();
    assert!(first.finished.after["recall_at_k"] >= first.finished.before["recall_at_k"]);
    let encoder = first.encoder();
    let image = images()[0].as_blob().unwrap().to_vec();
    let found = [
        encoder.encode_texts(&["thing number 0"]).unwrap(),
        encoder.encode_images(&[&image]).unwrap(),
    ];
    assert_eq!([found[0].dim, found[1].dim], [16, 16]);

    // The backbone's weights are unchanged, bit by bit, and the folder
    // describes the head on top of it.
    let untouched = Encoder::from_backbone("clip-small").unwrap();
    let opened = tempfile::tempdir().unwrap();
    open_artifact(&first.finished.artifact, opened.path()).unwrap();
    let metadata = String::from_utf8(file_of(&first, "metadata.yml").unwrap()).unwrap();
    assert!(
        metadata.contains("model.safetensors are the backbone alone"),
        "{metadata}"
    );
    std::fs::remove_file(opened.path().join("finetuner.json")).unwrap();
    let backbone = Encoder::from_folder(opened.path()).unwrap();
    let text = ["thing number 0"];
    assert_eq!(
        backbone.encode_texts(&text).unwrap(),
        untouched.encode_texts(&text).unwrap()
    );

    open_artifact(&first.finished.artifact, opened.path()).unwrap();
    let mut slow = hyper;
    slow["learning_rate"] = 1e-12.into();
    slow["epochs"] = 1.into();
    let second = config(
        json!({"artifact": "an-id", "freeze": true}),
        slow,
        json!([]),
    );
    let second = run_from(second, &data, Some(opened.path())).unwrap();
    let again = second.encoder().encode_texts(&text).unwrap();
    assert_eq!(again.dim, 16);
    // Only the running statistics of the normalisation changed.
    let cosine = again
        .values
        .iter()
        .zip(&found[0].values)
        .map(|(a, b)| a * b)
        .sum::<f32>()
        / again.values.iter().map(|a| a * a).sum::<f32>().sqrt()
        / found[0].values.iter().map(|b| b * b).sum::<f32>().sqrt();
    assert!(cosine > 0.9, "{cosine}");
}

#[test]
fn an_artifact_contains_the_original_tokenizer_file() {
    let data = HashMap::from([("train", texts())]);
    let opened = tempfile::tempdir().unwrap();
    let hyper = json!({"loss": "TripletMarginLoss", "epochs": 1, "batch_size": 9});
    let first = run(
        config(json!({"name": "minilm-small"}), hyper.clone(), json!([])),
        &data,
    );
    open_artifact(&first.unwrap().finished.artifact, opened.path()).unwrap();
    // Whitespace that no program would write.
    let path = opened.path().join("tokenizer.json");
    let mut came = std::fs::read(&path).unwrap();
    came.extend(b"\n \n");
    std::fs::write(&path, &came).unwrap();
    let model = json!({"name": opened.path()});
    let second = run(config(model, hyper, json!([])), &data).unwrap();
    assert_eq!(file_of(&second, "tokenizer.json").unwrap(), came);
    // All versions of `tokenizers` read merges as texts; only 0.20 and newer
    // read pairs.
    let path = format!(
        "{}/../models/clip-small/files/tokenizer.json",
        env!("CARGO_MANIFEST_DIR")
    );
    let bundled: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let merges = bundled["model"]["merges"].as_array().unwrap();
    assert!(!merges.is_empty() && merges.iter().all(Value::is_string));
}
