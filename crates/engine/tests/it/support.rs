//! Fixtures, and how far two lists of numbers are apart.

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

/// A model with these weights.
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

/// The length of the difference, as a part of the length that is expected.
pub(crate) fn relative_error(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    let difference = found.iter().zip(expected).map(|(a, b)| a - b);
    norm(difference) / norm(expected.iter().copied()).max(f32::MIN_POSITIVE)
}
