//! Compares the computation on devices other than the CPU (composite
//! operations, gradients as tensors, optimizers on tensors) with that on the
//! CPU, for every architecture and, in `losses`, every loss. No such device is
//! needed: the same operations run here on the CPU.

mod losses;

use std::collections::BTreeSet;

use candle_core::{Device, Tensor};
use finetuner_engine::{
    Precision,
    cloud::CloudBatch,
    models::{Input, Model, ModelConfig, ModelKind, ModelSetup},
    optim::Adam,
    tokenizer::TokenBatch,
};
use serde_json::{Value, json};

use crate::support::{Tensors, fixture, flat, json as fixture_json, norm, relative_error, tensors};

/// Largest difference of embeddings, a loss and all gradients together,
/// relative to their norm.
const CLOSE: f32 = 2e-5;
/// Largest difference of a gradient, relative to its norm or, if that is
/// smaller, to a thousandth of the largest one.
const CLOSE_GRADIENT: f32 = 1e-4;
/// Largest difference of all gradients together, relative to their norm.
const CLOSE_TOGETHER: f32 = 1e-3;
/// Largest difference of weights after some steps, relative to the distance
/// that they moved.
const CLOSE_WEIGHTS: f32 = 1e-3;

/// Returns `n` pseudorandom numbers from -1 to 1.
fn numbers(n: usize, step: usize) -> Vec<f32> {
    let number = |i: usize| (i * step % 997) as f32 / 498.0 - 1.0;
    (0..n).map(number).collect()
}

