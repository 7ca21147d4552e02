//! Losses with a guide or teacher (`fixtures/make_guided_losses.py`), and runs with
//! them.

use std::collections::{BTreeMap, HashMap};

use candle_core::{Device, Tensor};
use finetuner_engine::loss::{Criterion, LossSpec};
use finetuner_protocol::{Document, DocumentArray, Loss, Options};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::{
    losses::{check, check_grad, compute_beside, spec},
    runs::{Data, config, run},
};

#[derive(Deserialize)]
struct Fixture {
    dim: usize,
    cases: Vec<Case>,
}

/// Shape, values and gradient of an embedding.
type Weight = (Vec<usize>, Vec<f32>, Vec<f32>);

#[derive(Deserialize)]
struct Case {
    loss: String,
    options: Map<String, Value>,
    parts: Vec<Vec<f32>>,
    guide: Vec<Vec<f32>>,
    guide_dim: usize,
    value: f32,
    grads: Vec<Vec<f32>>,
    weights: BTreeMap<String, Weight>,
}

#[test]
fn losses_equal_those_of_sentence_transformers() {
    let fixture = include_str!("../fixtures/guided-losses.json");
    let fixture: Fixture = serde_json::from_str(fixture).unwrap();
    assert_eq!(fixture.cases.len(), 21);
    for case in &fixture.cases {
        let what = format!("{} {:?} {}", case.loss, case.options, case.parts.len());
        let spec = spec(&case.loss, &case.options, None);
        let mut criterion = Criterion::new(&spec, 0, fixture.dim, 0).unwrap();
        let weights: HashMap<_, _> = case
            .weights
            .iter()
            .map(|(name, (shape, value, _))| (name.clone(), (shape.clone(), value.clone())))
            .collect();
        assert_eq!(criterion.params().iter().count(), weights.len());
        criterion.params().restore(&weights).unwrap();
        let parts: Vec<&[f32]> = case.parts.iter().map(Vec::as_slice).collect();
        let guide = case.guide.iter().map(|part| {
            let shape = (part.len() / case.guide_dim, case.guide_dim);
            Tensor::from_slice(part, shape, &Device::Cpu).unwrap()
        });
        let guide: Vec<Tensor> = guide.collect();
        let (value, grads) = compute_beside(&mut criterion, &parts, fixture.dim, &guide, &[], &[]);
        check(&what, value, case.value);
        for (grad, expected) in grads.iter().zip(&case.grads) {
            check_grad(&what, grad, expected);
        }
        for param in criterion.params().iter() {
            let (.., expected) = &case.weights[param.name()];
            check_grad(&what, &param.grad().unwrap(), expected);
        }
    }
}

#[test]
fn invalid_options_are_rejected_by_name() {
    for (loss, options, part) in [
        (
            "GISTEmbedLoss",
            json!({"margin_strategy": "none"}),
            "`margin_strategy` is \"none\"",
        ),
        (
            "GISTEmbedLoss",
            json!({"temperature": 0}),
            "`temperature` is 0",
        ),
        ("GISTEmbedLoss", json!({"scale": 20}), "`scale` is 20"),
        (
            "EmbedDistillLoss",
            json!({"distance_metric": "kl"}),
            "`distance_metric` is \"kl\"",
        ),
        (
            "EmbedDistillLoss",
            json!({"projection_dim": 0}),
            "`projection_dim` is 0",
        ),
        (
            "EmbedDistillLoss",
            json!({"teacher_column": 1}),
            "`teacher_column` is 1",
        ),
        (
            "DistillKLDivLoss",
            json!({"temperature": -1}),
            "`temperature` is -1",
        ),
        (
            "DistillKLDivLoss",
            json!({"similarity_fct": "dot"}),
            "pairwise_dot_score",
        ),
        (
            "MatryoshkaLoss",
            json!({"loss": "EmbedDistillLoss", "matryoshka_dims": [4]}),
            "compares complete embeddings",
        ),
    ] {
        let spec = LossSpec {
            options: Some(Options::from(options.as_object().unwrap().clone())),
            ..LossSpec::new(Loss::from(loss))
        };
        let error = Criterion::new(&spec, 0, 8, 0).err().unwrap().to_string();
        assert!(
            error.contains(part),
            "{options}: {part} is missing in: {error}"
        );
    }
}

