//! Stops and resumes runs of every kind: their weights equal those of
//! uninterrupted runs, bit by bit.

use std::path::{Path, PathBuf};

use finetuner_engine::Error;
use finetuner_protocol::{Document, DocumentArray};
use serde_json::{Value, json};

use crate::{
    cached::{pairs, scored, text_images},
    dropout::network,
    resume::{Case, Watcher, run},
    runs::{features, images, texts},
    sentence::folder,
    support::fixture,
};

/// The folders of the models.
struct Models {
    text: tempfile::TempDir,
    images: tempfile::TempDir,
}

impl Models {
    fn new() -> Self {
        Self {
            text: folder("chain"),
            images: network("efficientnet", json!({"drop_connect_rate": 0.2})),
        }
    }
}

/// Settings that the runs of one part of the table share.
#[derive(Clone)]
struct Base {
    model: Value,
    hyper: Value,
    documents: fn(&str) -> DocumentArray,
}

fn path(folder: &Path) -> String {
    folder.to_string_lossy().into_owned()
}

fn text_pairs(_: &str) -> DocumentArray {
    pairs(8, 0)
}

fn single_texts(_: &str) -> DocumentArray {
    let texts = pairs(8, 0).into_iter();
    texts
        .map(|pair| Document::text(pair.chunks[0].as_text().unwrap()))
        .collect()
}

fn base(model: Value, hyper: Value, documents: fn(&str) -> DocumentArray) -> Base {
    let mut all = json!({"epochs": 2, "batch_size": 3, "learning_rate": 0.01});
    merge(&mut all, hyper);
    Base {
        model,
        hyper: all,
        documents,
    }
}

fn merge(into: &mut Value, from: Value) {
    let Value::Object(from) = from else { return };
    into.as_object_mut().unwrap().extend(from);
}

/// A row of the table: a name, and changes to the training settings, the data
/// and the model.
type Row = (String, Base, Value);

