//! Compares every kind of backbone with transformers: embeddings with each pooler, and
//! the gradients of all parameters. The expected values come from
//! `fixtures/make_backbones.py` and `fixtures/make_text_backbones.py`.

use finetuner_engine::{
    Kernels, Pooler,
    models::{Input, Model, ModelConfig, ModelSetup},
    tokenizer::TokenBatch,
};
use serde_json::{Value, json};

use crate::support::{self, Tensors, flat, model, norm, pixels, relative_error, tensor, tensors};

const TEXT: [&str; 14] = [
    "alibi-bert",
    "bert",
    "distilbert",
    "gemma3",
    "gemma3-causal",
    "modernbert",
    "modernbert-biases",
    "mpnet",
    "nomic-bert",
    "qwen3",
    "roberta",
    "t5",
    "t5-gated",
    "xlm-roberta",
];
const IMAGES: [&str; 4] = [
    "resnet",
    "resnet-basic",
    "efficientnet",
    "efficientnet-lite",
];

fn load(name: &str, pooler: Pooler) -> (Model, Tensors) {
    let setup = ModelSetup {
        pooler: Some(pooler),
        ..ModelSetup::default()
    };
    let weights = tensors(&format!("backbones/{name}.safetensors"));
    let config = support::json(&format!("backbones/{name}.json"));
    let values = tensors(&format!("backbones/{name}-values.safetensors"));
    (model(&config, weights, setup), values)
}

/// Returns the texts of a fixture, without their padding.
fn unpadded(values: &Tensors) -> Input {
    let (shape, ids) = &values["input_ids"];
    let lengths: Vec<usize> = values["lengths"].1.iter().map(|n| *n as usize).collect();
    let rows = ids.chunks(shape[1]).zip(&lengths);
    let ids = rows.flat_map(|(row, length)| row[..*length].iter().map(|id| *id as u32));
    Input::Texts(TokenBatch::new(ids.collect(), lengths))
}

