//! Losses and miners with each distance and reducer of pytorch-metric-learning
//! (`fixtures/make_distances.py`).

use std::collections::{BTreeMap, HashMap};

use finetuner_engine::loss::{Criterion, LossSpec};
use finetuner_protocol::{Loss, Miner, Options};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::losses::compute;

type Class = Option<(String, Map<String, Value>)>;

#[derive(Deserialize)]
struct Fixture {
    dim: usize,
    classes: usize,
    labels: Vec<u32>,
    embeddings: Vec<f32>,
    direction: Vec<f64>,
    distances: Vec<Class>,
    reducers: Vec<Class>,
    losses: Vec<(String, Map<String, Value>)>,
    weights: BTreeMap<String, Vec<f32>>,
    cases: Vec<Vec<f64>>,
}

fn fixture() -> Fixture {
    serde_json::from_str(include_str!("../fixtures/distances.json")).unwrap()
}

fn set(options: &mut Map<String, Value>, name: &str, class: &Class) {
    if let Some((class, its)) = class {
        options.insert(name.to_owned(), json!({"name": class, "options": its}));
    }
}

fn near(found: f64, wanted: f64) -> bool {
    (found - wanted).abs() < 1e-6 + 2e-5 * wanted.abs()
}

#[test]
fn distances_and_reducers_equal_those_of_pytorch_metric_learning() {
    let fixture = fixture();
    assert!(fixture.cases.len() > 2000);
    let mut others = Vec::new();
    for case in &fixture.cases {
        let (i, j, k) = (case[0] as usize, case[1] as usize, case[2] as usize);
        let (name, options) = &fixture.losses[i];
        let mut options = options.clone();
        set(&mut options, "distance", &fixture.distances[j]);
        set(&mut options, "reducer", &fixture.reducers[k]);
        let what = format!("{name} {options:?}");
        let spec = LossSpec {
            options: Some(Options::from(options)),
            ..LossSpec::new(Loss::from(name.as_str()))
        };
        let made = Criterion::new(&spec, fixture.classes, fixture.dim, 0);
        let [value, length, product] = case[3..] else {
            let error = made.err().unwrap_or_else(|| panic!("{what} is possible"));
            let error = error.to_string();
            assert!(
                error.contains("`distance`") || error.contains("`reducer`"),
                "{error}"
            );
            continue;
        };
        let mut criterion = made.unwrap_or_else(|e| panic!("{what}: {e}"));
        let weights: HashMap<_, _> = criterion
            .params()
            .iter()
            .map(|param| {
                let value = &fixture.weights[&format!("{i}.{}", param.name())];
                let shape = param.tensor().dims().to_vec();
                (param.name().to_owned(), (shape, value.clone()))
            })
            .collect();
        criterion.params().restore(&weights).unwrap();
        let parts = [&fixture.embeddings[..]];
        let (found, grads) = compute(&mut criterion, &parts, fixture.dim, &fixture.labels, &[]);
        let grad = || grads[0].iter().map(|g| f64::from(*g));
        let found = [
            f64::from(found),
            grad().map(|g| g * g).sum::<f64>().sqrt(),
            grad().zip(&fixture.direction).map(|(g, d)| g * d).sum(),
        ];
        // The terms of the product may cancel.
        let error = (found[2] - product).abs();
        let same = near(found[0], value) && near(found[1], length);
        if !same || error >= 1e-6 + 2e-5 * length {
            others.push(format!("{what}: {found:?} {case:?}"));
        }
    }
    assert!(others.is_empty(), "{}", others.join("\n"));
}

#[test]
fn invalid_distances_and_reducers_are_rejected_by_name() {
    let refused = |loss: &str, options: Value| {
        let spec = LossSpec {
            options: Some(Options::from(options.as_object().unwrap().clone())),
            ..LossSpec::new(Loss::from(loss))
        };
        Criterion::new(&spec, 3, 4, 0).err().unwrap().to_string()
    };
    for (loss, options, part) in [
        (
            "NTXentLoss",
            json!({"distance": "Far"}),
            "`distance` is \"Far\": give one of CosineSimilarity",
        ),
        ("NTXentLoss", json!({"distance": 3}), "a name, or an object"),
        (
            "NTXentLoss",
            json!({"distance": {"name": "LpDistance", "p": 1}}),
            "a name, or an object with `name` and `options`",
        ),
        (
            "NTXentLoss",
            json!({"distance": {"name": "LpDistance", "options": {"p": 0}}}),
            "`loss_options.distance`: `p` is 0",
        ),
        (
            "NTXentLoss",
            json!({"distance": {"name": "CosineSimilarity",
                "options": {"normalize_embeddings": false}}}),
            "`normalize_embeddings` is false",
        ),
        (
            "NTXentLoss",
            json!({"distance": {"name": "CosineSimilarity", "options": {"power": 1.5}}}),
            "a whole number",
        ),
        (
            "CircleLoss",
            json!({"distance": "LpDistance"}),
            "`CosineSimilarity` is the only supported",
        ),
        (
            "NTXentLoss",
            json!({"reducer": "DoNothingReducer"}),
            "which `DoNothingReducer` does not return",
        ),
        (
            "NTXentLoss",
            json!({"reducer": "MedianReducer"}),
            "one of AvgNonZeroReducer",
        ),
        (
            "NTXentLoss",
            json!({"reducer": "DivisorReducer"}),
            "the loss has no divisor",
        ),
        (
            "NTXentLoss",
            json!({"reducer": "ThresholdReducer"}),
            "`low`, `high` or both",
        ),
        (
            "TripletMarginLoss",
            json!({"reducer": "PerAnchorReducer"}),
            "losses of triplets",
        ),
        (
            "NTXentLoss",
            json!({"reducer": "ClassWeightedReducer"}),
            "one number for each class",
        ),
        (
            "NTXentLoss",
            json!({"reducer": {"name": "ClassWeightedReducer", "options": {"weights": [1, 2]}}}),
            "in the order of their first occurrence: 3",
        ),
        (
            "NTXentLoss",
            json!({"reducer": {"name": "PerAnchorReducer",
                "options": {"reducer": "DivisorReducer"}}}),
            "the loss has no divisor",
        ),
        (
            "CentroidTripletLoss",
            json!({"distance": "LpDistance"}),
            "`distance`",
        ),
        (
            "ProxyAnchorLoss",
            json!({"reducer": {"name": "ClassWeightedReducer",
            "options": {"weights": [1, 2, 3]}}}),
            "computed per class, not per example",
        ),
    ] {
        let found = refused(loss, options.clone());
        assert!(
            found.contains(part),
            "{options}: {part} is missing in: {found}"
        );
    }
    let spec = LossSpec {
        miner: Some(Miner::from("AngularMiner")),
        miner_options: Some(Options::from([("distance", "CosineSimilarity")])),
        ..LossSpec::new(Loss::from("NTXentLoss"))
    };
    let error = Criterion::new(&spec, 3, 4, 0).err().unwrap().to_string();
    assert!(error.contains("`miner_options`: `distance`"), "{error}");
}
