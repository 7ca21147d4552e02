//! Compares the CLIP model, its loss, the optimizers and the image processor with
//! PyTorch and transformers. The expected values come from `fixtures/make_clip.py`.

use finetuner_engine::{
    Kernels,
    image::ImageProcessor,
    loss::clip_loss,
    models::{Model, ModelSetup},
    optim::{Adam, Optimizer},
};
use serde_json::Value;

use crate::support::{
    Tensors, fixture, flat, json, model, norm, pixels, relative_error, tensors, texts,
};

/// Returns the tiny CLIP, with a `config.json` changed by `change`.
fn tiny_clip(kernels: Kernels, change: impl Fn(&mut Value)) -> Model {
    let mut json = json("tiny-clip/config.json");
    change(&mut json);
    let tensors = tensors("tiny-clip/model.safetensors");
    let mut model = model(&json, tensors, ModelSetup::default());
    model.set_kernels(kernels);
    model
}

const BOTH: [Kernels; 2] = [Kernels::Fused, Kernels::Composite];

#[test]
fn embeddings_loss_and_gradients_equal_those_of_transformers() {
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
            let image = model.encode(&pass, &pixels(&given)).unwrap();
            let text = model.encode(&pass, &texts(&given)).unwrap();
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
                // The bias of the keys has no effect on attention, so its
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
fn the_end_of_text_token_2_means_the_highest_id() {
    let expected = tensors("clip-legacy-eos.safetensors");
    let model = tiny_clip(Kernels::Fused, |json| {
        json["text_config"]["eos_token_id"] = 2.into();
    });
    let found = model.encode(&model.inference(), &texts(&expected)).unwrap();
    let error = relative_error(&flat(&found), &expected["text_embeds"].1);
    assert!(error < 1e-5, "{error}");
}

#[test]
fn ten_steps_have_the_losses_of_pytorch() {
    let expected = tensors("clip-quick-gelu.safetensors");
    let optimizers = [
        ("adam", Adam::new().build()),
        ("adam_l2", Adam::new().weight_decay(0.1).build()),
        (
            "adamw",
            Adam::adamw().betas(0.8, 0.95).weight_decay(0.2).build(),
        ),
    ];
    for (name, mut optimizer) in optimizers {
        let model = tiny_clip(Kernels::Fused, |_| {});
        let losses: Vec<f32> = (0..10)
            .map(|_| step(&model, optimizer.as_mut(), &expected))
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

fn step(model: &Model, optimizer: &mut dyn Optimizer, batch: &Tensors) -> f32 {
    model.params().zero_grad();
    let pass = model.training();
    let image = model.encode(&pass, &pixels(batch)).unwrap();
    let text = model.encode(&pass, &texts(batch)).unwrap();
    let loss = clip_loss(model, &pass, &text, &image).unwrap();
    model.params().backward(&loss).unwrap();
    optimizer.step(model.params(), 1e-3).unwrap();
    loss.to_scalar().unwrap()
}

#[test]
fn images_are_prepared_like_by_the_clip_processor() {
    let processor = ImageProcessor::clip(24);
    let expected = tensors("pixels.safetensors");
    assert_eq!(expected.len(), 8);
    // One of 255 levels, in units of a channel's standard deviation.
    let level = 1.0 / 255.0 / 0.26;
    for (name, (_, expected)) in expected {
        let image = std::fs::read(fixture("pictures").join(&name)).unwrap();
        let mut found = vec![0.0; processor.values()];
        processor.process(&image, None, &mut found).unwrap();
        let off: Vec<f32> = found
            .iter()
            .zip(&expected)
            .map(|(a, b)| (a - b).abs() / level)
            .collect();
        let worst = off.iter().copied().fold(0.0, f32::max);
        let mean = off.iter().sum::<f32>() / off.len() as f32;
        // JPEG decoders round differently; everything else is equal.
        let (most, usual) = if name.ends_with("jpg") {
            (2.1, 0.4)
        } else {
            (1e-4, 1e-5)
        };
        assert!(worst < most && mean < usual, "{name}: {worst} {mean}");
    }
}

#[test]
fn the_field_names_of_2022_are_read_as_in_transformers() {
    let given = tensors("clip-quick-gelu.safetensors");
    let expected = tiny_clip(Kernels::Fused, |_| {});
    let expected = flat(
        &expected
            .encode(&expected.inference(), &texts(&given))
            .unwrap(),
    );
    let null = |json: &mut Value| {
        for tower in ["text_config", "vision_config"] {
            json[format!("{tower}_dict")] = json[tower].take();
        }
    };
    let wrong = |json: &mut Value| {
        json["text_config_dict"] = json["text_config"].clone();
        json["text_config"]["num_attention_heads"] = 1.into();
        json["vision_config_dict"] = Value::Null;
    };
    // A field that the old name lacks has its default, whatever the new name
    // says.
    let default = |json: &mut Value| {
        json["text_config_dict"] = json["text_config"].clone();
        json["text_config"]["hidden_act"] = "gelu".into();
        if let Some(old) = json["text_config_dict"].as_object_mut() {
            old.remove("hidden_act");
        }
    };
    let changes: [&dyn Fn(&mut Value); 3] = [&null, &wrong, &default];
    for change in changes {
        let model = tiny_clip(Kernels::Fused, change);
        let found = model.encode(&model.inference(), &texts(&given)).unwrap();
        assert_eq!(flat(&found), expected);
    }
}
