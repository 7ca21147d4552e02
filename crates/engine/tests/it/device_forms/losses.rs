//! Compares every loss on devices other than the CPU with the same loss on the CPU.

use candle_core::{DType, Tensor};
use finetuner_engine::{
    loss::{Beside, Criterion, LossSpec, Target},
    models::{Input, Model, ModelSetup},
    optim::Adam,
    params::Params,
    tokenizer::TokenBatch,
};
use finetuner_protocol::Loss;
use serde_json::{Map, Value, json};

use super::{
    CLOSE, CLOSE_GRADIENT, CLOSE_WEIGHTS, Found, check_gradients, inputs, model, numbers, tensor,
    weights,
};
use crate::{
    losses::spec,
    support::{flat, json as fixture_json, relative_error, tensors},
};

/// Largest difference of a gradient from a loss: distances between similar
/// embeddings are differences of larger numbers.
const CLOSE_UNDER_A_LOSS: f32 = 5e-4;

/// The layout of the examples of a loss.
#[derive(Clone, Copy, PartialEq)]
enum Layout {
    /// Examples with labels.
    Labels,
    /// Numbers of members and of scores per example.
    Members(usize, usize),
    /// Pairs that a cross-encoder scores.
    Scored,
}

/// Returns a loss's options and examples, and whether it needs a guide.
fn row(loss: &Loss) -> (Value, Layout, bool) {
    let none = json!({});
    match loss {
        Loss::BinaryCrossEntropy | Loss::Mse => (none, Layout::Scored, false),
        Loss::AnglE | Loss::CoSent | Loss::CosineSimilarity => (none, Layout::Members(2, 1), false),
        Loss::Clip | Loss::SigLip | Loss::VicReg => (none, Layout::Members(2, 0), false),
        Loss::MultipleNegativeRanking | Loss::CachedMultipleNegativesRanking => {
            (none, Layout::Members(3, 0), false)
        }
        Loss::DistillKlDiv | Loss::Gist => (none, Layout::Members(3, 0), true),
        Loss::EmbedDistill => {
            let options = json!({"distance_metric": "l2", "projection_dim": 5});
            (options, Layout::Members(2, 0), true)
        }
        Loss::MarginMse => (none, Layout::Members(4, 2), false),
        Loss::Triplet => (none, Layout::Members(4, 0), false),
        Loss::AdaptiveLayer | Loss::Matryoshka | Loss::Matryoshka2d => {
            let mut options = json!({"loss": "MultipleNegativeRankingLoss"});
            if *loss != Loss::AdaptiveLayer {
                options["matryoshka_dims"] = json!([8, 4]);
            }
            (options, Layout::Members(2, 0), false)
        }
        Loss::CrossBatchMemory => {
            let options = json!({"loss": "NTXentLoss", "memory_size": 20});
            (options, Layout::Labels, false)
        }
        Loss::MultipleLosses => {
            let options = json!({"losses": ["ArcFaceLoss", "NTXentLoss"]});
            (options, Layout::Labels, false)
        }
        _ => (none, Layout::Labels, false),
    }
}

/// Returns a text model, or a text-to-image model for the losses that need one.
fn of_loss(loss: &Loss) -> Model {
    match loss {
        Loss::Clip | Loss::SigLip => {
            let config = fixture_json("tiny-clip/config.json");
            let weights = tensors("tiny-clip/model.safetensors");
            model(&config, Some(&weights), ModelSetup::default())
        }
        _ => {
            let config = fixture_json("backbones/bert.json");
            let weights = tensors("backbones/bert.safetensors");
            model(&config, Some(&weights), ModelSetup::default())
        }
    }
}

/// Returns the texts of a member of eight examples.
fn member(model: &Model, number: usize) -> Input {
    let lengths = vec![5, 2, 12, 3, 11, 4, 1, 12];
    let count: usize = lengths.iter().sum();
    let vocabulary = model.config().vocab_size().unwrap();
    let id = |i: usize| (3 + (i * 7 + number * 11) % (vocabulary - 4)) as u32;
    Input::Texts(TokenBatch::new((0..count).map(id).collect(), lengths))
}

