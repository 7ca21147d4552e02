//! Two towers: embeddings with their poolings and projections, the effect of
//! `freeze`, and the sigmoid loss compared with transformers.

use std::collections::HashMap;

use candle_core::Var;
use finetuner_engine::{
    infer::Encoder,
    loss::{Criterion, LossSpec, Target},
    models::{Input, Model, ModelSetup},
    tokenizer::TokenBatch,
};
use finetuner_protocol::{Document, DocumentArray, Loss};
use serde_json::{Value, json};

use crate::{
    runs::{Data, config, images, run, run_from},
    support::{
        Tensors, flat, json as fixture_json, model, pixels, relative_error, tensor, tensors,
    },
};

const DIM: usize = 8;

/// Returns pseudorandom numbers from -0.5 to 0.5.
fn numbers(count: usize, step: usize) -> Vec<f32> {
    let numbers = (0..count).map(|i| ((i * step) % 101) as f32 / 101.0 - 0.5);
    numbers.collect()
}

/// Returns the tiny BERT and the tiny EfficientNet of `backbones/` as towers.
fn tiny(change: impl Fn(&mut Value)) -> (Value, Tensors) {
    let of = |name: &str| {
        let config = fixture_json(&format!("backbones/{name}.json"));
        (config, tensors(&format!("backbones/{name}.safetensors")))
    };
    let (text, vision) = (of("bert"), of("efficientnet"));
    let mut all = Tensors::new();
    for ((_, tower), prefix) in [(&text, "text_model"), (&vision, "vision_model")] {
        let named = tower
            .iter()
            .map(|(name, t)| (format!("{prefix}.{name}"), t.clone()));
        all.extend(named);
    }
    for (name, width, step) in [("text", 16, 37), ("visual", 320, 29)] {
        let weight = (vec![DIM, width], numbers(DIM * width, step));
        all.insert(format!("{name}_projection.weight"), weight);
    }
    all.insert("logit_scale".to_owned(), (vec![], vec![2.5]));
    let mut config = json!({"model_type": "two-towers", "projection_dim": DIM,
        "text_config": text.0, "vision_config": vision.0});
    change(&mut config);
    (config, all)
}

fn tiny_model(setup: ModelSetup) -> Model {
    let (config, tensors) = tiny(|_| {});
    model(&config, tensors, setup)
}

/// Returns the texts of a fixture, without their padding.
pub(crate) fn unpadded(values: &Tensors) -> Input {
    let (shape, ids) = &values["input_ids"];
    let lengths: Vec<usize> = values["lengths"].1.iter().map(|n| *n as usize).collect();
    let rows = ids.chunks(shape[1]).zip(&lengths);
    let ids = rows.flat_map(|(row, length)| row[..*length].iter().map(|id| *id as u32));
    Input::Texts(TokenBatch::new(ids.collect(), lengths))
}

/// Multiplies the rows of `x` with the transposed `weight`.
fn projected(
    (shape, x): &(Vec<usize>, Vec<f32>),
    (_, weight): &(Vec<usize>, Vec<f32>),
) -> Vec<f32> {
    let width = shape[1];
    let product = |row: &[f32], column: &[f32]| row.iter().zip(column).map(|(a, b)| a * b).sum();
    x.chunks(width)
        .flat_map(|row| weight.chunks(width).map(move |column| product(row, column)))
        .collect()
}

#[test]
fn a_tower_equals_its_model_with_a_projection() {
    let (_, weights) = tiny(|_| {});
    let texts = tensors("backbones/bert-values.safetensors");
    let images = tensors("backbones/efficientnet-values.safetensors");
    for (pooler, freeze) in [
        ("mean", false),
        ("mean", true),
        ("max", false),
        ("cls", false),
    ] {
        let (config, tensors) = tiny(|json| json["text_pooler"] = pooler.into());
        let setup = ModelSetup {
            freeze,
            ..ModelSetup::default()
        };
        let model = model(&config, tensors, setup);
        let pass = model.inference();
        let found = model.encode(&pass, &unpadded(&texts)).unwrap();
        let expected = projected(&texts[pooler], &weights["text_projection.weight"]);
        let error = relative_error(&flat(&found), &expected);
        assert!(error < 1e-5, "{pooler}: {error}");
        let found = model.encode(&pass, &pixels(&images)).unwrap();
        let expected = projected(&images["mean"], &weights["visual_projection.weight"]);
        let error = relative_error(&flat(&found), &expected);
        assert!(error < 1e-5, "images: {error}");
    }
}

#[test]
fn freeze_trains_the_projections_and_the_scale() {
    let model = tiny_model(ModelSetup {
        freeze: true,
        ..ModelSetup::default()
    });
    let trained = model.params().iter().filter(|p| p.is_trainable());
    let trained: Vec<&str> = trained.map(|p| p.name()).collect();
    let expected = [
        "logit_scale",
        "text_projection.weight",
        "visual_projection.weight",
    ];
    assert_eq!(trained, expected);
}

#[test]
fn unsuitable_towers_are_refused_by_name() {
    let refused = |change: &dyn Fn(&mut Value), said: &str| {
        let (config, _) = tiny(change);
        let error = finetuner_engine::models::ModelConfig::parse(&config);
        let error = error.unwrap_err().to_string();
        assert!(error.contains(said), "{said}: {error}");
    };
    let swap = |json: &mut Value| json["text_config"] = json["vision_config"].clone();
    refused(&swap, "`text_config` describes a model of images");
    let unknown = |json: &mut Value| json["vision_config"]["model_type"] = "nest".into();
    refused(
        &unknown,
        "`vision_config`: describes a model of type `nest`",
    );
    let pooled = |json: &mut Value| json["vision_pooler"] = "pooler_output".into();
    refused(
        &pooled,
        "`vision_config` describes a model without a `pooler_output`",
    );
    let pooled = |json: &mut Value| json["text_pooler"] = "best".into();
    refused(&pooled, "best");
    refused(
        &|json| json["projection_dim"] = 0.into(),
        "`projection_dim` is 0",
    );
}