fn tensor(shape: &[usize], step: usize) -> Tensor {
    let values = numbers(shape.iter().product(), step);
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

/// A `config.json`, and its weights if there are any.
type Case = (String, Value, Option<Tensors>);

/// Returns a small model of every architecture.
fn cases() -> Vec<Case> {
    let mut all: Vec<Case> = Vec::new();
    let mut names: Vec<String> = std::fs::read_dir(fixture("backbones"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter_map(|name| Some(name.strip_suffix(".json")?.to_owned()))
        .collect();
    names.sort();
    for name in names {
        let config = fixture_json(&format!("backbones/{name}.json"));
        let weights = tensors(&format!("backbones/{name}.safetensors"));
        all.push((name, config, Some(weights)));
    }
    let clip = fixture_json("tiny-clip/config.json");
    let weights = tensors("tiny-clip/model.safetensors");
    all.push(("clip".to_owned(), clip, Some(weights)));
    let renamed = |config: &Value, name: &str| {
        let mut config = config.clone();
        config["model_type"] = name.into();
        (name.to_owned(), config, None)
    };
    let of = |name: &str| fixture_json(&format!("backbones/{name}.json"));
    all.push(renamed(&of("roberta"), "camembert"));
    all.push(renamed(&of("roberta"), "xlm-roberta"));
    all.push(renamed(&of("dual-encoder"), "two-towers"));
    let vision = |name: &str| of(name)["vision_config"].clone();
    all.push(renamed(&vision("dual-encoder-clip"), "clip_vision_model"));
    all.push(renamed(
        &vision("dual-encoder-siglip"),
        "siglip_vision_model",
    ));
    let perceptron = json!({"model_type": "mlp", "input_size": 6, "hidden_sizes": [8, 5],
        "activation": "tanh", "l2": true});
    all.push(("mlp".to_owned(), perceptron, None));
    all
}

fn model(config: &Value, weights: Option<&Tensors>, setup: ModelSetup) -> Model {
    let config = ModelConfig::parse(config).unwrap();
    let weights = weights.cloned().unwrap_or_else(|| config.random_weights(3));
    Model::new(config, weights, setup, &Device::Cpu).unwrap()
}

/// Returns a batch of each kind of input of a model. Texts have several
/// lengths.
fn inputs(model: &Model, json: &Value) -> Vec<Input> {
    let config = model.config();
    let mut all = Vec::new();
    if let (Some(longest), Some(vocabulary)) = (config.max_tokens(), config.vocab_size()) {
        let lengths = [5, 2, 12, 3, 11, 4, 1, 12].map(|n: usize| n.min(longest));
        let lengths = match model.kind() {
            // SigLIP reads padded texts.
            ModelKind::TextImage if json["model_type"] == "siglip" => vec![longest; 8],
            _ => lengths.to_vec(),
        };
        let count = lengths.iter().sum();
        let id = |i: usize| (3 + i * 7 % (vocabulary - 4)) as u32;
        let ids = (0..count).map(id).collect();
        all.push(Input::Texts(TokenBatch::new(ids, lengths)));
    }
    match model.kind() {
        ModelKind::TextImage | ModelKind::Image => {
            let side = config.image_size().unwrap_or(32);
            all.push(Input::Images(tensor(&[8, 3, side, side], 31)));
        }
        ModelKind::Features => {
            let length = json["input_size"].as_u64().unwrap() as usize;
            all.push(Input::Features(tensor(&[8, length], 31)));
        }
        ModelKind::PointCloud => {
            let lengths = vec![30, 24, 30, 17];
            let count: usize = lengths.iter().sum();
            let points = numbers(3 * count, 37).as_chunks().0.to_vec();
            all.push(Input::PointClouds(CloudBatch { points, lengths }));
        }
        ModelKind::Text | ModelKind::TextPairs => {}
    }
    assert!(!all.is_empty());
    all
}

/// The results of one step: embeddings, the loss, and gradients by name.
struct Found {
    embeddings: Vec<Vec<f32>>,
    loss: f32,
    gradients: Vec<(String, Vec<f32>)>,
}

/// Returns the embeddings times fixed numbers, and all gradients of their sum.
fn step(model: &Model, inputs: &[Input]) -> Found {
    model.params().zero_grad();
    let pass = model.training();
    let parts = inputs.iter().map(|input| model.encode(&pass, input));
    let parts: Vec<Tensor> = parts.collect::<Result<_, _>>().unwrap();
    let mut loss: Option<Tensor> = None;
    for part in &parts {
        let product = (part * tensor(part.dims(), 53)).unwrap().sum_all().unwrap();
        loss = Some(match loss {
            None => product,
            Some(loss) => (loss + product).unwrap(),
        });
    }
    let loss = loss.unwrap();
    model.params().backward(&loss).unwrap();
    let trained = model.params().iter().filter(|param| param.is_trainable());
    Found {
        embeddings: parts.iter().map(flat).collect(),
        loss: loss.to_scalar().unwrap(),
        gradients: trained
            .map(|param| (param.name().to_owned(), param.gradient().unwrap().unwrap()))
            .collect(),
    }
}

fn check_gradients(
    what: &str,
    found: &[(String, Vec<f32>)],
    expected: &[(String, Vec<f32>)],
    limit: f32,
) {
    let lengths = expected.iter().map(|(_, grad)| norm(grad.iter().copied()));
    let largest = lengths.fold(0.0, f32::max);
    assert!(largest > 0.0, "{what}: no gradient");
    assert_eq!(found.len(), expected.len(), "{what}");
    let all = |list: &[(String, Vec<f32>)]| {
        let values = list.iter().flat_map(|(_, grad)| grad.iter().copied());
        values.collect::<Vec<f32>>()
    };
    let together = relative_error(&all(found), &all(expected));
    println!("{what}: all gradients together differ by {together:.1e}");
    assert!(together < limit.min(CLOSE_TOGETHER), "{what}: {together}");
    for ((name, found), (_, expected)) in found.iter().zip(expected) {
        assert_eq!(found.len(), expected.len(), "{what}: {name}");
        let apart = norm(found.iter().zip(expected).map(|(a, b)| a - b));
        let length = norm(expected.iter().copied()).max(1e-3 * largest);
        let error = apart / length;
        assert!(error < limit, "{what}: {name} {error}");
    }
}

fn weights(model: &Model) -> Vec<f32> {
    let values = model.params().iter().map(|param| param.to_vec().unwrap());
    values.flatten().collect()
}

/// Trains with AdamW and a large `eps`, so that weights whose gradients are
/// only rounding errors hardly move.
fn train(model: &Model, inputs: &[Input]) -> Vec<f32> {
    let mut optimizer = Adam::adamw().eps(1e-2).build();
    for _ in 0..4 {
        step(model, inputs);
        optimizer.step(model.params(), 1e-2).unwrap();
    }
    weights(model)
}

#[test]
fn every_architecture_computes_and_learns_alike_on_devices() {
    let mut seen = BTreeSet::new();
    for (name, config, tensors) in cases() {
        let load = || model(&config, tensors.as_ref(), ModelSetup::default());
        let (fused, mut composite) = (load(), load());
        composite.compute_as_on_a_device();
        let inputs = inputs(&fused, &config);
        for input in &inputs {
            let of = |model: &Model| flat(&model.encode(&model.inference(), input).unwrap());
            let error = relative_error(&of(&composite), &of(&fused));
            assert!(error < CLOSE, "{name}: embeddings {error}");
        }
        // Normalising over a handful of values loses digits: PyTorch itself
        // differs by 1e-2 from its own double precision for an EfficientNet.
        let (close, limit) = match config["model_type"].as_str() {
            Some("efficientnet") => (2e-4, 5e-3),
            Some("resnet" | "pointnet2") => (2e-4, 1e-3),
            _ => (CLOSE, CLOSE_GRADIENT),
        };
        let before = weights(&fused);
        let (expected, found) = (step(&fused, &inputs), step(&composite, &inputs));
        for (a, b) in found.embeddings.iter().zip(&expected.embeddings) {
            let error = relative_error(a, b);
            assert!(error < close, "{name}: embeddings in training {error}");
        }
        let sizes = expected.embeddings.concat();
        let apart = (found.loss - expected.loss).abs();
        assert!(
            apart < close * norm(sizes.into_iter()),
            "{name}: loss {apart}"
        );
        check_gradients(&name, &found.gradients, &expected.gradients, limit);

        let (expected, found) = (train(&fused, &inputs), train(&composite, &inputs));
        let way = norm(before.iter().zip(&expected).map(|(a, b)| a - b));
        let apart = norm(found.iter().zip(&expected).map(|(a, b)| a - b));
        assert!(way > 1e-3, "{name}: trained by {way} only");
        let limit = CLOSE_WEIGHTS.max(limit);
        assert!(apart < limit * way, "{name}: {apart} apart after {way}");
        seen.insert(config["model_type"].as_str().unwrap().to_owned());
    }
    let unknown = ModelConfig::parse(&json!({"model_type": "none"})).unwrap_err();
    let unknown = unknown.to_string();
    let known = unknown.split("; ").nth(1).unwrap();
    for name in known.trim_end_matches(" are known").split(", ") {
        // Refused as an unsupported type.
        assert!(
            seen.contains(name) || name == "siglip2",
            "{name} is missing"
        );
    }
}

#[test]
fn gradient_checkpointing_changes_no_gradient() {
    for name in ["bert", "modernbert", "gemma3", "t5", "dinov2", "siglip"] {
        let config = fixture_json(&format!("backbones/{name}.json"));
        let weights = tensors(&format!("backbones/{name}.safetensors"));
        let of = |on: bool| {
            let mut model = model(&config, Some(&weights), ModelSetup::default());
            model.compute_as_on_a_device();
            model.set_gradient_checkpointing(on);
            step(&model, &inputs(&model, &config))
        };
        let (plain, checkpointed) = (of(false), of(true));
        assert_eq!(plain.loss, checkpointed.loss, "{name}");
        check_gradients(name, &checkpointed.gradients, &plain.gradients, 1e-5);
    }
}

#[test]
fn bfloat16_on_a_device_differs_from_32_bits_by_its_rounding() {
    let config = fixture_json("backbones/bert.json");
    let weights = tensors("backbones/bert.safetensors");
    let of = |precision| {
        let mut model = model(&config, Some(&weights), ModelSetup::default());
        model.compute_as_on_a_device();
        model.set_precision(precision);
        let inputs = inputs(&model, &config);
        let still = flat(&model.encode(&model.inference(), &inputs[0]).unwrap());
        (still, step(&model, &inputs))
    };
    let (exact, mixed) = (of(Precision::Float32), of(Precision::Bfloat16));
    // Inference uses 32 bits, whatever the training precision.
    assert_eq!(exact.0, mixed.0);
    let all = |found: &Found| {
        let gradients = found.gradients.iter().flat_map(|(_, grad)| grad.clone());
        gradients.collect::<Vec<f32>>()
    };
    let error = relative_error(&all(&mixed.1), &all(&exact.1));
    assert!(error > 1e-4 && error < 5e-2, "{error}");
}