/// Takes some steps with a loss: returns the value and gradients of the first,
/// and the weights after the last.
fn with_loss(loss: &Loss, spec: &LossSpec, as_on_a_device: bool) -> (f64, Found, Vec<f32>) {
    let (_, layout, guided) = row(loss);
    let mut model = of_loss(loss);
    if as_on_a_device {
        model.compute_as_on_a_device();
    }
    let mut criterion = Criterion::new(spec, 3, model.dim(), 0).unwrap();
    let (members, scores) = match layout {
        Layout::Labels => (1, 0),
        Layout::Members(members, scores) => (members, scores),
        Layout::Scored => (1, 1),
    };
    let inputs: Vec<Input> = match loss {
        Loss::Clip | Loss::SigLip => {
            let config = fixture_json("tiny-clip/config.json");
            inputs(&model, &config)
        }
        _ => (0..members).map(|number| member(&model, number)).collect(),
    };
    // From 0 to 1.
    let scores: Vec<f32> = numbers(8 * scores, 41)
        .iter()
        .map(|x| x / 2.0 + 0.5)
        .collect();
    let target = Target {
        labels: &[0, 1, 2, 0, 1, 2, 0, 1],
        scores: &scores,
    };
    let guide: Vec<Tensor> = match guided {
        true => (0..members).map(|n| tensor(&[8, 5], 17 + 2 * n)).collect(),
        false => Vec::new(),
    };
    let has_layers = matches!(loss, Loss::AdaptiveLayer | Loss::Matryoshka2d);
    let mut optimizers = [(); 2].map(|()| Adam::adamw().eps(1e-2).build());
    let mut first = None;
    for number in 0..3 {
        model.params().zero_grad();
        criterion.params().zero_grad();
        let pass = model.training();
        let (mut parts, mut earlier) = (Vec::new(), Vec::new());
        for input in &inputs {
            if has_layers {
                let mut found = model.encode_layers(&pass, input, &[0]).unwrap();
                parts.extend(found.pop());
                earlier.extend(found);
                continue;
            }
            let part = model.encode(&pass, input).unwrap();
            // A cross-encoder has one score per pair.
            parts.push(match layout {
                Layout::Scored => part.narrow(1, 0, 1).unwrap(),
                _ => part,
            });
        }
        let layers = match has_layers {
            true => vec![(0, earlier)],
            false => Vec::new(),
        };
        let beside = Beside {
            guide: &guide,
            layers: &layers,
        };
        let loss = criterion
            .loss_beside(&model, &pass, &parts, beside, target, number, true)
            .unwrap();
        let grads = |params: &Params| {
            let trained = params.iter().filter(|param| param.is_trainable());
            trained
                .map(|param| (param.name().to_owned(), param.gradient().unwrap().unwrap()))
                .collect::<Vec<_>>()
        };
        Params::backward_of([model.params(), criterion.params()], &loss).unwrap();
        if first.is_none() {
            let value = loss
                .to_dtype(DType::F64)
                .unwrap()
                .to_scalar::<f64>()
                .unwrap();
            let mut gradients = grads(model.params());
            gradients.extend(grads(criterion.params()));
            let found = Found {
                embeddings: parts.iter().map(flat).collect(),
                loss: value as f32,
                gradients,
            };
            first = Some((value, found));
        }
        optimizers[0].step(model.params(), 1e-2).unwrap();
        optimizers[1].step(criterion.params(), 1e-2).unwrap();
    }
    let (value, found) = first.unwrap();
    (value, found, weights(&model))
}

#[test]
fn every_loss_is_the_same_on_devices_and_on_the_cpu() {
    let mut compared = 0;
    for loss in Loss::KNOWN {
        let (options, ..) = row(loss);
        let spec = spec(
            loss.as_str(),
            options.as_object().unwrap_or(&Map::new()),
            None,
        );
        if let Err(error) = Criterion::new(&spec, 3, 16, 0) {
            let error = error.to_string();
            assert!(error.contains("is a base class"), "{loss}: {error}");
            continue;
        }
        let (expected_value, expected, expected_weights) = with_loss(loss, &spec, false);
        let (value, found, weights) = with_loss(loss, &spec, true);
        let what = loss.as_str();
        for (a, b) in found.embeddings.iter().zip(&expected.embeddings) {
            let error = relative_error(a, b);
            assert!(error < CLOSE, "{what}: embeddings {error}");
        }
        let apart = (value - expected_value).abs() as f32;
        // A loss near zero is a difference of larger numbers.
        assert!(
            apart < CLOSE_GRADIENT * expected.loss.abs().max(0.1),
            "{what}: {value} and {expected_value}"
        );
        let gradients = (&found.gradients, &expected.gradients);
        check_gradients(what, gradients.0, gradients.1, CLOSE_UNDER_A_LOSS);
        let error = relative_error(&weights, &expected_weights);
        assert!(error < CLOSE_WEIGHTS, "{what}: weights {error} apart");
        compared += 1;
    }
    assert_eq!(compared, 50);
}
