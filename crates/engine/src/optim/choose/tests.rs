//! Compares optimizers and schedules with those of PyTorch.

use candle_core::Tensor;
use finetuner_protocol::{Scheduler, SchedulerOptions};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::*;
use crate::{
    optim::{ScheduleSpec, clip_gradients, not_finite},
    params::{Param, Params},
};

/// Written by `tests/fixtures/make_optimizers.py`.
#[derive(Deserialize)]
struct Fixture {
    start: Vec<f32>,
    grads: Vec<Vec<f32>>,
    learning_rate: f64,
    optimizers: Vec<Case>,
    schedules: Vec<Rates>,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    options: Map<String, Value>,
    values: Vec<Vec<f32>>,
}

#[derive(Deserialize)]
struct Rates {
    name: String,
    warmup: u64,
    options: Map<String, Value>,
    rates: Vec<f64>,
}

fn fixture() -> Fixture {
    serde_json::from_str(include_str!("../../../tests/fixtures/optimizers.json")).unwrap()
}

fn spec(name: &str, options: Map<String, Value>) -> OptimizerSpec {
    OptimizerSpec {
        name: Name::from(name),
        options: Some(Options::from(options)),
        fields: ["optimizer", "optimizer_options"],
    }
}

fn params(start: &[f32]) -> Params {
    Params::of(vec![
        Param::trainable("p", vec![start.len()], start.to_vec()).unwrap(),
    ])
}

/// Parameters whose gradients are tensors, as on a device.
fn on_device(start: &[f32]) -> Params {
    let params = params(start);
    params.keep_gradients_as_tensors();
    params
}

fn set_grad(params: &Params, grad: &[f32]) {
    params.zero_grad();
    let grad = Tensor::from_slice(grad, grad.len(), params.device()).unwrap();
    for param in params.iter() {
        param.add_gradient(&grad).unwrap();
    }
}

fn value(params: &Params) -> Vec<f32> {
    params.iter().next().unwrap().to_vec().unwrap()
}

#[test]
fn every_optimizer_takes_the_same_twenty_steps_as_torch() {
    let fixture = fixture();
    let mut names = std::collections::BTreeSet::new();
    for (case, params) in fixture
        .optimizers
        .iter()
        .flat_map(|case| [(case, params as fn(&[f32]) -> Params), (case, on_device)])
    {
        // Saved and restored halfway, like in a checkpoint.
        let build = || {
            let spec = spec(&case.name, case.options.clone());
            spec.build(HashMap::new()).unwrap().0
        };
        let (mut optimizer, params) = (build(), params(&fixture.start));
        let in_host_memory = params.iter().all(|param| param.grad().is_some());
        for (step, (grad, expected)) in fixture.grads.iter().zip(&case.values).enumerate() {
            if step == 11 {
                let state = optimizer.state().unwrap().into_iter();
                let state = state
                    .map(|(name, values)| (name, values.into_owned()))
                    .collect();
                optimizer = build();
                optimizer.load_state(state).unwrap();
            }
            set_grad(&params, grad);
            optimizer.step(&params, fixture.learning_rate).unwrap();
            for (found, expected) in value(&params).iter().zip(expected) {
                let error = (found - expected).abs() / expected.abs().max(0.1);
                let what = format!(
                    "{} {:?} step {step}, in host memory: {in_host_memory}",
                    case.name, case.options
                );
                assert!(error < 1e-4, "{what}: {found} and {expected}");
            }
        }
        names.insert(case.name.clone());
    }
    // All optimizers of torch that are supported.
    assert_eq!(names.len(), 11);
}

#[test]
fn every_schedule_equals_that_of_transformers() {
    let fixture = fixture();
    for case in &fixture.schedules {
        let mut options = SchedulerOptions::default().num_warmup_steps(case.warmup);
        options.extra = case.options.clone();
        let schedule = ScheduleSpec {
            scheduler: Some(Scheduler::from(case.name.as_str())),
            options: Some(options),
            step: None,
        };
        let schedule = schedule.build(4, 5, fixture.learning_rate).unwrap();
        for (step, expected) in case.rates.iter().enumerate() {
            let found = fixture.learning_rate * schedule.factor(step / 5, step);
            assert!((found - expected).abs() < 1e-12, "{} {step}", case.name);
        }
    }
    let by_epoch = ScheduleSpec {
        scheduler: Some(Scheduler::Linear),
        options: Some(SchedulerOptions::default().scheduler_step("epoch")),
        step: None,
    };
    let schedule = by_epoch.build(4, 5, 0.1).unwrap();
    let factors: Vec<f64> = (0..20)
        .step_by(3)
        .map(|s| schedule.factor(s / 5, s))
        .collect();
    assert_eq!(factors, [1.0, 1.0, 0.75, 0.75, 0.5, 0.25, 0.25]);
}

