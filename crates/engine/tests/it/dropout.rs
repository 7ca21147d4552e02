//! Dropout in whole runs: where it is applied, texts that are embedded twice,
//! and gradients that are not finite.

use std::path::Path;

use finetuner_engine::Error;
use finetuner_protocol::{Document, DocumentArray};
use serde_json::{Value, json};

use crate::{
    cached::pairs,
    runs::{Data, Run, config, images, run},
    sentence::folder,
    support::{fixture, json as fixture_json},
};

fn name(folder: &Path) -> &str {
    folder.to_str().unwrap()
}

/// Trains with validation on the same data.
fn train(model: Value, hyper: Value, train: DocumentArray) -> Result<Run, Error> {
    let data = Data::from([("train", train.clone()), ("eval", train)]);
    let mut config = config(model, hyper, json!([]));
    config["data"]["eval_data"] = "eval".into();
    run(config, &data)
}

fn texts(count: usize) -> DocumentArray {
    let pairs = pairs(count, 0).into_iter();
    pairs
        .map(|pair| Document::text(pair.chunks[0].as_text().unwrap()))
        .collect()
}

/// Copies an image network of the fixtures with other rates.
pub(crate) fn network(name: &str, rates: Value) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let mut json = fixture_json(&format!("backbones/{name}.json"));
    let Value::Object(rates) = rates else {
        panic!("no rates")
    };
    json.as_object_mut().unwrap().extend(rates);
    std::fs::write(folder.path().join("config.json"), json.to_string()).unwrap();
    let from = fixture(&format!("backbones/{name}.safetensors"));
    std::fs::copy(from, folder.path().join("model.safetensors")).unwrap();
    // Small images, if the network takes any size.
    if name != "vit" {
        let side = json!({"height": 16, "width": 16});
        let class = if name == "dinov2" {
            "Bit"
        } else {
            "EfficientNet"
        };
        let processor = json!({"image_processor_type": format!("{class}ImageProcessor"),
            "size": side, "do_center_crop": false});
        let path = folder.path().join("preprocessor_config.json");
        std::fs::write(path, processor.to_string()).unwrap();
    }
    folder
}

#[test]
fn training_drops_and_validation_does_not() {
    let network_of_texts = folder("pooling-mean");
    let ranking = json!({"loss": "MultipleNegativeRankingLoss"});
    let vit = network(
        "vit",
        json!({"hidden_dropout_prob": 0.2,
        "attention_probs_dropout_prob": 0.1}),
    );
    let dinov2 = network("dinov2", json!({"drop_path_rate": 0.3}));
    let efficientnet = network("efficientnet", json!({"drop_connect_rate": 0.5}));
    let labels = json!({"loss": "NTXentLoss"});
    for (folder, hyper, data) in [
        (&network_of_texts, &ranking, pairs(8, 0)),
        (&vit, &labels, images()),
        (&dinov2, &labels, images()),
        (&efficientnet, &labels, images()),
    ] {
        let of = |options: Value| {
            let mut hyper = hyper.clone();
            hyper["epochs"] = 2.into();
            hyper["batch_size"] = 8.into();
            hyper["learning_rate"] = 1e-12.into();
            let model = json!({"name": name(folder.path()), "options": options});
            train(model, hyper, data.clone()).unwrap()
        };
        let (plain, off) = (of(json!({})), of(json!({"dropout": false})));
        let (on, again) = (of(json!({"dropout": true})), of(json!({"dropout": true})));
        let other = of(json!({"dropout": true, "seed": 1}));
        let what = folder.path().display();
        assert_eq!(plain.losses(), off.losses(), "{what}");
        assert_eq!(on.losses(), again.losses(), "{what}");
        assert_ne!(on.losses(), other.losses(), "{what}");
        assert_ne!(on.losses()[0], plain.losses()[0], "{what}");
        // The weights are unchanged, and so is the validation loss.
        for (a, b) in on.validated().iter().zip(plain.validated()) {
            // Statistics of batch normalisation depend on dropout.
            let allowed = if std::ptr::eq(folder, &efficientnet) {
                0.5
            } else {
                1e-6
            };
            assert!((a - b).abs() <= allowed, "{what}: {a} and {b}");
        }
        assert!(on.logged("Using the dropout rates of the model"));
        assert!(!plain.logged("dropout"), "{:?}", plain.log());
    }
}

