//! Compares losses with pytorch-metric-learning and PyTorch (`fixtures/make_losses.py`):
//! values, and gradients of the embeddings and of the losses' own weights.

use std::collections::{BTreeMap, HashMap};

use candle_core::{Device, Tensor, Var};
use finetuner_engine::{
    loss::{Beside, Criterion, LossSpec, Target},
    models::{Model, ModelConfig, ModelSetup},
};
use finetuner_protocol::{Loss, Miner, Options};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::support::{flat, relative_error};

#[derive(Deserialize)]
struct Fixture {
    dim: usize,
    classes: usize,
    batches: BTreeMap<String, Batch>,
    cases: Vec<Case>,
    memory: Vec<Memory>,
    vicreg: Vec<VicReg>,
    pairwise: Map<String, Value>,
}

#[derive(Deserialize)]
struct Batch {
    labels: Vec<u32>,
    embeddings: Vec<f32>,
}

#[derive(Deserialize)]
struct Case {
    loss: String,
    options: Map<String, Value>,
    batch: String,
    miner: Option<String>,
    value: f32,
    grad: Vec<f32>,
    weights: Vec<Weight>,
}

#[derive(Deserialize)]
struct Weight {
    name: String,
    value: Vec<f32>,
    grad: Vec<f32>,
}

#[derive(Deserialize)]
struct Memory {
    loss: String,
    miner: Option<String>,
    value: f32,
    grad: Vec<f32>,
}

#[derive(Deserialize)]
struct VicReg {
    options: Map<String, Value>,
    x: Vec<f32>,
    y: Vec<f32>,
    value: f32,
    grad_x: Vec<f32>,
    grad_y: Vec<f32>,
}

fn fixture() -> Fixture {
    serde_json::from_str(include_str!("../fixtures/losses.json")).unwrap()
}

/// Returns a model, which these losses do not use.
fn any_model() -> Model {
    let config = json!({"model_type": "mlp", "input_size": 1, "hidden_sizes": [1]});
    let config = ModelConfig::parse(&config).unwrap();
    let weights = config.random_weights(0);
    Model::new(config, weights, ModelSetup::default(), &Device::Cpu).unwrap()
}

pub(crate) fn spec(loss: &str, options: &Map<String, Value>, miner: Option<&str>) -> LossSpec {
    LossSpec {
        options: Some(Options::from(options.clone())),
        miner: miner.map(Miner::from),
        ..LossSpec::new(Loss::from(loss))
    }
}

/// Returns the loss of embeddings and the gradient of each.
pub(crate) fn compute(
    criterion: &mut Criterion,
    parts: &[&[f32]],
    dim: usize,
    labels: &[u32],
    scores: &[f32],
) -> (f32, Vec<Vec<f32>>) {
    compute_beside(criterion, parts, dim, &[], labels, scores)
}

/// Like [`compute`], with the embeddings of a guide.
pub(crate) fn compute_beside(
    criterion: &mut Criterion,
    parts: &[&[f32]],
    dim: usize,
    guide: &[Tensor],
    labels: &[u32],
    scores: &[f32],
) -> (f32, Vec<Vec<f32>>) {
    let model = any_model();
    let vars: Vec<Var> = parts
        .iter()
        .map(|x| Var::from_vec(x.to_vec(), (x.len() / dim, dim), &Device::Cpu).unwrap())
        .collect();
    let inputs: Vec<Tensor> = vars.iter().map(|v| v.as_tensor().clone()).collect();
    let target = Target { labels, scores };
    let pass = model.training();
    criterion.params().zero_grad();
    let beside = Beside { guide, layers: &[] };
    let loss = criterion
        .loss_beside(&model, &pass, &inputs, beside, target, 0, true)
        .unwrap();
    let value = loss.to_scalar::<f64>().unwrap() as f32;
    criterion.params().backward(&loss).unwrap();
    let grads = loss.backward().unwrap();
    let grads = vars.iter().map(|var| match grads.get(var) {
        Some(grad) => flat(grad),
        None => vec![0.0; var.elem_count()],
    });
    (value, grads.collect())
}

pub(crate) fn check(what: &str, found: f32, expected: f32) {
    let error = (found - expected).abs() / expected.abs().max(1e-3);
    assert!(error < 1e-5, "{what}: {found} and {expected}");
}