/// Returns questions with answers, and with answers to other questions.
fn data() -> Data {
    let rows = [
        [
            "how do I sew on a button",
            "use a needle and thread",
            "a warm coat",
        ],
        [
            "what do cats eat",
            "a cat lives on meat and fish",
            "four minutes in hot water",
        ],
        [
            "how far is the moon",
            "384400 kilometres on average",
            "at the coast of Portugal",
        ],
        [
            "who wrote Faust",
            "Johann Wolfgang von Goethe",
            "a needle and thread",
        ],
        [
            "what is a parka",
            "a warm coat with a hood",
            "meat and fish",
        ],
        [
            "how do I boil an egg",
            "four minutes in hot water",
            "a warm coat",
        ],
        [
            "where is Lisbon",
            "at the coast of Portugal",
            "384400 kilometres",
        ],
        ["what is a moon", "a satellite of a planet", "a hood"],
    ];
    let chunks = |count: usize| -> DocumentArray {
        let document = |row: [&str; 3]| {
            let texts = row.into_iter().take(count).map(Document::text);
            texts.fold(Document::new(), Document::with_chunk)
        };
        rows.map(document).to_vec().into()
    };
    HashMap::from([
        ("train", chunks(3)),
        ("pairs", chunks(2)),
        (
            "texts",
            rows.map(|[text, ..]| Document::text(text)).to_vec().into(),
        ),
    ])
}

fn with(loss: &str, options: Value, data: &str) -> Value {
    // Each step uses all examples, so that losses of steps are comparable.
    let hyper = json!({"loss": loss, "loss_options": options, "epochs": 4, "batch_size": 8,
        "learning_rate": 1e-4});
    let mut config = config(json!({"name": "minilm-small"}), hyper, json!([]));
    config["data"]["train_data"] = data.into();
    config
}

#[test]
fn a_run_uses_a_frozen_second_model() {
    let guide = "minilm-small";
    for (config, falls) in [
        (
            with(
                "GISTEmbedLoss",
                json!({"guide": guide, "temperature": 0.05}),
                "train",
            ),
            true,
        ),
        (
            with("DistillKLDivLoss", json!({"teacher": guide}), "train"),
            false,
        ),
        (
            with(
                "EmbedDistillLoss",
                json!({"teacher": guide, "teacher_column": "first"}),
                "pairs",
            ),
            true,
        ),
        (
            with(
                "EmbedDistillLoss",
                json!({"teacher": guide, "projection_dim": 384}),
                "texts",
            ),
            true,
        ),
    ] {
        let done = run(config.clone(), &data()).unwrap();
        assert!(done.logged("The loss uses a second, frozen model"));
        let losses = done.losses();
        assert_eq!(losses.len(), 4);
        let (first, last) = (losses[0], losses[3]);
        // A model that is its own teacher starts with a loss of 0.
        assert!(!falls || last < first, "{config}: {losses:?}");
        assert!(falls || first.abs() < 1e-6, "{config}: {losses:?}");
        assert_eq!(losses, run(config, &data()).unwrap().losses());
    }
}

#[test]
fn unusable_second_models_are_rejected_by_name() {
    for (config, part) in [
        (
            with("GISTEmbedLoss", json!({}), "train"),
            "`guide`: `GISTEmbedLoss` needs the name",
        ),
        (
            with("EmbedDistillLoss", json!({"teacher": 3}), "texts"),
            "`teacher`: `EmbedDistillLoss`",
        ),
        (
            with(
                "DistillKLDivLoss",
                json!({"teacher": "none/such::model"}),
                "train",
            ),
            "`teacher`",
        ),
        (
            with(
                "GISTEmbedLoss",
                json!({"guide": "efficientnet-small"}),
                "train",
            ),
            "embeds images",
        ),
        (
            with(
                "EmbedDistillLoss",
                json!({"teacher": "minilm-small", "projection_dim": 3}),
                "texts",
            ),
            "set `projection_dim` to 384",
        ),
    ] {
        let error = run(config, &data()).err().unwrap().to_string();
        assert!(error.contains(part), "{part} is missing in: {error}");
        assert!(error.contains("loss_options"), "{error}");
    }
}
