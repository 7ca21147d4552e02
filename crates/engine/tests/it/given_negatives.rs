//! Losses with negatives from the data (`fixtures/make_given_negatives.py`), and runs
//! with them.

use std::collections::HashMap;

use finetuner_engine::loss::Criterion;
use finetuner_protocol::{Document, DocumentArray, SCORE_TAG};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::{
    losses::{check, check_grad, compute, spec},
    runs::{config, run},
    settings::checked,
};

#[derive(Deserialize)]
struct Fixture {
    dim: usize,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    loss: String,
    options: Map<String, Value>,
    miner: Option<String>,
    parts: Vec<Vec<f32>>,
    #[serde(default)]
    scores: Vec<f32>,
    value: f32,
    grads: Vec<Vec<f32>>,
}

#[test]
fn losses_with_given_negatives_equal_those_of_the_libraries() {
    let fixture = include_str!("../fixtures/given-negatives.json");
    let fixture: Fixture = serde_json::from_str(fixture).unwrap();
    assert_eq!(fixture.cases.len(), 20);
    for case in &fixture.cases {
        let what = format!(
            "{} {:?} {} members",
            case.loss,
            case.options,
            case.parts.len()
        );
        let spec = spec(&case.loss, &case.options, case.miner.as_deref());
        let mut criterion = Criterion::new(&spec, 0, fixture.dim, 0).unwrap();
        let parts: Vec<&[f32]> = case.parts.iter().map(Vec::as_slice).collect();
        let labels = vec![0; parts[0].len() / fixture.dim];
        let (value, grads) = compute(&mut criterion, &parts, fixture.dim, &labels, &case.scores);
        check(&what, value, case.value);
        assert_eq!(grads.len(), case.grads.len(), "{what}");
        for (grad, expected) in grads.iter().zip(&case.grads) {
            check_grad(&what, grad, expected);
        }
    }
}

/// Returns anchors with a positive and negatives.
fn documents(negatives: usize) -> DocumentArray {
    let things = ["dress", "shoe", "hat", "coat", "scarf", "glove"];
    let texts = |i: usize| {
        let other = move |n: usize| format!("a {} for sale", things[(i + n) % things.len()]);
        let own = [format!("the {}", things[i]), other(0)];
        own.into_iter().chain((1..=negatives).map(other))
    };
    let document = |i: usize| {
        texts(i)
            .map(Document::text)
            .fold(Document::new(), Document::with_chunk)
    };
    (0..things.len()).map(document).collect()
}

fn scored(documents: DocumentArray, score: &Value) -> DocumentArray {
    let all = documents.into_iter();
    all.map(|document| document.with_tag(SCORE_TAG, score.clone()))
        .collect()
}

#[test]
fn every_loss_with_given_negatives_trains() {
    let packaged = "EmbeddingsAlreadyPackagedAsTriplets";
    for (hyper, train, told) in [
        (
            json!({"loss": "TripletLoss"}),
            documents(1),
            "6 triplets to train on",
        ),
        (
            json!({"loss": "TripletMarginLoss", "miner": packaged, "loss_options": {"margin": 1}}),
            documents(2),
            "6 pairs with 2 negatives each to train on",
        ),
        (
            json!({"loss": "MarginMSELoss"}),
            scored(documents(2), &json!([4, 5])),
            "6 pairs with 2 negatives each to train on",
        ),
        (
            json!({"loss": "MatryoshkaLoss", "loss_options": {
                "loss": "TripletLoss", "matryoshka_dims": [64, 16],
            }}),
            documents(2),
            "6 pairs with 2 negatives each to train on",
        ),
    ] {
        let mut all = json!({"epochs": 3, "batch_size": 3, "learning_rate": 1e-4});
        all.as_object_mut()
            .unwrap()
            .extend(hyper.as_object().unwrap().clone());
        let data = HashMap::from([("train", train)]);
        let run = run(
            config(json!({"name": "minilm-small"}), all, json!([])),
            &data,
        )
        .unwrap();
        assert!(run.logged(told), "{hyper}: {:?}", run.log());
        let losses = run.losses();
        let mean = |losses: &[f64]| losses.iter().sum::<f64>() / losses.len() as f64;
        assert!(
            mean(&losses[4..]) < mean(&losses[..2]),
            "{hyper}: {losses:?}"
        );
    }
}

#[test]
fn documents_that_do_not_fit_the_loss_are_rejected_by_name() {
    let refused = |hyper: Value, train: DocumentArray| {
        let data = HashMap::from([("train", train)]);
        checked(
            config(json!({"name": "minilm-small"}), hyper, json!([])),
            &data,
        )
        .err()
        .unwrap_or_default()
    };
    let triplet = || json!({"loss": "TripletLoss", "epochs": 1});
    let mut uneven = documents(2);
    uneven[4].chunks.pop();
    let mut blank = documents(1);
    blank[1].chunks[2] = Document::text(" ");
    let margins = || json!({"loss": "MarginMSELoss", "epochs": 1});
    for (found, part) in [
        (
            refused(triplet(), documents(0)),
            "it has 2 chunks; an anchor, a match and at least one negative are needed",
        ),
        (
            refused(triplet(), uneven),
            "it has 3 members, but the first of the data set has 4",
        ),
        (refused(triplet(), blank), "its chunk 3: it holds no text"),
        (
            refused(margins(), scored(documents(2), &json!(0.5))),
            "its `finetuner_score` has 1 value for 2 negatives",
        ),
        (
            refused(
                json!({"loss": "ArcFaceLoss", "miner": "EmbeddingsAlreadyPackagedAsTriplets"}),
                documents(1),
            ),
            "`ArcFaceLoss` can't use triplets from the data",
        ),
        (
            refused(
                json!({"loss": "TripletLoss", "miner": "BatchHardMiner"}),
                documents(1),
            ),
            "`TripletLoss` uses all examples of a batch and no miner",
        ),
        (
            refused(
                json!({"loss": "TripletLoss", "loss_options": {"margin": 1}}),
                documents(1),
            ),
            "margin",
        ),
    ] {
        assert!(found.contains(part), "{part} is missing in: {found}");
    }
    assert_eq!(refused(triplet(), documents(3)), "");
}