fn poolers() -> [(&'static str, Pooler); 4] {
    let gem = Pooler::GeM { p: 3.0, eps: 1e-6 };
    [
        ("mean", Pooler::Mean),
        ("max", Pooler::Max),
        ("cls", Pooler::Cls),
        ("GeM", gem),
    ]
}

/// Compares the gradients of all trainable parameters, for the sum of the
/// embeddings times fixed numbers. `noise` lists parameters without an effect,
/// whose gradients are only rounding errors.
pub(crate) fn check_gradients(
    name: &str,
    model: &Model,
    input: &Input,
    values: &Tensors,
    noise: &[&str],
    limit: f32,
) {
    model.params().zero_grad();
    let found = model.encode(&model.training(), input).unwrap();
    let loss = (found * tensor(&values["cotangent"]))
        .unwrap()
        .sum_all()
        .unwrap();
    model.params().backward(&loss).unwrap();
    let largest = values
        .iter()
        .filter(|(key, _)| key.starts_with("grad."))
        .map(|(_, (_, grad))| norm(grad.iter().copied()))
        .fold(0.0, f32::max);
    let is_noise = |name: &str| noise.iter().any(|part| name.ends_with(part));
    let mut compared = 0;
    for param in model.params().iter().filter(|p| p.is_trainable()) {
        let expected = &values[&format!("grad.{}", param.name())].1;
        let found = param.grad().unwrap();
        if is_noise(param.name()) {
            assert!(norm(found.iter().copied()) < 1e-4 * largest);
        } else {
            let difference = found.iter().zip(expected).map(|(a, b)| a - b);
            let length = norm(expected.iter().copied()).max(1e-3 * largest);
            let error = norm(difference) / length;
            assert!(error < limit, "{name}: {} {error}", param.name());
        }
        compared += 1;
    }
    let in_fixture = values.keys().filter(|key| key.starts_with("grad.")).count();
    assert_eq!(compared, in_fixture, "{name}: a parameter gets no gradient");
}

#[test]
fn text_embeddings_equal_those_of_transformers_with_every_pooler() {
    for name in TEXT {
        for (pooler_name, pooler) in poolers() {
            for kernels in [Kernels::Fused, Kernels::Composite] {
                let (mut model, values) = load(name, pooler);
                model.set_kernels(kernels);
                let found = model
                    .encode(&model.inference(), &unpadded(&values))
                    .unwrap();
                let error = relative_error(&flat(&found), &values[pooler_name].1);
                assert!(error < 1e-5, "{name} {pooler_name} {kernels:?}: {error}");
            }
        }
    }
}

#[test]
fn the_embedding_of_a_long_text_equals_that_of_transformers() {
    let mut compared = 0;
    for name in TEXT {
        for kernels in [Kernels::Fused, Kernels::Composite] {
            let (mut model, values) = load(name, Pooler::Mean);
            let Some((_, ids)) = values.get("long_ids") else {
                continue;
            };
            model.set_kernels(kernels);
            let ids: Vec<u32> = ids.iter().map(|id| *id as u32).collect();
            let length = ids.len();
            let input = Input::Texts(TokenBatch::uniform(ids, length));
            let found = model.encode(&model.inference(), &input).unwrap();
            let error = relative_error(&flat(&found), &values["long"].1);
            assert!(error < 1e-5, "{name} {kernels:?}: {error}");
            compared += 1;
        }
    }
    assert_eq!(compared, 2 * 9);
}

#[test]
fn an_unsupported_text_model_is_refused_by_its_field() {
    for (config, part) in [
        (
            json!({"model_type": "bert", "position_embedding_type": "relative_key"}),
            "`relative_key`",
        ),
        (
            json!({"model_type": "bert", "position_embedding_type": "alibi"}),
            "`feed_forward_type` is `original`",
        ),
        (
            json!({"model_type": "roberta", "hidden_size": 10}),
            "`hidden_size` 10",
        ),
        (
            json!({"model_type": "roberta", "max_position_embeddings": 2}),
            "`max_position_embeddings` is 2",
        ),
        (
            json!({"model_type": "mpnet", "relative_attention_num_buckets": 16}),
            "`relative_attention_num_buckets` is 16",
        ),
        (
            json!({"model_type": "mpnet", "hidden_act": "mish"}),
            "the activation `mish` is unknown",
        ),
        (
            json!({"model_type": "t5", "feed_forward_proj": "gated-mish"}),
            "`mish`",
        ),
        (
            json!({"model_type": "t5", "relative_attention_max_distance": 8}),
            "`relative_attention_max_distance` 8",
        ),
        (
            json!({"model_type": "modernbert", "layer_types": ["full_attention"]}),
            "`layer_types` has 1 layers",
        ),
        (
            json!({"model_type": "modernbert", "rope_scaling": {"type": "linear"}}),
            "`rope_scaling`",
        ),
        (
            json!({"model_type": "t5", "is_decoder": true}),
            "`is_decoder` is true",
        ),
        (
            json!({"model_type": "xlm-roberta", "is_decoder": true}),
            "`is_decoder` is true",
        ),
        (
            json!({"model_type": "nomic_bert", "rope_scaling": {"type": "linear"}}),
            "`rope_scaling`",
        ),
        (
            json!({"model_type": "nomic_bert", "prenorm": true}),
            "`prenorm` is true",
        ),
        (
            json!({"model_type": "nomic_bert", "rotary_emb_fraction": 0.5}),
            "`rotary_emb_fraction` is 0.5",
        ),
        (
            json!({"model_type": "nomic_bert", "rope_parameters": {"rope_type": "yarn"}}),
            "`rope_type` is `yarn`",
        ),
        (
            json!({"model_type": "qwen3", "num_key_value_heads": 5}),
            "`num_attention_heads` is 32",
        ),
        (
            json!({"model_type": "qwen3", "head_dim": 5}),
            "attention heads have 5 elements",
        ),
        (
            json!({"model_type": "gemma3_text", "attn_logit_softcapping": 50.0}),
            "`attn_logit_softcapping` is 50",
        ),
        (
            json!({"model_type": "gemma3_text", "rope_theta": 0.0}),
            "`rope_theta` is 0",
        ),
    ] {
        let error = ModelConfig::parse(&config).unwrap_err().to_string();
        assert!(error.contains(part), "{config}: {error}");
    }
}

#[test]
fn the_parts_of_a_feed_forward_field_override_it() {
    let names = |config: Value| {
        let tensors = ModelConfig::parse(&config).unwrap().tensors();
        tensors
            .into_iter()
            .map(|(name, _)| name)
            .collect::<Vec<_>>()
    };
    let gated = names(json!({"model_type": "t5", "feed_forward_proj": "gated-gelu"}));
    assert_eq!(
        gated,
        names(json!({"model_type": "t5", "is_gated_act": true}))
    );
    let plain =
        json!({"model_type": "t5", "feed_forward_proj": "gated-gelu", "is_gated_act": false});
    assert_eq!(names(plain), names(json!({"model_type": "t5"})));
}

#[test]
fn position_tables_with_a_padding_row_hold_fewer_positions() {
    for (config, expected) in [
        (json!({"model_type": "bert"}), 512),
        (
            json!({"model_type": "xlm-roberta", "max_position_embeddings": 514}),
            512,
        ),
        (
            json!({"model_type": "roberta", "max_position_embeddings": 514, "pad_token_id": 3}),
            510,
        ),
        (
            json!({"model_type": "mpnet", "max_position_embeddings": 514}),
            512,
        ),
        (json!({"model_type": "t5"}), 512),
        (json!({"model_type": "modernbert"}), 8192),
    ] {
        let found = ModelConfig::parse(&config).unwrap().max_tokens();
        assert_eq!(found, Some(expected), "{config}");
    }
}

#[test]
fn gradients_of_text_models_equal_those_of_pytorch() {
    for name in TEXT {
        let (model, values) = load(name, Pooler::Mean);
        let noise = ["key.bias", "k_lin.bias", "attn.k.bias"];
        check_gradients(name, &model, &unpadded(&values), &values, &noise, 1e-4);
    }
}

#[test]
fn image_embeddings_equal_those_of_transformers() {
    for name in IMAGES {
        for (pooler_name, pooler) in poolers() {
            if ["max", "cls"].contains(&pooler_name) {
                continue;
            }
            let (model, values) = load(name, pooler);
            let found = model.encode(&model.inference(), &pixels(&values)).unwrap();
            let error = relative_error(&flat(&found), &values[pooler_name].1);
            assert!(error < 1e-5, "{name} {pooler_name}: {error}");
        }
    }
}

#[test]
fn gradients_of_convolutional_networks_equal_those_of_pytorch() {
    for name in IMAGES {
        let (model, values) = load(name, Pooler::Mean);
        let trained = model.encode(&model.training(), &pixels(&values)).unwrap();
        let error = relative_error(&flat(&trained), &values["trained"].1);
        assert!(error < 1e-4, "{name}: {error}");
        let (model, values) = load(name, Pooler::Mean);
        // A shift before the next normalisation has no effect.
        // Normalising over a handful of values loses digits: PyTorch itself
        // differs by 1e-2 from its own double precision, which the fixture has.
        let (noise, limit): (&[&str], f32) = match name.starts_with("efficientnet") {
            true => (&["project_bn.bias"], 1e-3),
            false => (&[], 1e-4),
        };
        check_gradients(name, &model, &pixels(&values), &values, noise, limit);
    }
}
