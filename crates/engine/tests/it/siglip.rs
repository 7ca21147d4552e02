//! Compares SigLIP with transformers (`fixtures/make_siglip.py`): embeddings, loss,
//! gradients, and whole folders with a tokenizer that pads texts.

use std::{collections::HashMap, path::Path};

use finetuner_engine::{
    Kernels,
    infer::Encoder,
    loss::{Criterion, LossSpec, Target},
    models::{ModelConfig, ModelSetup},
};
use finetuner_protocol::{Document, DocumentArray, Loss};
use serde_json::{Value, json};

use crate::{
    runs::{Data, config, run},
    support::{
        embeddings_agree, fixture, flat, gradients_agree, json as fixture_json, model, pixels,
        relative_error, tensors, texts,
    },
};

const TEXTS: [&str; 3] = [
    "a long red dress",
    "white running shoe",
    "the Blue boat on a lake with a small RED hat, and a second one",
];

#[test]
fn embeddings_loss_and_gradients_equal_those_of_transformers() {
    let values = tensors("backbones/siglip-values.safetensors");
    for kernels in [Kernels::Fused, Kernels::Composite] {
        let config = fixture_json("backbones/siglip.json");
        let weights = tensors("backbones/siglip.safetensors");
        let mut model = model(&config, weights, ModelSetup::default());
        model.set_kernels(kernels);
        let pass = model.training();
        let text = model.encode(&pass, &texts(&values)).unwrap();
        let image = model.encode(&pass, &pixels(&values)).unwrap();
        for (name, found) in [("text", &text), ("image", &image)] {
            embeddings_agree(
                &format!("siglip {name} {kernels:?}"),
                found,
                &values[name].1,
            );
        }
        let spec = LossSpec::new(Loss::SigLip);
        let mut criterion = Criterion::new(&spec, 0, model.dim(), 0).unwrap();
        let target = Target {
            labels: &[],
            scores: &[],
        };
        let loss = criterion.loss(&model, &pass, &[text, image], target, 0, true);
        let loss = loss.unwrap();
        let error = relative_error(&flat(&loss), &values["loss"].1);
        assert!(error < 1e-5, "{kernels:?}: loss {error}");
        // Including the model's own scale and bias.
        gradients_agree(&format!("siglip {kernels:?}"), &model, &loss, &values);
    }
}

/// Copies the fixture's folder, with changes to `tokenizer_config.json`.
fn folder(changed: &Value) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(fixture("siglip")).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
    }
    let mut settings = fixture_json("siglip/tokenizer_config.json");
    for (name, value) in changed.as_object().unwrap() {
        match value {
            Value::Null => drop(settings.as_object_mut().unwrap().remove(name)),
            value => settings[name] = value.clone(),
        }
    }
    let path = folder.path().join("tokenizer_config.json");
    std::fs::write(path, settings.to_string()).unwrap();
    folder
}

fn embedded(folder: &Path) -> Vec<f32> {
    let encoder = Encoder::from_folder(folder).unwrap();
    encoder.encode_texts(&TEXTS).unwrap().values
}

#[test]
fn texts_are_padded_as_the_folders_tokenizer_says() {
    let expected = tensors("siglip/expected.safetensors");
    let cases = fixture_json("siglip/cases.json");
    for (name, changed) in cases.as_object().unwrap() {
        let folder = folder(changed);
        let found = embedded(folder.path());
        let error = relative_error(&found, &expected[&format!("text.{name}")].1);
        assert!(error < 1e-5, "{name}: {error}");
    }
    // A text has the same embedding alone and among others.
    let encoder = Encoder::from_folder(fixture("siglip")).unwrap();
    let alone = encoder.encode_texts(&TEXTS[1..2]).unwrap().values;
    let dim = alone.len();
    let error = relative_error(&alone, &expected["text.gemma"].1[dim..2 * dim]);
    assert!(error < 1e-5, "{error}");
    let image = std::fs::read(fixture("pictures/tall.png")).unwrap();
    let found = encoder.encode_images(&[&image]).unwrap().values;
    let error = relative_error(&found, &expected["image"].1);
    assert!(error < 1e-5, "image: {error}");
}

