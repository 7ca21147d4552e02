//! Inference: results do not depend on the batch, and 8-bit results are close to exact
//! ones.

use candle_core::Tensor;
use finetuner_engine::{
    evaluation::cos_sim,
    infer::{Embeddings, Encoder},
};

use crate::support::fixture;

/// Returns texts of very different lengths.
fn texts() -> Vec<String> {
    let words = [
        "red", "dress", "of", "cotton", "with", "long", "sleeves", "shoe",
    ];
    (0..40)
        .map(|i| {
            let count = 1 + i * 7 % 60;
            let word = |j: usize| words[(i * 3 + j * j) % words.len()];
            (0..count).map(word).collect::<Vec<_>>().join(" ")
        })
        .collect()
}

fn images() -> Vec<Vec<u8>> {
    let files = std::fs::read_dir(fixture("pictures")).unwrap();
    let mut paths: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    paths.sort();
    let readable = paths.iter().map(|path| std::fs::read(path).unwrap());
    readable
        .filter(|bytes| image::load_from_memory(bytes).is_ok())
        .take(5)
        .collect()
}

fn encode_texts(encoder: &Encoder, texts: &[String]) -> Embeddings {
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    encoder.encode_texts(&texts).unwrap()
}

fn encode_images(encoder: &Encoder, images: &[Vec<u8>]) -> Embeddings {
    let images: Vec<&[u8]> = images.iter().map(Vec::as_slice).collect();
    encoder.encode_images(&images).unwrap()
}

#[test]
fn embeddings_of_texts_do_not_depend_on_the_batch() {
    let texts = texts();
    for int8 in [false, true] {
        for name in ["minilm-small", "clip-small"] {
            let mut encoder = Encoder::from_backbone(name).unwrap().batch_size(16);
            if int8 {
                encoder = encoder.quantized();
            }
            let texts: Vec<String> = match name {
                "clip-small" => texts.iter().filter(|t| t.len() < 60).cloned().collect(),
                _ => texts.clone(),
            };
            let all = encode_texts(&encoder, &texts);
            for (i, text) in texts.iter().enumerate().step_by(5) {
                let alone = encode_texts(&encoder, std::slice::from_ref(text));
                assert_eq!(alone.values, all.get(i), "{name}, int8 {int8}: {text}");
            }
        }
    }
}

#[test]
fn embeddings_of_images_do_not_depend_on_the_batch() {
    let images = images();
    assert!(images.len() > 2);
    for name in ["efficientnet-small", "clip-small"] {
        let encoder = Encoder::from_backbone(name).unwrap();
        let all = encode_images(&encoder, &images);
        for (i, image) in images.iter().enumerate() {
            let alone = encode_images(&encoder, std::slice::from_ref(image));
            assert_eq!(alone.values, all.get(i), "{name}: {i}");
        }
    }
}

#[test]
fn embeddings_in_8_bits_are_close_to_exact_ones() {
    let (texts, images) = (texts(), images());
    for name in ["minilm-small", "clip-small", "efficientnet-small"] {
        let exact = Encoder::from_backbone(name).unwrap();
        let rounded = Encoder::from_backbone(name).unwrap().quantized();
        let encode = |encoder: &Encoder| match name {
            "minilm-small" => encode_texts(encoder, &texts),
            _ => encode_images(encoder, &images),
        };
        let (exact, rounded) = (encode(&exact), encode(&rounded));
        assert_ne!(exact, rounded, "{name}");
        for (i, (a, b)) in exact.iter().zip(rounded.iter()).enumerate() {
            let similarity = cos_sim(a, b);
            // Depthwise convolutions have larger outliers than transformers.
            let least = if name == "efficientnet-small" {
                0.98
            } else {
                0.99
            };
            assert!(similarity > least, "{name}: {i}: {similarity}");
        }
    }
}

#[test]
fn changed_weights_change_the_next_embedding() {
    use finetuner_engine::{
        models::{Input, ModelSetup},
        params::RawTensor,
        tokenizer::TokenBatch,
    };
    let config = serde_json::json!({
        "model_type": "bert", "vocab_size": 20, "hidden_size": 8, "num_hidden_layers": 1,
        "num_attention_heads": 2, "intermediate_size": 16, "max_position_embeddings": 8,
    });
    let parsed = finetuner_engine::models::ModelConfig::parse(&config).unwrap();
    let weights = parsed.random_weights(1);
    let model = crate::support::model(&config, weights, ModelSetup::default());
    let input = Input::Texts(TokenBatch::uniform(vec![3, 5, 7], 3));
    for int8 in [false, true] {
        let embed = || -> Vec<f32> {
            let found: Tensor = model
                .encode(&model.inference().with_int8(int8), &input)
                .unwrap();
            crate::support::flat(&found)
        };
        let before = embed();
        assert_eq!(before, embed());
        let kept: std::collections::HashMap<String, RawTensor> = model.params().snapshot().unwrap();
        for param in model.params().iter().filter(|p| p.name().contains("dense")) {
            param
                .update(|values| values.iter_mut().for_each(|v| *v = -*v))
                .unwrap();
        }
        assert_ne!(before, embed());
        model.params().restore(&kept).unwrap();
        assert_eq!(before, embed());
    }
}

#[test]
fn truncated_embeddings_are_the_first_dimensions_at_length_1() {
    let texts = texts();
    let whole = Encoder::from_backbone("minilm-small").unwrap();
    let cut = Encoder::from_backbone("minilm-small").unwrap();
    let cut = cut.truncate_dim(32).unwrap();
    assert_eq!(cut.dim(), 32);
    let expected = encode_texts(&whole, &texts).truncated(32).unwrap();
    assert_eq!(encode_texts(&cut, &texts), expected);
    assert!(whole.truncate_dim(0).is_err());
}