pub(crate) fn check_grad(what: &str, found: &[f32], expected: &[f32]) {
    let largest = expected.iter().fold(0f32, |m, g| m.max(g.abs()));
    if largest < 1e-6 {
        assert!(found.iter().all(|g| g.abs() < 1e-6), "{what}: {found:?}");
        return;
    }
    let error = relative_error(found, expected);
    assert!(error < 1e-4, "{what}: {error}\n{found:?}\n{expected:?}");
}

#[test]
fn values_and_gradients_equal_those_of_pytorch_metric_learning() {
    let fixture = fixture();
    assert_eq!(fixture.cases.len(), 168);
    let mut names = std::collections::BTreeSet::new();
    for case in &fixture.cases {
        let batch = &fixture.batches[&case.batch];
        let what = format!(
            "{} {:?} {} {:?}",
            case.loss, case.options, case.batch, case.miner
        );
        let spec = spec(&case.loss, &case.options, case.miner.as_deref());
        let mut criterion = Criterion::new(&spec, fixture.classes, fixture.dim, 0).unwrap();
        let snapshot: HashMap<_, _> = criterion
            .params()
            .iter()
            .map(|param| {
                let weight = case
                    .weights
                    .iter()
                    .find(|w| w.name == param.name())
                    .unwrap();
                let shape = param.tensor().dims().to_vec();
                (param.name().to_owned(), (shape, weight.value.clone()))
            })
            .collect();
        assert_eq!(snapshot.len(), case.weights.len(), "{what}");
        criterion.params().restore(&snapshot).unwrap();
        let (value, grads) = compute(
            &mut criterion,
            &[&batch.embeddings],
            fixture.dim,
            &batch.labels,
            &[],
        );
        check(&what, value, case.value);
        check_grad(&what, &grads[0], &case.grad);
        for param in criterion.params().iter() {
            let weight = case
                .weights
                .iter()
                .find(|w| w.name == param.name())
                .unwrap();
            check_grad(
                &format!("{what}: {}", weight.name),
                &param.grad().unwrap(),
                &weight.grad,
            );
        }
        names.insert(case.loss.clone());
    }
    assert_eq!(names.len(), 25);
}

#[test]
fn cross_batch_memory_equals_that_of_pytorch_metric_learning() {
    let fixture = fixture();
    for case in &fixture.memory {
        let options = json!({"loss": case.loss, "memory_size": 20});
        let options = options.as_object().unwrap();
        let spec = spec("CrossBatchMemory", options, case.miner.as_deref());
        let mut criterion = Criterion::new(&spec, fixture.classes, fixture.dim, 0).unwrap();
        let mut last = (0.0, Vec::new());
        for name in ["pairs", "uneven", "balanced"] {
            let batch = &fixture.batches[name];
            let parts = [&batch.embeddings[..]];
            last = compute(&mut criterion, &parts, fixture.dim, &batch.labels, &[]);
        }
        let what = format!("{} {:?}", case.loss, case.miner);
        check(&what, last.0, case.value);
        check_grad(&what, &last.1[0], &case.grad);
    }
}

#[test]
fn losses_of_pairs_and_triplets_equal_those_of_pytorch() {
    let fixture = fixture();
    let list = |value: &Value| -> Vec<f32> { serde_json::from_value(value.clone()).unwrap() };
    let given = |name: &str| list(&fixture.pairwise[name]);
    let (a, b, c, scores) = (given("a"), given("b"), given("c"), given("scores"));
    for (name, parts) in [
        ("CosineSimilarityLoss", vec![&a[..], &b]),
        ("MarginMSELoss", vec![&a[..], &b, &c]),
        ("MultipleNegativeRankingLoss", vec![&a[..], &b]),
    ] {
        let expected = &fixture.pairwise[name];
        let mut criterion = Criterion::new(&spec(name, &Map::new(), None), 0, 0, 0).unwrap();
        let (value, grads) = compute(&mut criterion, &parts, fixture.dim, &[0; 5], &scores);
        check(name, value, expected["value"].as_f64().unwrap() as f32);
        check_grad(name, &grads[0], &list(&expected["grad"]));
    }
    for case in &fixture.vicreg {
        let spec = spec("VICRegLoss", &case.options, None);
        let mut criterion = Criterion::new(&spec, 0, 0, 0).unwrap();
        let (value, grads) = compute(
            &mut criterion,
            &[&case.x, &case.y],
            fixture.dim,
            &[0; 12],
            &[],
        );
        check("VICRegLoss", value, case.value);
        check_grad("VICRegLoss", &grads[0], &case.grad_x);
        check_grad("VICRegLoss", &grads[1], &case.grad_y);
    }
}