fn rows(models: &Models) -> Vec<Row> {
    let text = json!({"name": path(models.text.path())});
    let ranking = base(
        text.clone(),
        json!({"loss": "MultipleNegativeRankingLoss"}),
        text_pairs,
    );
    let perceptron = json!({"name": "mlp", "options": {"input_size": 5, "hidden_sizes": [6, 4],
        "activation": "tanh"}});
    let labels = base(
        perceptron,
        json!({"loss": "TripletMarginLoss", "batch_size": 9}),
        |_| features(),
    );
    let mut rows: Vec<Row> = Vec::new();
    let mut row = |name: String, base: &Base, hyper: Value, model: Value, data: Value| {
        let mut base = base.clone();
        merge(&mut base.hyper, hyper);
        merge(&mut base.model, model);
        rows.push((name, base, data));
    };
    let none = || json!({});

    for sampler in ["auto", "class", "random"] {
        let data = json!({"sampler": sampler, "num_items_per_class": 3});
        row(
            format!("labels, sampler {sampler}"),
            &labels,
            none(),
            none(),
            data.clone(),
        );
        row(
            format!("pairs, sampler {sampler}"),
            &ranking,
            none(),
            none(),
            data,
        );
    }
    for (optimizer, options) in [
        ("Adadelta", json!({})),
        ("Adagrad", json!({})),
        ("Adam", json!({"amsgrad": true})),
        (
            "AdamW",
            json!({"weight_decay": 0.1, "layer_wise_lr_decay": 0.9}),
        ),
        ("Adamax", json!({})),
        ("ASGD", json!({"t0": 2})),
        ("NAdam", json!({})),
        ("RAdam", json!({})),
        ("RMSprop", json!({"momentum": 0.5, "centered": true})),
        ("Rprop", json!({})),
        ("SGD", json!({"momentum": 0.9, "max_grad_norm": 0.1})),
    ] {
        let hyper = json!({"optimizer": optimizer, "optimizer_options": options});
        row(optimizer.to_owned(), &ranking, hyper, none(), none());
    }
    for scheduler in [
        "linear",
        "cosine",
        "cosine_with_restarts",
        "polynomial",
        "constant",
        "constant_with_warmup",
    ] {
        for (step, warmup) in [("batch", 2), ("epoch", 1)] {
            let hyper = json!({"scheduler": scheduler, "scheduler_options":
                {"num_warmup_steps": warmup, "scheduler_step": step}});
            row(
                format!("{scheduler} by {step}"),
                &labels,
                hyper,
                none(),
                none(),
            );
        }
    }
    // Losses with weights, with a memory, and with random draws.
    for (loss, options) in [
        ("ArcFaceLoss", json!({})),
        ("CosFaceLoss", json!({})),
        ("LargeMarginSoftmaxLoss", json!({})),
        ("NormalizedSoftmaxLoss", json!({})),
        ("ProxyAnchorLoss", json!({})),
        ("ProxyNCALoss", json!({})),
        ("SoftTripleLoss", json!({})),
        ("SphereFaceLoss", json!({})),
        ("MarginLoss", json!({"learn_beta": true})),
        (
            "CrossBatchMemory",
            json!({"loss": "NTXentLoss", "memory_size": 20}),
        ),
        ("TripletMarginLoss", json!({"triplets_per_anchor": 2})),
        (
            "MultipleLosses",
            json!({"losses": ["ArcFaceLoss", "NTXentLoss"]}),
        ),
    ] {
        let hyper = json!({"loss": loss, "loss_options": options});
        row(loss.to_owned(), &labels, hyper, none(), none());
    }
    for (miner, options) in [
        ("DistanceWeightedMiner", json!({})),
        (
            "MaximumLossMiner",
            json!({"output_batch_size": 6, "num_trials": 3}),
        ),
        ("UniformHistogramMiner", json!({})),
    ] {
        let hyper = json!({"miner": miner, "miner_options": options});
        row(miner.to_owned(), &labels, hyper, none(), none());
    }
    let lengths = |inner: Value| {
        json!({"loss": "MatryoshkaLoss", "loss_options": {"matryoshka_dims": [6, 4, 2],
            "n_dims_per_step": 2, "loss": "MultipleNegativeRankingLoss", "loss_options": inner}})
    };
    row(
        "lengths that are drawn".to_owned(),
        &ranking,
        lengths(none()),
        none(),
        none(),
    );

    // Heads, dropout, cached gradients, gradient accumulation, and all of them.
    let head = json!({"output_dim": 8});
    let frozen = json!({"output_dim": 8, "freeze": true});
    let dropout = |on: bool| json!({"options": {"dropout": on, "seed": 3}});
    let both = json!({"output_dim": 8, "options": {"dropout": true}});
    let cached = json!({"loss_options": {"mini_batch_size": 2}});
    let several = json!({"batch_size": 2, "gradient_accumulation_steps": 3});
    let all = json!({"batch_size": 3, "gradient_accumulation_steps": 2,
        "loss_options": {"mini_batch_size": 2}});
    for (name, hyper, model) in [
        ("a head", none(), head.clone()),
        ("a head on a frozen network", none(), frozen),
        ("dropout", none(), dropout(true)),
        ("cached gradients", cached.clone(), none()),
        ("cached gradients and a head", cached.clone(), head),
        (
            "cached gradients under dropout",
            cached.clone(),
            dropout(true),
        ),
        ("steps of several batches", several.clone(), none()),
        (
            "steps of several batches under dropout",
            several,
            dropout(true),
        ),
        ("all at once", all, both),
        (
            "lengths and cached gradients",
            lengths(json!({"mini_batch_size": 2})),
            dropout(true),
        ),
    ] {
        row(name.to_owned(), &ranking, hyper, model, none());
    }
    let adapters = |options: Value| {
        let mut lora = json!({"r": 4, "target_modules": "all-linear"});
        merge(&mut lora, options);
        json!({"options": {"lora": lora, "seed": 3}})
    };
    let whole = json!({"modules_to_save": ["LayerNorm"], "lora_dropout": 0.3});
    for (name, hyper, model) in [
        ("adapters", none(), adapters(none())),
        (
            "adapters under dropout",
            none(),
            adapters(json!({"lora_dropout": 0.3})),
        ),
        (
            "adapters under dropout and cached gradients",
            cached.clone(),
            adapters(whole),
        ),
    ] {
        row(name.to_owned(), &ranking, hyper, model, none());
    }
    let alone = base(
        text.clone(),
        json!({"loss": "MultipleNegativeRankingLoss"}),
        single_texts,
    );
    row("texts alone".to_owned(), &alone, none(), none(), none());
    let scores = base(text.clone(), json!({"loss": "CoSENTLoss"}), |_| scored(8));
    row(
        "scored pairs".to_owned(),
        &scores,
        none(),
        dropout(true),
        none(),
    );
    let labelled = base(
        text,
        json!({"loss": "BatchHardTripletLoss", "batch_size": 4}),
        |_| texts(),
    );
    row(
        "labelled texts".to_owned(),
        &labelled,
        none(),
        dropout(true),
        json!({"num_items_per_class": 2}),
    );
    let siglip = json!({"name": path(&fixture("siglip"))});
    for loss in ["SigLIPLoss", "CLIPLoss"] {
        let towers = base(siglip.clone(), json!({"loss": loss}), |_| text_images());
        row(loss.to_owned(), &towers, none(), none(), none());
        row(
            format!("{loss}, cached"),
            &towers,
            cached.clone(),
            none(),
            none(),
        );
    }
    let network = base(
        json!({"name": path(models.images.path())}),
        json!({"loss": "NTXentLoss", "batch_size": 6}),
        |_| images(),
    );
    row(
        "moving moments".to_owned(),
        &network,
        none(),
        none(),
        none(),
    );
    row(
        "moving moments under dropout".to_owned(),
        &network,
        none(),
        dropout(true),
        none(),
    );
    rows
}

