//! Compares steps over mini-batches with cached gradients, and steps over
//! several batches, with steps over one large batch.

use std::path::Path;

use finetuner_engine::{Error, params::parse_safetensors};
use finetuner_protocol::{Document, DocumentArray};
use serde_json::{Value, json};

use crate::{
    runs::{Data, Run, config, images, run, texts},
    sentence::folder,
    support::{Tensors, fixture, json as fixture_json, norm},
};

/// Returns `count` text pairs, each with this number of negatives.
pub(crate) fn pairs(count: usize, negatives: usize) -> DocumentArray {
    let words = [
        "a long red dress",
        "white shoe",
        "the blue boat",
        "small hat",
        "lake",
    ];
    let text = |i: usize| {
        let (a, b) = (words[i % 5], words[(i / 5 + 2 * i) % 5]);
        Document::text(format!("{a} with {b}"))
    };
    let row = |i: usize| {
        let members = (0..2 + negatives).map(|member| text(3 * i + 7 * member));
        members.fold(Document::new(), Document::with_chunk)
    };
    (0..count).map(row).collect()
}

/// Images with the texts of `pairs`.
pub(crate) fn text_images() -> DocumentArray {
    let texts = pairs(6, 0);
    let with_image = |(text, image): (Document, Document)| {
        Document::new()
            .with_chunk(text.chunks[0].clone().with_modality("text"))
            .with_chunk(image.with_modality("image"))
    };
    texts.into_iter().zip(images()).map(with_image).collect()
}

/// Returns the final weights of a run.
fn weights(run: &Run) -> Tensors {
    let opened = run.opened();
    let mut all = Tensors::new();
    let mut folders = vec![opened.path().to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap().map(Result::unwrap) {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|end| end == "safetensors") {
                let name = path
                    .strip_prefix(opened.path())
                    .unwrap()
                    .display()
                    .to_string();
                let tensors = parse_safetensors(&std::fs::read(&path).unwrap(), &name).unwrap();
                let named = tensors.into_iter();
                all.extend(named.map(|(tensor, value)| (format!("{name}/{tensor}"), value)));
            }
        }
    }
    assert!(!all.is_empty());
    all
}

/// Checks that two runs have the same losses and weights, and that the weights
/// moved by much more than they differ.
fn same(what: &str, plain: &Run, other: &Run, untrained: &Run) {
    assert_eq!(plain.losses().len(), other.losses().len(), "{what}");
    for (a, b) in plain.losses().iter().zip(other.losses()) {
        assert!(
            (a - b).abs() <= 1e-5 * a.abs().max(1.0),
            "{what}: loss {a} and {b}"
        );
    }
    let [plain, other, untrained] = [plain, other, untrained].map(weights);
    let distance = |a: &Tensors, b: &Tensors| {
        assert_eq!(a.len(), b.len(), "{what}");
        let differences = a.iter().flat_map(|(name, (_, a))| {
            let (_, b) = &b[name];
            a.iter().zip(b).map(|(a, b)| a - b)
        });
        norm(differences)
    };
    let moved = distance(&plain, &untrained);
    let apart = distance(&plain, &other);
    assert!(moved > 1e-2, "{what}: trained by {moved} only");
    assert!(
        apart <= 1e-5 * moved.max(1.0),
        "{what}: {apart} apart after {moved}"
    );
}

/// Trains with each of these losses; the first one is plain.
fn compare(what: &str, model: &Value, data: &DocumentArray, losses: &[Value]) {
    compare_at(0.05, what, model, data, losses);
}

