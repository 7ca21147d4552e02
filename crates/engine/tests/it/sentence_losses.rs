//! Losses of sentence-transformers (`fixtures/make_sentence_losses.py`): values and
//! gradients of the embeddings.

use finetuner_engine::loss::{Criterion, LossSpec};
use finetuner_protocol::{Loss, Options};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::losses::{check, check_grad, compute, spec};

#[derive(Deserialize)]
struct Fixture {
    dim: usize,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    loss: String,
    options: Map<String, Value>,
    parts: Vec<Vec<f32>>,
    #[serde(default)]
    labels: Vec<u32>,
    #[serde(default)]
    scores: Vec<f32>,
    value: f32,
    grads: Vec<Vec<f32>>,
}

#[test]
fn losses_equal_those_of_sentence_transformers() {
    let fixture = include_str!("../fixtures/sentence-losses.json");
    let fixture: Fixture = serde_json::from_str(fixture).unwrap();
    for case in &fixture.cases {
        let what = format!("{} {:?}", case.loss, case.options);
        let spec = spec(&case.loss, &case.options, None);
        let mut criterion = Criterion::new(&spec, 4, fixture.dim, 0).unwrap();
        let parts: Vec<&[f32]> = case.parts.iter().map(Vec::as_slice).collect();
        let (value, grads) = compute(
            &mut criterion,
            &parts,
            fixture.dim,
            &case.labels,
            &case.scores,
        );
        check(&what, value, case.value);
        for (grad, expected) in grads.iter().zip(&case.grads) {
            check_grad(&what, grad, expected);
        }
    }
}

#[test]
fn dimensions_are_drawn_if_a_step_uses_only_some() {
    let parts = [[0.9f32, 0.1, 0.3, 0.4], [0.2, 0.8, 0.5, -0.6]].concat();
    let others = [[0.7f32, 0.3, -0.3, 0.5], [0.1, -0.8, 0.6, 0.2]].concat();
    let value = |options: Value| {
        let options = options.as_object().unwrap().clone();
        let spec = spec("MatryoshkaLoss", &options, None);
        let mut criterion = Criterion::new(&spec, 0, 4, 0).unwrap();
        compute(&mut criterion, &[&parts, &others], 4, &[], &[]).0
    };
    let of = |dims: &[usize]| {
        value(json!({"loss": "MultipleNegativeRankingLoss", "matryoshka_dims": dims}))
    };
    let drawn = value(json!({
        "loss": "MultipleNegativeRankingLoss", "matryoshka_dims": [4, 2], "n_dims_per_step": 1,
    }));
    assert!(drawn == of(&[4]) || drawn == of(&[2]), "{drawn}");
    assert!((of(&[4, 2]) - of(&[4]) - of(&[2])).abs() < 1e-5);
}

#[test]
fn invalid_options_are_rejected() {
    let refused = |options: Value| {
        let spec = LossSpec {
            options: Some(Options::from(options.as_object().unwrap().clone())),
            ..LossSpec::new(Loss::Matryoshka)
        };
        Criterion::new(&spec, 4, 8, 0).err().unwrap().to_string()
    };
    let ranking = "MultipleNegativeRankingLoss";
    for (options, part) in [
        (json!({}), "the name of a loss"),
        (json!({"loss": ranking}), "a list of dimensions"),
        (
            json!({"loss": ranking, "matryoshka_dims": [0]}),
            "a list of dimensions",
        ),
        (
            json!({"loss": ranking, "matryoshka_dims": [9]}),
            "9 is more than the 8 dimensions",
        ),
        (
            json!({"loss": ranking, "matryoshka_dims": [8], "matryoshka_weights": [1, 2]}),
            "one number for each dimension",
        ),
        (
            json!({"loss": ranking, "matryoshka_dims": [8], "n_dims_per_step": 0}),
            "-1 (all) or a number above 0",
        ),
        (
            json!({"loss": ranking, "matryoshka_dims": [8], "scale": 3}),
            "scale",
        ),
        (
            json!({"loss": "ArcFaceLoss", "matryoshka_dims": [8]}),
            "which can't be truncated",
        ),
        (
            json!({"loss": "MatryoshkaLoss", "matryoshka_dims": [8]}),
            "name the loss that it wraps",
        ),
        (
            json!({"loss": ranking, "loss_options": {"scale": -1}, "matryoshka_dims": [8]}),
            "scale",
        ),
    ] {
        let found = refused(options.clone());
        assert!(
            found.contains(part),
            "{options}: {part} is missing in: {found}"
        );
    }
}