#[test]
fn several_losses_are_summed_with_weights() {
    let fixture = fixture();
    let batch = &fixture.batches["uneven"];
    let value = |name: &str, options: Value| {
        let options = options.as_object().unwrap().clone();
        let mut criterion = Criterion::new(&spec(name, &options, None), 4, fixture.dim, 0).unwrap();
        compute(
            &mut criterion,
            &[&batch.embeddings],
            fixture.dim,
            &batch.labels,
            &[],
        )
        .0
    };
    let triplet = value("TripletMarginLoss", json!({"margin": 0.3}));
    let contrastive = value("ContrastiveLoss", json!({}));
    let both = value(
        "MultipleLosses",
        json!({
            "losses": [{"name": "TripletMarginLoss", "options": {"margin": 0.3}}, "ContrastiveLoss"],
            "weights": [2.0, 0.5],
        }),
    );
    assert!((both - (2.0 * triplet + 0.5 * contrastive)).abs() < 1e-5);
}

#[test]
fn the_subset_with_the_highest_loss_is_used() {
    let fixture = fixture();
    let batch = &fixture.batches["balanced"];
    let mined = |trials: usize| {
        let spec = LossSpec {
            miner: Some(Miner::MaximumLoss),
            miner_options: Some(
                [
                    ("output_batch_size", json!(6)),
                    ("num_trials", json!(trials)),
                ]
                .into_iter()
                .collect(),
            ),
            ..LossSpec::new(Loss::TripletMargin)
        };
        let mut criterion = Criterion::new(&spec, 4, fixture.dim, 0).unwrap();
        compute(
            &mut criterion,
            &[&batch.embeddings],
            fixture.dim,
            &batch.labels,
            &[],
        )
    };
    let (one, grads) = mined(1);
    let (many, _) = mined(50);
    assert!(many > one, "{many} {one}");
    // Only the selected examples get a gradient.
    let touched = grads[0]
        .chunks(fixture.dim)
        .filter(|g| g.iter().any(|g| *g != 0.0));
    assert!(touched.count() <= 6);
}

#[test]
fn invalid_options_are_rejected_by_name() {
    let refused = |loss: &str, options: Value, miner: Option<&str>| {
        let options = options.as_object().unwrap().clone();
        let made = Criterion::new(&spec(loss, &options, miner), 4, 8, 0);
        made.err().map(|e| e.to_string()).unwrap_or_default()
    };
    for (loss, options, miner, part) in [
        (
            "TripletMarginLoss",
            json!({"margn": 1}),
            None,
            "`margn` is 1: the options are distance, margin, reducer, smooth_loss",
        ),
        (
            "TripletMarginLoss",
            json!({"margin": "big"}),
            None,
            "give a number from -1000000 to 1000000",
        ),
        (
            "NTXentLoss",
            json!({"temperature": 0}),
            None,
            "a number above 0",
        ),
        (
            "ArcFaceLoss",
            json!({"num_classes": 9}),
            None,
            "this run has 4; remove the option",
        ),
        ("GenericPairLoss", json!({}), None, "is a base class"),
        ("NoSuchLoss", json!({}), None, "is unknown"),
        (
            "CrossBatchMemory",
            json!({"loss": "ArcFaceLoss"}),
            None,
            "one of AngularLoss",
        ),
        ("CrossBatchMemory", json!({}), None, "the name of a loss"),
        (
            "MultipleLosses",
            json!({"losses": []}),
            None,
            "a list of losses",
        ),
        (
            "CosineSimilarityLoss",
            json!({}),
            Some("HDCMiner"),
            "and no miner",
        ),
        (
            "TripletMarginLoss",
            json!({}),
            Some("BaseMiner"),
            "is a base class",
        ),
        (
            "TripletMarginLoss",
            json!({}),
            Some("MaximumLossMiner"),
            "`output_batch_size` is",
        ),
    ] {
        let found = refused(loss, options, miner);
        assert!(
            found.contains(part),
            "{loss}: {part} is missing in: {found}"
        );
    }
}