/// Like [`compare`], at a learning rate. A high one lets rounding errors grow
/// from step to step.
fn compare_at(rate: f64, what: &str, model: &Value, data: &DocumentArray, losses: &[Value]) {
    let data = Data::from([("train", data.clone())]);
    let train = |loss: &Value, rate: f64| {
        let mut hyper = json!({"epochs": 3, "batch_size": 6, "optimizer": "SGD",
            "learning_rate": rate});
        hyper["loss"] = loss["loss"].clone();
        hyper["loss_options"] = loss["loss_options"].clone();
        run(config(model.clone(), hyper, json!([])), &data)
            .unwrap_or_else(|error| panic!("{what}: {error}"))
    };
    let (plain, untrained) = (train(&losses[0], rate), train(&losses[0], 1e-12));
    for loss in &losses[1..] {
        same(
            &format!("{what} {loss}"),
            &plain,
            &train(loss, rate),
            &untrained,
        );
    }
}

fn path(folder: &Path) -> &str {
    folder.to_str().unwrap()
}

#[test]
fn mini_batches_of_text_pairs_train_as_the_whole_batch() {
    let network = folder("chain");
    let ranking =
        |options: Value| json!({"loss": "MultipleNegativeRankingLoss", "loss_options": options});
    // The last mini-batch is smaller, and so is the last batch.
    let losses = [
        ranking(json!({})),
        ranking(json!({"mini_batch_size": 4})),
        ranking(json!({"mini_batch_size": 1})),
        json!({"loss": "CachedMultipleNegativesRankingLoss",
            "loss_options": {"mini_batch_size": 2}}),
        json!({"loss": "CachedMultipleNegativesRankingLoss"}),
    ];
    let model = json!({"name": path(network.path())});
    compare("pairs", &model, &pairs(8, 0), &losses);
    compare("negatives", &model, &pairs(8, 2), &losses[..2]);

    // Both passes use the masks of the whole batch.
    let dropped = json!({"name": path(network.path()), "options": {"dropout": true}});
    compare("dropout", &dropped, &pairs(8, 0), &losses[..4]);

    let cut = |mini: Value| {
        json!({"loss": "MatryoshkaLoss", "loss_options": {"matryoshka_dims": [6, 3],
            "loss": "MultipleNegativeRankingLoss", "loss_options": mini}})
    };
    let losses = [cut(json!({})), cut(json!({"mini_batch_size": 2}))];
    compare_at(0.01, "lengths", &model, &pairs(8, 0), &losses);
}

#[test]
fn a_head_with_batch_normalisation_sees_the_whole_batch() {
    let network = folder("pooling-mean");
    let ranking =
        |options: Value| json!({"loss": "MultipleNegativeRankingLoss", "loss_options": options});
    let losses = [
        ranking(json!({"scale": 2.0})),
        ranking(json!({"scale": 2.0, "mini_batch_size": 2})),
    ];
    for freeze in [false, true] {
        let model = json!({"name": path(network.path()), "output_dim": 8, "freeze": freeze});
        let what = format!("freeze {freeze}");
        compare_at(0.002, &what, &model, &pairs(12, 0), &losses);
    }
}

#[test]
fn mini_batches_of_texts_and_images_train_as_the_whole_batch() {
    let siglip = fixture("siglip");
    let dual = tempfile::tempdir().unwrap();
    let dual = dual.path();
    let mut json = fixture_json("backbones/dual-encoder.json");
    json["text_config"]["max_position_embeddings"] = 12.into();
    std::fs::write(dual.join("config.json"), json.to_string()).unwrap();
    let from = fixture("backbones/dual-encoder.safetensors");
    std::fs::copy(from, dual.join("model.safetensors")).unwrap();
    for file in ["tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(fixture("sentence/network").join(file), dual.join(file)).unwrap();
    }
    for (folder, loss, freeze) in [
        (&*siglip, "SigLIPLoss", false),
        (&*siglip, "CLIPLoss", false),
        (dual, "CLIPLoss", false),
        (dual, "CLIPLoss", true),
    ] {
        let model = json!({"name": path(folder), "freeze": freeze});
        let losses = [
            json!({"loss": loss, "loss_options": {}}),
            json!({"loss": loss, "loss_options": {"mini_batch_size": 4}}),
        ];
        let what = format!("{} {loss} freeze {freeze}", folder.display());
        compare(&what, &model, &text_images(), &losses);
    }
}