#[test]
fn dropout_without_effect_is_logged() {
    let model = json!({"name": "mlp", "options": {"input_size": 5, "hidden_sizes": [4],
        "dropout": true}});
    let hyper = json!({"loss": "TripletMarginLoss", "epochs": 1, "batch_size": 12});
    let run = train(model, hyper, crate::runs::features()).unwrap();
    assert!(run.logged("`dropout` has no effect"), "{:?}", run.log());
}

#[test]
fn single_texts_are_embedded_twice_with_dropout() {
    let network = folder("pooling-mean");
    let hyper = json!({"loss": "MultipleNegativeRankingLoss", "epochs": 30, "batch_size": 8,
        "learning_rate": 1e-2});
    let model = json!({"name": name(network.path())});
    let trained = train(model.clone(), hyper.clone(), texts(8)).unwrap();
    assert!(trained.logged("(SimCSE)"), "{:?}", trained.log());
    assert!(trained.logged("8 texts to train on"), "{:?}", trained.log());
    let mean = |losses: &[f64]| losses.iter().sum::<f64>() / losses.len() as f64;
    let losses = trained.losses();
    let (first, last) = (mean(&losses[..5]), mean(&losses[25..]));
    assert!(last < 0.9 * first, "{losses:?}");

    let refused = |model: Value, data: DocumentArray| match train(model, hyper.clone(), data) {
        Ok(_) => panic!("it was trained"),
        Err(error) => error.to_string(),
    };
    let mut off = model.clone();
    off["options"] = json!({"dropout": false});
    let error = refused(off, texts(8));
    assert!(
        error.contains("`dropout` is false") && error.contains("SimCSE"),
        "{error}"
    );
    let mut frozen = model.clone();
    frozen["freeze"] = true.into();
    let error = refused(frozen, texts(8));
    assert!(error.contains("`freeze`: true"), "{error}");
    let still = folder("pooling-mean");
    let path = still.path().join("config.json");
    let mut json: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    json["hidden_dropout_prob"] = 0.into();
    json["attention_probs_dropout_prob"] = 0.into();
    std::fs::write(&path, json.to_string()).unwrap();
    let error = refused(json!({"name": name(still.path())}), texts(8));
    assert!(error.contains("the model applies no dropout"), "{error}");
    let mixed: DocumentArray = texts(3).into_iter().chain(pairs(5, 0)).collect();
    let error = refused(model, mixed);
    assert!(error.contains("3 of the 8 examples"), "{error}");
}

#[test]
fn single_texts_use_dropout_beside_a_data_set_of_pairs() {
    let network = folder("pooling-mean");
    let hyper = json!({"loss": "MultipleNegativeRankingLoss", "epochs": 1, "batch_size": 4});
    let mut mixed = config(json!({"name": name(network.path())}), hyper, json!([]));
    mixed["data"]["more_train_data"] = json!([{"name": "more"}]);
    mixed["data"]["val_split"] = 0.25.into();
    let data = Data::from([("train", pairs(8, 0)), ("more", texts(8))]);
    let made = run(mixed.clone(), &data).unwrap();
    assert!(made.logged("(SimCSE)"), "{:?}", made.log());
    assert!(made.logged("Without dropout, each text matches itself"));
    mixed["model"]["options"] = json!({"dropout": false});
    let error = run(mixed, &data).err().unwrap().to_string();
    assert!(error.contains("`dropout` is false"), "{error}");
}

#[test]
fn a_gradient_that_is_not_finite_ends_the_run() {
    // Loss and embeddings are finite. The gradients of two equal members
    // overflow and cancel to NaN.
    let row = |i: usize| {
        let query = Document::tensor(&[1e11_f32 + i as f32, 1e11], &[2]);
        let other = Document::tensor(&[1e11_f32, 1e11], &[2]);
        let row = Document::new().with_chunk(query);
        let row = row.with_chunk(other.clone()).with_chunk(other);
        row.with_tag("finetuner_score", 1e18)
    };
    let data = Data::from([("train", (0..2).map(row).collect())]);
    let model = json!({"name": "mlp", "options": {"input_size": 2, "hidden_sizes": [2]}});
    let hyper = json!({"loss": "MarginMSELoss", "epochs": 1, "batch_size": 2});
    let error = run(config(model, hyper, json!([])), &data)
        .err()
        .unwrap()
        .to_string();
    for part in ["the gradient of `", "in epoch 1, step 1"] {
        assert!(error.contains(part), "{error}");
    }
}