#[test]
fn a_tokenizer_that_can_not_pad_texts_is_refused() {
    let refused = |token: Value, said: &str| {
        let class = "PreTrainedTokenizerFast";
        let folder = folder(&json!({"pad_token": token, "tokenizer_class": class}));
        let error = Encoder::from_folder(folder.path()).map(|_| ()).unwrap_err();
        let error = error.to_string();
        assert!(error.contains(said), "{error}");
    };
    refused(Value::Null, "no file names a `pad_token`");
    refused("<nothing>".into(), "`pad_token` is `<nothing>`");
}

#[test]
fn a_run_trains_a_siglip_and_saves_it_with_the_same_embeddings() {
    let image = |name: &str| {
        let bytes = std::fs::read(fixture(&format!("pictures/{name}"))).unwrap();
        Document::blob(bytes).with_modality("image")
    };
    let pairs: DocumentArray = ["photo.jpg", "small.png", "grey.png", "palette.png"]
        .iter()
        .zip(["a dress", "a shoe", "a boat", "a hat"])
        .map(|(name, text)| {
            let text = Document::text(text).with_modality("text");
            Document::new().with_chunk(image(name)).with_chunk(text)
        })
        .collect();
    let data: Data = HashMap::from([("train", pairs)]);
    let source = fixture("siglip").to_str().unwrap().to_owned();
    let train = |rate: f64, epochs: usize| {
        let hyper = json!({"loss": "SigLIPLoss", "epochs": epochs, "batch_size": 4,
            "learning_rate": rate});
        let model = json!({"name": source, "to_onnx": true});
        run(config(model, hyper, json!([])), &data).unwrap()
    };
    let trained = train(1e-3, 20);
    let losses = trained.losses();
    assert!(losses[19] < 0.9 * losses[0], "{losses:?}");

    // Almost untrained, the saved folder has the original embeddings.
    let saved = train(1e-12, 1).opened();
    let expected = tensors("siglip/expected.safetensors");
    let error = relative_error(&embedded(saved.path()), &expected["text.gemma"].1);
    assert!(error < 1e-5, "{error}");
    let weights = std::fs::read(saved.path().join("model.safetensors")).unwrap();
    let weights = finetuner_engine::params::parse_safetensors(&weights, "saved").unwrap();
    let original = tensors("siglip/model.safetensors");
    for (name, (shape, _)) in &original {
        assert_eq!(&weights[name].0, shape, "{name}");
    }
    assert_eq!(weights.len(), original.len());
}

#[test]
fn an_unsupported_siglip_is_refused_by_its_field() {
    for (change, part) in [
        (json!({"model_type": "siglip2"}), "NaFlex"),
        (
            json!({"vision_config": {"vision_use_head": false}}),
            "`vision_config.vision_use_head` is false",
        ),
        (
            json!({"text_config": {"projection_size": 512}}),
            "text embeddings have 512 elements",
        ),
        (
            json!({"text_config": {"hidden_size": 10}}),
            "`text_config.hidden_size` 10",
        ),
        (
            json!({"vision_config": {"patch_size": 300}}),
            "`vision_config.image_size` 224 is less than `patch_size` 300",
        ),
        (
            json!({"vision_config": {"num_channels": 4}}),
            "`vision_config.num_channels` is 4",
        ),
    ] {
        let mut config = json!({"model_type": "siglip"});
        for (name, value) in change.as_object().unwrap() {
            config[name] = value.clone();
        }
        let error = ModelConfig::parse(&config).unwrap_err().to_string();
        assert!(error.contains(part), "{change}: {error}");
    }
    let full = ModelConfig::parse(&json!({"model_type": "siglip"})).unwrap();
    assert_eq!((full.dim(), full.max_tokens()), (768, Some(64)));
}