#[test]
fn mini_batches_are_refused_where_they_change_the_embeddings() {
    let refused = |model: Value, loss: Value, data: DocumentArray| -> String {
        let data = Data::from([("train", data)]);
        let mut hyper = json!({"epochs": 1, "batch_size": 4});
        hyper["loss"] = loss["loss"].clone();
        hyper["loss_options"] = loss["loss_options"].clone();
        match run(config(model, hyper, json!([])), &data) {
            Err(error @ Error::Config { .. }) => error.to_string(),
            Err(error) => panic!("{error}"),
            Ok(_) => panic!("it was trained"),
        }
    };
    let cached = |loss: &str| json!({"loss": loss, "loss_options": {"mini_batch_size": 2}});
    let ranking = "MultipleNegativeRankingLoss";
    for (model, loss, data) in [
        (
            json!({"name": "efficientnet-small"}),
            cached(ranking),
            images(),
        ),
        (
            json!({"name": "two-towers-small"}),
            cached("CLIPLoss"),
            text_images(),
        ),
    ] {
        let error = refused(model, loss, data);
        for part in [
            "`loss_options`",
            "`mini_batch_size` is 2",
            "batch normalisation",
        ] {
            assert!(error.contains(part), "{error}");
        }
    }
    let network = folder("pooling-mean");
    let model = json!({"name": path(network.path())});
    let zero = json!({"loss": ranking, "loss_options": {"mini_batch_size": 0}});
    let error = refused(model.clone(), zero, pairs(4, 0));
    assert!(
        error.contains("`mini_batch_size` is 0: give a whole number of at least 1"),
        "{error}"
    );
    let error = refused(model, cached("TripletMarginLoss"), texts());
    assert!(error.contains("`mini_batch_size` is 2"), "{error}");
}

/// Pairs with scores.
pub(crate) fn scored(count: usize) -> DocumentArray {
    let scored = |(i, mut document): (usize, Document)| {
        let score = [0.1, 0.9, 0.4, -0.3][i % 4];
        document
            .tags
            .insert("finetuner_score".to_owned(), score.into());
        document
    };
    pairs(count, 0)
        .into_iter()
        .enumerate()
        .map(scored)
        .collect()
}

#[test]
fn several_batches_of_a_step_train_as_one_large_batch() {
    let network = folder("pooling-mean");
    let train = |batch: usize, steps: usize, rate: f64, count: usize| {
        let hyper = json!({"loss": "CosineSimilarityLoss", "epochs": 2, "batch_size": batch,
            "gradient_accumulation_steps": steps, "optimizer": "SGD", "learning_rate": rate,
            "optimizer_options": {"max_grad_norm": 0.05}, "scheduler": "linear",
            "scheduler_options": {"num_warmup_steps": 1}});
        let model = json!({"name": path(network.path())});
        let data = Data::from([("train", scored(count))]);
        run(config(model, hyper, json!([])), &data).unwrap()
    };
    // Clipping, warm-up and schedule count optimizer steps.
    let (plain, untrained) = (train(6, 1, 0.5, 12), train(6, 1, 1e-12, 12));
    assert_eq!(plain.losses().len(), 4);
    for (batch, steps) in [(3, 2), (2, 3), (1, 6)] {
        let found = train(batch, steps, 0.5, 12);
        same(
            &format!("{steps} batches of {batch}"),
            &plain,
            &found,
            &untrained,
        );
        assert_eq!(found.rates(), plain.rates());
    }
    // The last step of each epoch averages 2 batches instead of 3.
    let (plain, untrained) = (train(6, 1, 0.5, 10), train(6, 1, 1e-12, 10));
    same("a last step", &plain, &train(2, 3, 0.5, 10), &untrained);
}
