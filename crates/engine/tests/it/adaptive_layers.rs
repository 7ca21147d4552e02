//! Losses over earlier layers (`fixtures/make_adaptive_layers.py`), and a run with one.

use std::collections::BTreeMap;

use candle_core::{Device, Tensor};
use finetuner_engine::{
    loss::{Beside, Criterion, Target},
    prepare::ItemRef,
    source::{LoadOptions, ModelSource},
};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::{
    losses::spec,
    runs::{config, run, texts},
    sentence::folder,
};

#[derive(Deserialize)]
struct Fixture {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    model: String,
    loss: String,
    options: Map<String, Value>,
    inner: String,
    columns: Vec<Vec<String>>,
    scores: Vec<f32>,
    value: f64,
    grads: BTreeMap<String, [f64; 2]>,
}

#[test]
fn losses_equal_those_of_sentence_transformers() {
    let fixture = include_str!("../fixtures/adaptive-layers.json");
    let fixture: Fixture = serde_json::from_str(fixture).unwrap();
    assert_eq!(fixture.cases.len(), 5);
    for case in &fixture.cases {
        let what = format!("{} {:?} on {}", case.loss, case.options, case.model);
        let folder = folder(&case.model);
        let source = ModelSource::Folder(folder.path().to_owned());
        let files = source.read().unwrap();
        let loaded = files.load(&LoadOptions::default(), &Device::Cpu).unwrap();
        let mut options = case.options.clone();
        // The Python Finetuner's name of this loss differs.
        let inner = case.inner.replace("Negatives", "Negative");
        options.insert("loss".to_owned(), inner.into());
        let spec = spec(&case.loss, &options, None);
        let model = &loaded.model;
        let mut criterion = Criterion::new(&spec, 0, model.dim(), 0).unwrap();
        assert_eq!(model.earlier_layers(), 2);
        let pass = model.training();
        let mut parts = Vec::new();
        let mut layers: Vec<(usize, Vec<Tensor>)> = vec![(0, Vec::new()), (1, Vec::new())];
        for column in &case.columns {
            let items: Vec<ItemRef<'_>> = column.iter().map(|t| ItemRef::Text(t)).collect();
            let prepared = loaded.preparer.prepare(&items, |_| None, &Device::Cpu);
            let mut found = model
                .encode_layers(&pass, &prepared.unwrap(), &[0, 1])
                .unwrap();
            parts.push(found.pop().unwrap());
            for ((_, parts), x) in layers.iter_mut().zip(found) {
                parts.push(x);
            }
        }
        let beside = Beside {
            guide: &[],
            layers: &layers,
        };
        let target = Target {
            labels: &[0; 3],
            scores: &case.scores,
        };
        let loss = criterion.loss_beside(model, &pass, &parts, beside, target, 0, true);
        let loss = loss.unwrap();
        let value = loss.to_scalar::<f64>().unwrap();
        assert!(
            (value - case.value).abs() < 2e-5 * case.value,
            "{what}: {value} {}",
            case.value
        );
        model.params().zero_grad();
        model.params().backward(&loss).unwrap();
        let largest = case
            .grads
            .values()
            .map(|[length, _]| *length)
            .fold(0.0, f64::max);
        let mut compared = 0;
        for param in model.params().iter().filter(|param| param.is_trainable()) {
            let Some([length, product]) = case.grads.get(param.name()).copied() else {
                panic!("{what}: {} has no gradient there", param.name())
            };
            let grad = param.grad().unwrap();
            let grad = || grad.iter().map(|g| f64::from(*g));
            let found = [
                grad().map(|g| g * g).sum::<f64>().sqrt(),
                grad().enumerate().map(|(i, g)| g * (i as f64).cos()).sum(),
            ];
            for (found, wanted) in found.into_iter().zip([length, product]) {
                let error = (found - wanted).abs() / length.max(1e-3 * largest);
                assert!(error < 2e-4, "{what}: {} {found} {wanted}", param.name());
            }
            compared += 1;
        }
        assert_eq!(compared, case.grads.len(), "{what}");
    }
}

#[test]
fn each_step_of_a_run_draws_layers() {
    let with = |options: Value| {
        let hyper = json!({"loss": "AdaptiveLayerLoss", "loss_options": options, "epochs": 2,
            "batch_size": 6, "learning_rate": 1e-4});
        let data = [("train", texts())].into_iter().collect();
        let config = config(json!({"name": "minilm-small"}), hyper, json!([]));
        run(config, &data).map(|done| done.losses().to_vec())
    };
    let one = with(json!({"loss": "BatchHardTripletLoss"})).unwrap();
    let all = with(json!({"loss": "BatchHardTripletLoss", "n_layers_per_step": -1})).unwrap();
    assert!(one.iter().all(|loss| loss.is_finite()));
    assert_ne!(one, all);
    assert_eq!(one, with(json!({"loss": "BatchHardTripletLoss"})).unwrap());
    for (options, part) in [
        (json!({}), "`loss` is null: give the name of a loss"),
        (
            json!({"loss": "MatryoshkaLoss"}),
            "name the loss that it wraps",
        ),
        (
            json!({"loss": "TripletMarginLoss", "n_layers_per_step": 0}),
            "-1 (all)",
        ),
        (
            json!({"loss": "TripletMarginLoss", "layer_weighting": "none"}),
            "uniform, log, linear",
        ),
        (
            json!({"loss": "TripletMarginLoss", "kl_temperature": -1}),
            "`kl_temperature` is -1",
        ),
        (
            json!({"loss": "TripletMarginLoss", "matryoshka_dims": [8]}),
            "matryoshka_dims",
        ),
        (
            json!({"loss": "MultipleNegativeRankingLoss",
                "loss_options": {"mini_batch_size": 2}}),
            "`mini_batch_size` is 2: `AdaptiveLayerLoss` uses embeddings of several layers",
        ),
    ] {
        let error = with(options).unwrap_err().to_string();
        assert!(error.contains(part), "{part} is missing in: {error}");
    }
}

#[test]
fn models_without_trainable_layers_are_rejected() {
    let refused = |model: Value| {
        let hyper = json!({"loss": "AdaptiveLayerLoss", "loss_options":
            {"loss": "BatchHardTripletLoss"}, "epochs": 1, "batch_size": 6});
        let data = [("train", texts())].into_iter().collect();
        run(config(model, hyper, json!([])), &data)
            .err()
            .unwrap()
            .to_string()
    };
    let images = refused(json!({"name": "efficientnet-small"}));
    assert!(images.contains("is for text models"), "{images}");
    let frozen = refused(json!({"name": "minilm-small", "freeze": true}));
    assert!(frozen.contains("`freeze` keeps unchanged"), "{frozen}");
}
