//! The CLIP model, its loss, the optimizers and the picture processor against
//! PyTorch and transformers, by the fixtures of `fixtures/make_clip.py`.
#![allow(clippy::unwrap_used)]

use std::{collections::HashMap, path::PathBuf};

use candle_core::{Device, Tensor};
use finetuner_engine::{
    Kernels,
    image::ImageProcessor,
    loss::clip_loss,
    models::{Clip, ClipConfig},
    optim::{Adam, Optimizer},
    params::{RawTensor, parse_safetensors},
    tokenizer::TokenBatch,
};
use serde_json::Value;

type Tensors = HashMap<String, RawTensor>;

fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures")
        .join(name)
}

fn tensors(name: &str) -> Tensors {
    parse_safetensors(&std::fs::read(fixture(name)).unwrap(), name).unwrap()
}

/// The tiny CLIP, with a `config.json` that `change` has rewritten.
fn tiny_clip(kernels: Kernels, change: impl Fn(&mut Value)) -> Clip {
    let json = std::fs::read(fixture("tiny-clip/config.json")).unwrap();
    let mut json: Value = serde_json::from_slice(&json).unwrap();
    change(&mut json);
    let config = ClipConfig::parse(&json).unwrap();
    let mut model =
        Clip::new(config, tensors("tiny-clip/model.safetensors"), &Device::Cpu).unwrap();
    model.set_kernels(kernels);
    model
}

fn texts(tensors: &Tensors) -> TokenBatch {
    let (shape, ids) = &tensors["input_ids"];
    TokenBatch {
        ids: ids.iter().map(|id| *id as u32).collect(),
        seq: shape[1],
    }
}

fn pixels(tensors: &Tensors) -> Tensor {
    let (shape, values) = &tensors["pixel_values"];
    Tensor::from_slice(values, shape.as_slice(), &Device::Cpu).unwrap()
}

fn flat(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

fn norm(values: impl Iterator<Item = f32>) -> f32 {
    values.map(|x| x * x).sum::<f32>().sqrt()
}

/// The length of the difference, as a part of the length that is expected.
fn relative_error(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    let difference = found.iter().zip(expected).map(|(a, b)| a - b);
    norm(difference) / norm(expected.iter().copied())
}

const BOTH: [Kernels; 2] = [Kernels::Fused, Kernels::Composite];

#[test]
fn embeddings_loss_and_gradients_are_those_of_transformers() {
    let given = tensors("clip-quick-gelu.safetensors");
    for activation in ["quick_gelu", "gelu"] {
        let expected = tensors(&format!(
            "clip-{}.safetensors",
            activation.replace('_', "-")
        ));
        for kernels in BOTH {
            let model = tiny_clip(kernels, |json| {
                json["text_config"]["hidden_act"] = activation.into();
                json["vision_config"]["hidden_act"] = activation.into();
            });
            let pass = model.training();
            let image = model.encode_images(&pass, &pixels(&given)).unwrap();
            let text = model.encode_texts(&pass, &texts(&given)).unwrap();
            for (name, found) in [("image_embeds", &image), ("text_embeds", &text)] {
                let error = relative_error(&flat(found), &expected[name].1);
                assert!(error < 1e-5, "{activation} {kernels:?}: {name} {error}");
            }
            let loss = clip_loss(&model, &pass, &text, &image).unwrap();
            let error = relative_error(&flat(&loss), &expected["loss"].1);
            assert!(error < 1e-6, "{activation} {kernels:?}: loss {error}");

            model.params().backward(&loss).unwrap();
            let mut compared = 0;
            for param in model.params().iter() {
                let expected = &expected[&format!("grad.{}", param.name())].1;
                let found = param.grad().unwrap();
                // Attention does not change with the bias of the keys, whose
                // gradient is rounding noise on both sides.
                if param.name().ends_with("k_proj.bias") {
                    assert!(norm(found.iter().copied()) < 1e-6);
                    continue;
                }
                let error = relative_error(&found, expected);
                assert!(
                    error < 1e-4,
                    "{activation} {kernels:?}: {} {error}",
                    param.name()
                );
                compared += 1;
            }
            let in_fixture = expected.keys().filter(|k| k.starts_with("grad.")).count();
            assert_eq!(compared + 4, in_fixture);
        }
    }
}

#[test]
fn the_token_2_as_end_of_text_stands_for_the_highest_id() {
    let expected = tensors("clip-legacy-eos.safetensors");
    let model = tiny_clip(Kernels::Fused, |json| {
        json["text_config"]["eos_token_id"] = 2.into();
    });
    let found = model
        .encode_texts(&model.inference(), &texts(&expected))
        .unwrap();
    let error = relative_error(&flat(&found), &expected["text_embeds"].1);
    assert!(error < 1e-5, "{error}");
}

#[test]
fn ten_steps_lose_what_pytorch_loses() {
    let expected = tensors("clip-quick-gelu.safetensors");
    let optimizers = [
        ("adam", Adam::new()),
        ("adam_l2", Adam::new().weight_decay(0.1)),
        ("adamw", Adam::adamw().betas(0.8, 0.95).weight_decay(0.2)),
    ];
    for (name, mut optimizer) in optimizers {
        let model = tiny_clip(Kernels::Fused, |_| {});
        let losses: Vec<f32> = (0..10)
            .map(|_| step(&model, &mut optimizer, &expected))
            .collect();
        let expected = &expected[name].1;
        assert!(expected[9] < expected[0], "{name}: nothing was learned");
        for (found, expected) in losses.iter().zip(expected) {
            assert!(
                (found - expected).abs() < 1e-4 * expected,
                "{name}: {losses:?}"
            );
        }
    }
}

fn step(model: &Clip, optimizer: &mut Adam, batch: &Tensors) -> f32 {
    model.params().zero_grad();
    let pass = model.training();
    let image = model.encode_images(&pass, &pixels(batch)).unwrap();
    let text = model.encode_texts(&pass, &texts(batch)).unwrap();
    let loss = clip_loss(model, &pass, &text, &image).unwrap();
    model.params().backward(&loss).unwrap();
    optimizer.step(model.params(), 1e-3).unwrap();
    loss.to_scalar().unwrap()
}

#[test]
fn pictures_become_what_the_clip_processor_makes_of_them() {
    let processor = ImageProcessor::clip(24);
    let expected = tensors("pixels.safetensors");
    assert_eq!(expected.len(), 8);
    // One of 255 levels, in units of a channel's standard deviation.
    let level = 1.0 / 255.0 / 0.26;
    for (name, (_, expected)) in expected {
        let picture = std::fs::read(fixture("pictures").join(&name)).unwrap();
        let mut found = vec![0.0; processor.values()];
        processor.process(&picture, None, &mut found).unwrap();
        let off: Vec<f32> = found
            .iter()
            .zip(&expected)
            .map(|(a, b)| (a - b).abs() / level)
            .collect();
        let worst = off.iter().copied().fold(0.0, f32::max);
        let mean = off.iter().sum::<f32>() / off.len() as f32;
        // Decoders of JPEG round differently, and Pillow, which rounds in
        // between, scales some tall pictures down first and then across.
        assert!(worst < 2.1 && mean < 0.4, "{name}: {worst} {mean}");
    }
}
