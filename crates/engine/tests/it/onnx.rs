//! The files of models exported to ONNX. `scripts/check_onnx.py` runs them in
//! onnxruntime and compares the results.

use std::{
    collections::{BTreeSet, HashMap},
    fs::File,
    io::Read,
};

use finetuner_engine::{infer::Encoder, models::OnnxFormat};
use serde_json::{Value, json};

use crate::runs::{Data, config, features, run, texts};

/// Returns the files of an artifact, by their paths inside its folder.
fn files(artifact: &std::path::Path) -> HashMap<String, Vec<u8>> {
    let mut zip = zip::ZipArchive::new(File::open(artifact).unwrap()).unwrap();
    let mut files = HashMap::new();
    for i in 0..zip.len() {
        let mut entry = zip.by_index(i).unwrap();
        let name = entry.name().unwrap().into_owned();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).unwrap();
        files.insert(name.split_once('/').unwrap().1.to_owned(), bytes);
    }
    files
}

#[test]
fn a_run_with_to_onnx_saves_a_model_for_the_python_client() {
    let data = Data::from([("train", texts())]);
    let hyper = json!({"epochs": 1, "batch_size": 6, "loss": "TripletMarginLoss"});
    let model = json!({"name": "minilm-small", "to_onnx": true, "output_dim": 16});
    let run = run(config(model, hyper, json!([])), &data).unwrap();
    let files = files(&run.finished.artifact);
    let model = &files["models/minilm-small/model.onnx"];
    // It contains the weights.
    assert!(model.len() > files["model.safetensors"].len());
    let metadata: Value =
        serde_saphyr::from_slice(&files["models/minilm-small/metadata.yml"]).unwrap();
    // Keys that the client requires.
    for key in [
        "name",
        "builder",
        "options",
        "descriptor",
        "input_names",
        "input_shapes",
        "output_name",
        "output_shape",
        "embedding_layer",
        "output_dim",
        "freeze",
        "tailor_input_shape",
        "tailor_input_dtype",
        "preprocess_types",
        "preprocess_options",
        "collate_types",
        "collate_options",
    ] {
        assert!(metadata.get(key).is_some(), "{key}");
    }
    assert_eq!(metadata["output_shape"], json!(["batch-size", 16]));
    assert_eq!(metadata["collate_options"]["text"]["max_length"], 128);
    // Not from the hub: the tokenizer and everything else are in the artifact.
    assert_eq!(metadata["collate_options"]["text"]["name"], "r");
}

#[test]
fn a_run_without_to_onnx_saves_no_onnx_model() {
    let data = Data::from([("train", features())]);
    let hyper = json!({"epochs": 1, "batch_size": 6, "loss": "TripletMarginLoss"});
    let options = json!({"input_size": 5, "hidden_sizes": [4]});
    let model = json!({"name": "mlp", "options": options});
    let run = run(config(model, hyper, json!([])), &data).unwrap();
    let files = files(&run.finished.artifact);
    assert!(files.contains_key("models/mlp/metadata.yml"));
    assert!(!files.keys().any(|name| name.ends_with(".onnx")));
}

#[test]
fn a_run_with_torch_saves_weights_with_the_names_of_the_python_client() {
    let data = Data::from([("train", texts())]);
    let hyper = json!({"epochs": 1, "batch_size": 6, "loss": "TripletMarginLoss"});
    let options = json!({"torch": true});
    let model = json!({"name": "minilm-small", "options": options});
    let done = run(config(model, hyper.clone(), json!([])), &data).unwrap();
    let files = files(&done.finished.artifact);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.pt");
    std::fs::write(&path, &files["models/minilm-small/model.pt"]).unwrap();
    let tensors = candle_core::pickle::read_all(&path).unwrap();
    let names: BTreeSet<&str> = tensors.iter().map(|(name, _)| name.as_str()).collect();
    assert!(
        names.contains("_model.embeddings.position_ids"),
        "{names:?}"
    );
    assert!(names.contains("_model.encoder.layer.0.output.dense.weight"));
    assert!(!names.iter().any(|name| name.contains("pooler")));

    // The client's text models have no projection head.
    let model = json!({"name": "minilm-small", "options": options, "output_dim": 16});
    let refused = run(config(model, hyper, json!([])), &data).err().unwrap();
    assert!(refused.to_string().contains("torch"), "{refused}");
}

#[test]
fn a_text_to_image_model_is_exported_as_two_models_with_their_processors() {
    let folder = tempfile::tempdir().unwrap();
    let encoder = Encoder::from_backbone("clip-small").unwrap();
    let (full, small) = (folder.path().join("full"), folder.path().join("small"));
    encoder.save_onnx(&full).unwrap();
    encoder.save_onnx_as(&small, OnnxFormat::Int8).unwrap();
    let names: BTreeSet<String> = std::fs::read_dir(&full)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    let expected = [
        "config.json",
        "preprocessor_config.json",
        "text_model.onnx",
        "tokenizer.json",
        "tokenizer_config.json",
        "vision_model.onnx",
    ];
    assert!(names.iter().eq(expected), "{names:?}");
    let size = |path: std::path::PathBuf| path.metadata().unwrap().len();
    for file in ["text_model.onnx", "vision_model.onnx"] {
        let (full, small) = (size(full.join(file)), size(small.join(file)));
        assert!(small * 3 < full, "{file}: {small} of {full} bytes");
    }
}