#[test]
fn every_kind_of_resumed_run_ends_with_the_same_bits() {
    let models = Models::new();
    let folder = tempfile::tempdir().unwrap();
    let rows = rows(&models);
    for (name, base, data) in &rows {
        let mut json = json!({
            "run_name": "resumed", "experiment_name": "tests", "model": base.model,
            "data": {"train_data": "train"}, "hyper_parameters": base.hyper, "callbacks": [],
        });
        merge(&mut json["data"], data.clone());
        let case = Case {
            config: serde_json::from_value(json).unwrap(),
            documents: base.documents,
        };
        let mut whole = Watcher::quiet(folder.path(), None);
        let expected = run(&case, None, &mut whole);
        let expected = expected.unwrap_or_else(|error| panic!("{name}: {error}"));
        let steps = whole.steps.len();
        assert!(steps >= 4, "{name}: {steps} steps");
        // Between two steps of the second epoch.
        let stop = steps / 2 + 1;
        let mut first = Watcher::quiet(folder.path(), Some(stop));
        let stopped = run(&case, None, &mut first).err();
        assert!(
            matches!(stopped, Some(Error::Interrupted)),
            "{name}: {stopped:?}"
        );
        let (checkpoint, _): (PathBuf, _) = first.kept.unwrap();
        let mut second = Watcher::quiet(folder.path(), None);
        let found = run(&case, Some(&checkpoint), &mut second);
        let found = found.unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!([first.steps, second.steps].concat(), whole.steps, "{name}");
        assert_eq!(
            [first.epochs, second.epochs].concat(),
            whole.epochs,
            "{name}"
        );
        assert_eq!(
            found.weights.keys().collect::<Vec<_>>(),
            expected.weights.keys().collect::<Vec<_>>(),
            "{name}"
        );
        for (file, bytes) in &found.weights {
            assert!(
                *bytes == expected.weights[file],
                "{name}: other weights in {file}"
            );
        }
    }
}