#[test]
fn invalid_settings_are_refused_with_the_reason() {
    let refused = |name: &str, options: Value| {
        let options = options.as_object().unwrap().clone();
        let built = spec(name, options).build(HashMap::new());
        built.err().map(|e| e.to_string()).unwrap_or_default()
    };
    for (name, options, part) in [
        ("LBFGS", json!({}), "several times in a step"),
        ("SparseAdam", json!({}), "gradients are dense"),
        ("Lion", json!({}), "not known; use one of Adadelta, Adagrad"),
        ("Adam", json!({"betas": [0.9]}), "two numbers"),
        (
            "Adam",
            json!({"beta": 1}),
            "`beta` is 1: the options are amsgrad, betas",
        ),
        ("SGD", json!({"nesterov": true}), "a `momentum` above 0"),
        (
            "AdamW",
            json!({"layer_wise_lr_decay": 2}),
            "a number above 0",
        ),
        ("Rprop", json!({"etas": [2, 1]}), "two rising numbers"),
        (
            "AdamW",
            json!({"weight_decay": 1e30}),
            "a number from 0 to 1000",
        ),
    ] {
        let found = refused(name, options);
        assert!(
            found.contains(part),
            "{name}: {part} is missing in: {found}"
        );
    }
    let decay = json!({"weight_decay": 50});
    let spec = spec("AdamW", decay.as_object().unwrap().clone());
    assert!(spec.check_decay(1e-3).is_ok());
    let found = spec.check_decay(0.05).unwrap_err().to_string();
    assert!(
        found.contains("`weight_decay` is 50: with a learning rate of 0.05"),
        "{found}"
    );
    let mut warmup = ScheduleSpec {
        scheduler: Some(Scheduler::Linear),
        options: Some(SchedulerOptions::default().num_warmup_steps(21)),
        step: None,
    };
    let found = warmup.build(4, 5, 0.1).unwrap_err().to_string();
    assert!(found.contains("at most the 20 steps"), "{found}");
    let warning = warmup.limit_warmup(4, 5).unwrap();
    assert!(warning.contains("`num_warmup_steps` is 21"), "{warning}");
    assert_eq!(warmup.build(4, 5, 0.1).unwrap().factor(0, 10), 0.5);
    assert_eq!(warmup.limit_warmup(4, 5), None);
}

#[test]
fn gradients_are_clipped_by_their_total_norm() {
    let grad = |p: &Params| p.iter().next().unwrap().gradient().unwrap().unwrap();
    // A model's gradients on a device, and a loss's on the CPU.
    for a in [params(&[0.0; 2]), on_device(&[0.0; 2])] {
        let b = params(&[0.0; 2]);
        set_grad(&a, &[3.0, 0.0]);
        set_grad(&b, &[0.0, 4.0]);
        assert_eq!(clip_gradients(&[&a, &b], 10.0).unwrap(), 5.0);
        assert_eq!(grad(&a), [3.0, 0.0]);
        clip_gradients(&[&a, &b], 1.0).unwrap();
        assert!((grad(&a)[0] - 0.6).abs() < 1e-6 && (grad(&b)[1] - 0.8).abs() < 1e-6);
    }
}

#[test]
fn a_gradient_that_is_not_finite_is_found_on_any_device() {
    for params in [params(&[0.0; 2]), on_device(&[0.0; 2])] {
        for (grad, found) in [
            ([1.0, 2.0], None),
            // Their squares overflow 32 bits, though the values are finite.
            ([1e30, 1.0], None),
            ([f32::NAN, 1.0], Some("p")),
            ([1.0, f32::NEG_INFINITY], Some("p")),
        ] {
            set_grad(&params, &grad);
            assert_eq!(not_finite(&[&params]).unwrap(), found, "{grad:?}");
        }
    }
}

#[test]
fn lower_layers_learn_more_slowly() {
    let scales_of = |config: Value| {
        let config = ModelConfig::parse(&config).unwrap();
        let tensors = config.tensors();
        let adapter = "encoder.layer.1.output.dense.lora_A.weight";
        let names = tensors.iter().map(|(name, _)| name.as_str());
        layer_scales(&config, names.chain([adapter]), 0.5)
    };
    let scales = scales_of(json!({"model_type": "bert", "num_hidden_layers": 3}));
    let of = |name: &str| scales.get(name).copied();
    assert_eq!(of("encoder.layer.2.output.dense.weight"), Some(1.0));
    assert_eq!(of("encoder.layer.0.output.dense.weight"), Some(0.25));
    assert_eq!(of("embeddings.word_embeddings.weight"), Some(0.125));
    assert_eq!(of("encoder.layer.1.output.dense.lora_A.weight"), Some(0.5));
    let scales = scales_of(json!({"model_type": "clip"}));
    assert_eq!(scales["text_model.encoder.layers.11.mlp.fc1.weight"], 1.0);
    assert!(!scales.contains_key("visual_projection.weight"));
    assert!(scales_of(json!({"model_type": "resnet"})).is_empty());
}
