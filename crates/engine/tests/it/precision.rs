//! Compares training in bfloat16 with training in 32 bits.

use candle_core::{Device, Tensor};
use finetuner_engine::{
    Precision,
    loss::clip_loss,
    models::{Input, Model, ModelConfig, ModelSetup},
    source::ModelSource,
    tokenizer::TokenBatch,
};
use serde_json::json;

use crate::support::{flat, json, model, relative_error};

/// Returns `n` pseudorandom numbers from -1 to 1.
fn numbers(n: usize) -> Vec<f32> {
    (0..n).map(|i| (i * 31 % 101) as f32 / 50.0 - 1.0).collect()
}

fn images(batch: usize, side: usize) -> Input {
    let shape = (batch, 3, side, side);
    let pixels = Tensor::from_vec(numbers(batch * 3 * side * side), shape, &Device::Cpu);
    Input::Images(pixels.unwrap())
}

/// The `eos_token_id` of `clip-small`.
const END_OF_TEXT: u32 = 1;

/// Returns `clip-small` and the batch of `fixtures/make_precision.py`.
fn clip() -> (Model, [Input; 2]) {
    let files = ModelSource::Bundled("clip-small").read().unwrap();
    let loaded = files.load(&Default::default(), &Device::Cpu).unwrap();
    let config = loaded.model.config();
    let (vocabulary, side) = (config.vocab_size().unwrap(), config.image_size().unwrap());
    let (batch, tokens) = (8, 16);
    let id = |i: usize| match i % tokens {
        position if position + 1 == tokens => END_OF_TEXT,
        _ => (3 + i * 37 % (vocabulary - 10)) as u32,
    };
    let texts = TokenBatch::uniform((0..batch * tokens).map(id).collect(), tokens);
    let inputs = [Input::Texts(texts), images(batch, side)];
    (loaded.model, inputs)
}

/// Returns the loss and all gradients of a step in a precision.
fn step(
    model: &mut Model,
    precision: Precision,
    loss: impl Fn(&Model) -> Tensor,
) -> (f32, Vec<f32>) {
    model.set_precision(precision);
    model.params().zero_grad();
    let loss = loss(model);
    model.params().backward(&loss).unwrap();
    let gradients = model.params().iter().filter_map(|p| p.grad());
    let gradients = gradients.flat_map(|grad| grad.clone()).collect();
    (loss.to_scalar().unwrap(), gradients)
}

/// Checks that the loss in 32 bits equals that of the fixture, and that
/// gradients in bfloat16 differ from those in 32 bits as little as PyTorch's,
/// or not at all if the CPU lacks the instructions.
fn compare(model: &mut Model, name: &str, loss: impl Fn(&Model) -> Tensor) {
    let fixture = json("precision.json");
    let expected = |part: &str| fixture[name][part].as_f64().unwrap() as f32;
    let (exact_loss, exact) = step(model, Precision::Float32, &loss);
    let (_, mixed) = step(model, Precision::Bfloat16, &loss);
    assert!((exact_loss - expected("loss")).abs() < 1e-4, "{exact_loss}");
    let (error, autocast) = (relative_error(&mixed, &exact), expected("error"));
    if Precision::Bfloat16.is_available() {
        let near = 0.1 * autocast..1.5 * autocast;
        assert!(near.contains(&error), "{error}, PyTorch {autocast}");
    } else {
        assert_eq!(error, 0.0);
    }
}

#[test]
fn bfloat16_gradients_of_a_clip_are_as_accurate_as_those_of_autocast() {
    let (mut model, [texts, images]) = clip();
    compare(&mut model, "clip", |model| {
        let pass = model.training();
        let texts = model.encode(&pass, &texts).unwrap();
        let images = model.encode(&pass, &images).unwrap();
        clip_loss(model, &pass, &texts, &images).unwrap()
    });
}

#[test]
fn bfloat16_gradients_of_a_resnet_are_as_accurate_as_those_of_autocast() {
    let config = json!({
        "model_type": "resnet", "embedding_size": 64, "hidden_sizes": [64], "depths": [1],
        "layer_type": "basic",
    });
    // Norms have their initial weights; the kernels are those of the fixture's
    // model.
    let mut weights = ModelConfig::parse(&config).unwrap().random_weights(0);
    for (shape, data) in weights.values_mut().filter(|(shape, _)| shape.len() == 4) {
        let scale = 1.0 / (data.len() as f32 / shape[0] as f32).sqrt();
        *data = numbers(data.len()).iter().map(|x| x * scale).collect();
    }
    let mut model = model(&config, weights, ModelSetup::default());
    compare(&mut model, "resnet", |model| {
        let out = model.encode(&model.training(), &images(2, 64)).unwrap();
        let weights = Tensor::from_vec(numbers(out.elem_count()), out.shape(), &Device::Cpu);
        (out * weights.unwrap()).unwrap().sum_all().unwrap()
    });
}

#[test]
fn inference_uses_32_bits_whatever_the_training_precision() {
    let (mut model, [texts, _]) = clip();
    let mut embed = |precision| {
        model.set_precision(precision);
        flat(&model.encode(&model.inference(), &texts).unwrap())
    };
    assert_eq!(embed(Precision::Float32), embed(Precision::Bfloat16));
}
