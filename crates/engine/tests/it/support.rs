//! Fixtures, and comparisons of lists of numbers.

use std::{collections::HashMap, path::PathBuf};

use candle_core::{Device, Tensor};
use finetuner_engine::{
    models::{Input, Model, ModelConfig, ModelSetup},
    params::{RawTensor, parse_safetensors},
    tokenizer::TokenBatch,
};
use serde_json::Value;

pub(crate) type Tensors = HashMap<String, RawTensor>;

pub(crate) fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures")
        .join(name)
}

pub(crate) fn tensors(name: &str) -> Tensors {
    parse_safetensors(&std::fs::read(fixture(name)).unwrap(), name).unwrap()
}

pub(crate) fn json(name: &str) -> Value {
    serde_json::from_slice(&std::fs::read(fixture(name)).unwrap()).unwrap()
}

/// Builds a model with these weights.
pub(crate) fn model(config: &Value, tensors: Tensors, setup: ModelSetup) -> Model {
    let config = ModelConfig::parse(config).unwrap();
    Model::new(config, tensors, setup, &Device::Cpu).unwrap()
}

pub(crate) fn texts(tensors: &Tensors) -> Input {
    let (shape, ids) = &tensors["input_ids"];
    let ids = ids.iter().map(|id| *id as u32).collect();
    Input::Texts(TokenBatch::uniform(ids, shape[1]))
}

pub(crate) fn pixels(tensors: &Tensors) -> Input {
    Input::Images(tensor(&tensors["pixel_values"]))
}

pub(crate) fn tensor((shape, values): &RawTensor) -> Tensor {
    Tensor::from_slice(values, shape.as_slice(), &Device::Cpu).unwrap()
}

pub(crate) fn flat(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

pub(crate) fn norm(values: impl Iterator<Item = f32>) -> f32 {
    values.map(|x| x * x).sum::<f32>().sqrt()
}

/// Returns the norm of the difference, relative to the expected norm.
pub(crate) fn relative_error(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    let difference = found.iter().zip(expected).map(|(a, b)| a - b);
    norm(difference) / norm(expected.iter().copied()).max(f32::MIN_POSITIVE)
}

/// Checks that embeddings equal those of the fixture, and prints the difference
/// for `docs/measurements.md`.
pub(crate) fn embeddings_agree(case: &str, found: &Tensor, expected: &[f32]) {
    let error = relative_error(&flat(found), expected);
    println!("{case}: embeddings differ by {error:.1e}");
    assert!(error < 1e-5, "{case}: {error}");
}

/// Compares the gradients of `loss` for all parameters with `grad.{name}` of
/// the fixture, and prints the largest difference.
pub(crate) fn gradients_agree(case: &str, model: &Model, loss: &Tensor, values: &Tensors) {
    model.params().zero_grad();
    model.params().backward(loss).unwrap();
    let of_fixture = |name: &str| values.get(&format!("grad.{name}")).map(|(_, grad)| grad);
    let lengths = values.iter().filter(|(key, _)| key.starts_with("grad."));
    let lengths = lengths.map(|(_, (_, grad))| norm(grad.iter().copied()));
    let largest = lengths.fold(0.0, f32::max);
    let (mut compared, mut worst) = (0, 0.0_f32);
    for param in model.params().iter().filter(|p| p.is_trainable()) {
        let Some(expected) = of_fixture(param.name()) else {
            // The scale belongs only to the loss.
            assert_eq!(param.name(), "logit_scale", "{case}");
            continue;
        };
        let found = param.grad().unwrap();
        let difference = found.iter().zip(expected).map(|(a, b)| a - b);
        // The bias of the keys has no effect: its gradient is rounding error.
        let length = norm(expected.iter().copied()).max(1e-3 * largest);
        let error = norm(difference) / length;
        assert!(error < 1e-4, "{case}: {} {error}", param.name());
        (compared, worst) = (compared + 1, worst.max(error));
    }
    println!("{case}: {compared} gradients differ by at most {worst:.1e}");
    let in_fixture = values.keys().filter(|key| key.starts_with("grad.")).count();
    assert_eq!(compared, in_fixture, "{case}: a parameter gets no gradient");
}