#[test]
fn the_sigmoid_loss_and_its_gradients_equal_those_of_transformers() {
    let expected = tensors("sigmoid-loss.safetensors");
    let (config, mut weights) = tiny(|_| {});
    weights.insert(
        "logit_scale".to_owned(),
        (vec![], expected["logit_scale"].1.clone()),
    );
    let model = model(&config, weights, ModelSetup::default());
    let mut criterion = Criterion::new(&LossSpec::new(Loss::SigLip), 0, DIM, 0).unwrap();
    let parts = ["texts", "images"].map(|name| Var::from_tensor(&tensor(&expected[name])).unwrap());
    let given = parts.iter().map(|part| part.as_tensor().clone());
    let target = Target {
        labels: &[],
        scores: &[],
    };
    let pass = model.training();
    let given: Vec<_> = given.collect();
    let loss = criterion
        .loss(&model, &pass, &given, target, 0, true)
        .unwrap();
    let error = relative_error(&flat(&loss), &expected["loss"].1);
    assert!(error < 1e-5, "{error}");
    let grads = loss.backward().unwrap();
    for (name, part) in ["texts", "images"].iter().zip(&parts) {
        let found = flat(grads.get(part.as_tensor()).unwrap());
        let error = relative_error(&found, &expected[&format!("grad.{name}")].1);
        assert!(error < 1e-4, "{name}: {error}");
    }
    model.params().zero_grad();
    criterion.params().zero_grad();
    model.params().backward(&loss).unwrap();
    criterion.params().backward(&loss).unwrap();
    let own = [
        model.logit_scale().unwrap(),
        criterion.params().iter().next().unwrap(),
    ];
    for (name, param) in ["logit_scale", "logit_bias"].iter().zip(own) {
        let error = relative_error(&param.grad().unwrap(), &expected[&format!("grad.{name}")].1);
        assert!(error < 1e-4, "{name}: {error}");
    }
}

fn pairs() -> DocumentArray {
    let images = images().into_iter().take(8).enumerate();
    images
        .map(|(i, image)| {
            let text = Document::text(format!("thing number {}", i / 3)).with_modality("text");
            Document::new()
                .with_chunk(image.with_modality("image"))
                .with_chunk(text)
        })
        .collect()
}

#[test]
fn two_models_become_towers_that_later_runs_continue_from() {
    let data: Data = HashMap::from([("train", pairs())]);
    let towers = json!({"name": "two-towers", "freeze": true, "output_dim": 12,
        "options": {"text_model": "minilm-small", "image_model": "efficientnet-small"}});
    let hyper = |loss: &str, rate: f64| json!({"loss": loss, "epochs": 6, "batch_size": 8, "learning_rate": rate});
    let first = run(config(towers, hyper("CLIPLoss", 1e-3), json!([])), &data).unwrap();
    let losses = first.losses();
    assert!(losses[5] < losses[0], "{losses:?}");
    let encoder = first.encoder();
    let text = ["thing number 0"];
    let image = images()[0].as_blob().unwrap().to_vec();
    let found = encoder.encode_texts(&text).unwrap();
    assert_eq!(
        (found.dim, encoder.encode_images(&[&image]).unwrap().dim),
        (12, 12)
    );

    // Another run continues from it, with the other loss.
    let opened = first.opened();
    let next = config(
        json!({"artifact": "an-id", "freeze": true}),
        hyper("SigLIPLoss", 1e-12),
        json!([]),
    );
    let second = run_from(next, &data, Some(opened.path())).unwrap();
    let again = second.encoder().encode_texts(&text).unwrap();
    let error = relative_error(&again.values, &found.values);
    assert!(error < 1e-5, "{error}");
}

#[test]
fn models_that_can_not_be_towers_are_refused_before_the_run() {
    let data: Data = HashMap::from([("train", pairs())]);
    let refused = |options: Value, said: &str| {
        let model = json!({"name": "two-towers", "options": options});
        let hyper = json!({"loss": "CLIPLoss", "epochs": 1, "batch_size": 4});
        let error = run(config(model, hyper, json!([])), &data).err().unwrap();
        let error = error.to_string();
        assert!(error.contains(said), "{said}: {error}");
    };
    refused(
        json!({"image_model": "efficientnet-small"}),
        "`text_model` is null: give the name of a model of texts",
    );
    refused(
        json!({"text_model": "clip-small", "image_model": "efficientnet-small"}),
        "`text_model` is \"clip-small\": that model embeds texts and images",
    );
    refused(
        json!({"text_model": "minilm-small", "image_model": "no-such-model"}),
        "no-such-model",
    );
}

#[test]
fn the_bundled_towers_embed_texts_and_images() {
    let encoder = Encoder::from_backbone("two-towers-small").unwrap();
    let image = images()[0].as_blob().unwrap().to_vec();
    let found = encoder.encode_images(&[&image]).unwrap();
    assert_eq!(found.dim, encoder.encode_texts(&["a monkey"]).unwrap().dim);
    assert_eq!(found.dim, encoder.dim());
}
