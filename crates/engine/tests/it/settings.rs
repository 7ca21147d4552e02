//! Settings and data from which nothing can be learned or measured are refused
//! before a run, or logged.

use std::collections::HashMap;

use finetuner_engine::{
    data::Documents,
    job::check_data,
    plan::{Allowed, Plan},
    source::open_artifact,
};
use finetuner_protocol::{Document, DocumentArray, Modality, RunConfig};
use serde_json::{Value, json};

use crate::runs::{Data, config, features, images, run, run_from, texts};

fn mlp() -> Value {
    json!({"name": "mlp", "options": {"input_size": 5, "hidden_sizes": [4]}})
}

/// Images, each with its own text.
pub(crate) fn pairs() -> DocumentArray {
    let images = images().into_iter().enumerate();
    images
        .map(|(i, mut image)| {
            image.tags.clear();
            Document::new()
                .with_chunk(Document::text(format!("thing number {i}")).with_modality("text"))
                .with_chunk(image.with_modality("image"))
        })
        .collect()
}

/// Returns the result of checking a submission.
pub(crate) fn checked(config: Value, data: &Data) -> Result<(), String> {
    let config: RunConfig = serde_json::from_value(config).unwrap();
    let plan = Plan::new(&config, Allowed::default()).map_err(|e| e.to_string())?;
    let read = |name: &str| {
        let documents = data[name].clone();
        Ok(Box::new(documents.into_iter().map(Ok)) as Documents)
    };
    check_data(&plan, &read).map_err(|e| e.to_string())
}

#[test]
fn batches_that_are_too_small_are_refused_before_the_run() {
    let data = HashMap::from([("train", features())]);
    let refused = |model: Value, loss: &str, size: u64| {
        let hyper = json!({"loss": loss, "epochs": 1, "batch_size": size});
        checked(config(model, hyper, json!([])), &data)
            .err()
            .unwrap_or_default()
    };
    let mut frozen = mlp();
    frozen["freeze"] = true.into();
    for (found, part) in [
        (
            refused(frozen, "ArcFaceLoss", 1),
            "`batch_size`: 1: `freeze` and `output_dim` train a projection head",
        ),
        (
            refused(mlp(), "TripletMarginLoss", 3),
            "`batch_size`: 3: `TripletMarginLoss` compares",
        ),
        (
            refused(mlp(), "MultipleNegativeRankingLoss", 1),
            "`batch_size`: 1: `MultipleNegativeRankingLoss` compares the examples of a batch",
        ),
        (
            refused(json!({"name": "clip-small"}), "CLIPLoss", 1),
            "`batch_size`: 1: `CLIPLoss`",
        ),
    ] {
        assert!(found.contains(part), "{part} is missing in: {found}");
    }
    assert_eq!(refused(mlp(), "ArcFaceLoss", 1), "");
    assert_eq!(refused(mlp(), "TripletMarginLoss", 4), "");
}

#[test]
fn a_batch_of_one_for_a_head_is_refused_without_a_stack_trace() {
    let data = HashMap::from([("train", features())]);
    let mut model = mlp();
    model["output_dim"] = 2.into();
    let hyper = |size: u32| json!({"loss": "ArcFaceLoss", "epochs": 1, "batch_size": size});
    let found = checked(config(model.clone(), hyper(1), json!([])), &data).unwrap_err();
    assert!(
        found.contains("`output_dim` train a projection head"),
        "{found}"
    );
    // A head in an artifact is found only when the model is read.
    let first = run(config(model, hyper(2), json!([])), &data).unwrap();
    let opened = tempfile::tempdir().unwrap();
    open_artifact(&first.finished.artifact, opened.path()).unwrap();
    let second = config(json!({"artifact": "an-id"}), hyper(1), json!([]));
    let found = run_from(second, &data, Some(opened.path()))
        .err()
        .unwrap()
        .to_string();
    assert!(
        found.contains("`batch_size`: 1: the model has a projection head"),
        "{found}"
    );
}

#[test]
fn data_without_positives_or_negatives_is_refused_before_the_run() {
    let hyper = |loss: &str| json!({"loss": loss, "epochs": 1, "batch_size": 4});
    let refused = |labels: &[&str], loss: &str| {
        let train = labels
            .iter()
            .map(|label| Document::tensor(&[1.0, 2.0, 3.0, 4.0, 5.0], &[5]).with_label(*label));
        let data = HashMap::from([("train", train.collect::<DocumentArray>())]);
        checked(config(mlp(), hyper(loss), json!([])), &data)
            .err()
            .unwrap_or_default()
    };
    for (found, part) in [
        (
            refused(&["a"; 3], "TripletMarginLoss"),
            "all examples have the same label",
        ),
        (
            refused(&["a"; 3], "MultipleNegativeRankingLoss"),
            "all examples have the same label",
        ),
        (
            refused(&["a", "b", "c"], "TripletMarginLoss"),
            "no two examples share a label",
        ),
        (refused(&["a"], "ArcFaceLoss"), "at least 2 are needed"),
        (
            refused(&["a", "a", " "], "TripletMarginLoss"),
            "`finetuner_label` is empty",
        ),
        (
            refused(&["a", "a", "\u{200b}"], "TripletMarginLoss"),
            "`finetuner_label` is empty",
        ),
        (
            refused(&["a", "a", "NaN"], "TripletMarginLoss"),
            "`finetuner_label` is `NaN`, a missing value",
        ),
    ] {
        assert!(found.contains(part), "{part} is missing in: {found}");
    }
    assert_eq!(refused(&["a", "a", "b"], "TripletMarginLoss"), "");
    let mut shown = texts();
    shown.push(Document::text("\u{200B}\u{7}\u{FE0F}").with_label(0));
    let data = HashMap::from([("train", shown)]);
    let model = json!({"name": "minilm-small"});
    let found = checked(config(model, hyper("TripletMarginLoss"), json!([])), &data).unwrap_err();
    assert!(
        found.contains("document 10") && found.contains("it holds no text"),
        "{found}"
    );
}

#[test]
fn scores_that_no_cosine_can_reach_are_refused() {
    let pair = |score: f64| {
        Document::new()
            .with_chunk(Document::text("a"))
            .with_chunk(Document::text("b"))
            .with_tag("finetuner_score", score)
    };
    let refused = |scores: [f64; 2], loss: &str| {
        let mut pairs: DocumentArray = scores.into_iter().map(pair).collect();
        if loss == "MarginMSELoss" {
            for pair in &mut *pairs {
                pair.chunks.push(Document::text("c"));
            }
        }
        let data = HashMap::from([("train", pairs)]);
        let hyper = json!({"loss": loss, "epochs": 1, "batch_size": 2});
        checked(
            config(json!({"name": "minilm-small"}), hyper, json!([])),
            &data,
        )
        .err()
        .unwrap_or_default()
    };
    let found = refused([1.0, 4.5], "CosineSimilarityLoss");
    assert!(
        found.contains("1 of 2 documents of `train_data` (`train`)")
            && found.contains("such as 4.5"),
        "{found}"
    );
    assert_eq!(refused([-1.0, 1.0], "CosineSimilarityLoss"), "");
    // A margin may be any number.
    assert_eq!(refused([1.0, 4.5], "MarginMSELoss"), "");
}

#[test]
fn a_split_that_leaves_nothing_is_refused_with_its_numbers() {
    let refused = |count: usize, part: f64| {
        let train: DocumentArray = features().into_iter().take(count).collect();
        let data = HashMap::from([("train", train)]);
        let hyper = json!({"loss": "ArcFaceLoss", "epochs": 1});
        let mut config = config(mlp(), hyper, json!([]));
        config["data"]["val_split"] = part.into();
        checked(config, &data).err().unwrap_or_default()
    };
    let found = refused(4, 0.1);
    assert!(
        found.contains(
            "`val_split`: 0.1: this splits the 4 examples of `train_data` (`train`) into 4 for training and 0"
        ),
        "{found}"
    );
    let found = refused(3, 0.99);
    assert!(
        found.contains("into 0 for training and 3 for validation"),
        "{found}"
    );
    assert_eq!(refused(24, 0.1), "");
}

#[test]
fn validation_data_that_measures_nothing_is_refused() {
    let some = |from: DocumentArray, wanted: &[usize]| -> DocumentArray {
        let all: Vec<Document> = from.into_iter().collect();
        wanted.iter().map(|i| all[*i].clone()).collect()
    };
    let label = |i: usize| texts()[i].label();
    assert!(label(0) == label(1) && label(2) != label(3));
    let refused = |eval: &[usize], loss: &str| {
        let data = HashMap::from([("train", texts()), ("eval", some(texts(), eval))]);
        let hyper = json!({"loss": loss, "epochs": 1, "batch_size": 9});
        let mut config = config(json!({"name": "minilm-small"}), hyper, json!([]));
        config["data"]["eval_data"] = "eval".into();
        checked(config, &data).err().unwrap_or_default()
    };
    for (eval, part) in [
        (&[0, 1][..], "all have the same label"),
        (&[2, 3], "no two share a label"),
    ] {
        let found = refused(eval, "TripletMarginLoss");
        assert!(
            found.contains("`eval_data`: of the 2 validation examples of `eval_data` (`eval`)")
                && found.contains(part),
            "{found}"
        );
        // It compares examples with the weights of classes.
        assert_eq!(refused(eval, "ArcFaceLoss"), "");
    }
    assert_eq!(refused(&[0, 1, 3], "TripletMarginLoss"), "");
}

#[test]
fn boundaries_per_class_apply_only_to_classes_of_the_training_data() {
    let all: Vec<Document> = features().into_iter().collect();
    let label = |document: &Document| format!("new {}", document.label().unwrap_or_default());
    let other = |document: &Document| document.clone().with_label(label(document));
    let eval: DocumentArray = all[..6].iter().map(other).collect();
    let data = HashMap::from([("train", features()), ("eval", eval)]);
    let options = json!({"learn_beta": true, "num_classes": 4});
    for (options, part) in [
        (
            options,
            "has weights for the classes of the training data only",
        ),
        (json!({}), ""),
    ] {
        let hyper =
            json!({"loss": "MarginLoss", "loss_options": options, "epochs": 1, "batch_size": 8});
        let mut config = config(mlp(), hyper, json!([]));
        config["data"]["eval_data"] = "eval".into();
        let found = checked(config, &data).err().unwrap_or_default();
        assert!(found.contains(part), "{found}");
    }
}

#[test]
fn a_text_with_several_labels_is_logged() {
    let mut all = texts();
    let data = HashMap::from([("train", all.clone())]);
    let hyper = json!({"loss": "TripletMarginLoss", "epochs": 1, "batch_size": 10});
    let config = || config(json!({"name": "minilm-small"}), hyper.clone(), json!([]));
    let part = "1 of 9 texts have several labels, such as `what do cats eat` (`1`, `2`)";
    assert!(!run(config(), &data).unwrap().logged("several labels"));
    all.push(Document::text("what do cats eat").with_label(2));
    let data = HashMap::from([("train", all)]);
    let run = run(config(), &data).unwrap();
    assert!(run.logged(part), "{:?}", run.log());
}

#[test]
fn a_loss_that_starts_at_zero_is_logged() {
    let data = HashMap::from([("train", features())]);
    let hyper = json!({"loss": "TripletMarginLoss", "loss_options": {"margin": -5}, "epochs": 2});
    let run = run(config(mlp(), hyper, json!([])), &data).unwrap();
    assert_eq!(run.times_logged("first epoch is 0"), 1);
}

#[test]
fn callbacks_that_monitor_unmeasured_metrics_are_refused() {
    let data = HashMap::from([("train", features())]);
    let refused = |callbacks: Value| {
        let hyper = json!({"loss": "TripletMarginLoss", "epochs": 1});
        checked(config(mlp(), hyper, callbacks), &data)
            .err()
            .unwrap_or_default()
    };
    let watch = |monitor: &str| json!({"name": "EarlyStopping", "options": {"monitor": monitor}});
    let evaluate = json!({"name": "EvaluationCallback",
        "options": {"query_data": "train", "caption": "mine"}});
    for (found, part) in [
        (
            refused(json!([watch("val_loss")])),
            "measures no validation loss; set `eval_data`",
        ),
        (
            refused(json!([watch("recall_at_k")])),
            "the run evaluates nothing",
        ),
        (
            refused(json!([watch("mine_recall_at_k"), evaluate])),
            "put the `EvaluationCallback` that measures it before this one",
        ),
        (
            refused(json!([evaluate, watch("recall_at_k")])),
            "it is not measured; the run measures mine_",
        ),
    ] {
        assert!(found.contains(part), "{part} is missing in: {found}");
    }
    assert_eq!(refused(json!([evaluate, watch("mine_recall_at_k")])), "");
    // The default. The log says that the last epoch's model is saved.
    assert_eq!(refused(json!([{"name": "BestModelCheckpoint"}])), "");
}

#[test]
fn evaluations_that_can_find_nothing_are_refused_and_others_warn() {
    let labelled = |labels: &[&str]| -> DocumentArray {
        let all = features().into_iter().zip(labels);
        all.map(|(document, label)| document.with_label(*label))
            .collect()
    };
    let train = labelled(&["1", "1", "2", "2"]);
    let hyper = || json!({"loss": "TripletMarginLoss", "epochs": 1});
    let callbacks = || {
        json!([{"name": "EvaluationCallback",
            "options": {"query_data": "query", "index_data": "train"}}])
    };
    let data = HashMap::from([
        ("train", train.clone()),
        ("query", labelled(&["1.0", "2.0"])),
    ]);
    let found = checked(config(mlp(), hyper(), callbacks()), &data).unwrap_err();
    assert!(
        found.contains("2 of 2 queries of `query_data` (`query`) have no relevant document")
            && found.contains("`1.0` differs from `1`"),
        "{found}"
    );
    let data = HashMap::from([("train", train), ("query", labelled(&["1.0", "2"]))]);
    let run = run(config(mlp(), hyper(), callbacks()), &data).unwrap();
    assert!(run.logged("1 of 2 queries of `query_data` (`query`) have no relevant document"));
}

#[test]
fn validation_data_with_other_classes_is_logged() {
    let labelled = |labels: &[&str]| -> DocumentArray {
        let all = features().into_iter().zip(labels);
        all.map(|(document, label)| document.with_label(*label))
            .collect()
    };
    let with = |eval: &[&str]| {
        let train = labelled(&["a", "a", "b", "b"]);
        let data = HashMap::from([("train", train), ("eval", labelled(eval))]);
        let mut config = config(
            mlp(),
            json!({"loss": "ArcFaceLoss", "epochs": 1}),
            json!([]),
        );
        config["data"]["eval_data"] = "eval".into();
        (checked(config.clone(), &data), run(config, &data))
    };
    let (found, _) = with(&["c", "d"]);
    let found = found.unwrap_err();
    assert!(
        found.contains("`eval_data`: 2 of the 2 validation examples of `eval_data` (`eval`)"),
        "{found}"
    );
    let (found, run) = with(&["a", "d"]);
    assert_eq!(found, Ok(()));
    assert!(
        run.unwrap()
            .logged("1 of the 2 validation examples of `eval_data` (`eval`)")
    );
}

#[test]
fn too_many_warm_up_steps_are_refused_if_the_steps_are_known() {
    let data = HashMap::from([("train", features())]);
    let hyper = json!({"loss": "TripletMarginLoss", "epochs": 2, "batch_size": 12,
        "scheduler": "linear", "scheduler_options": {"num_warmup_steps": 5}});
    let mut config = config(mlp(), hyper, json!([]));
    let found = checked(config.clone(), &data).unwrap_err();
    assert!(
        found.contains("`num_warmup_steps` is 5: give at most the 4 steps of training"),
        "{found}"
    );
    config["hyper_parameters"]["batch_size"] = Value::Null;
    assert_eq!(checked(config, &data), Ok(()));
}

#[test]
fn extreme_settings_are_refused_and_diverged_models_are_not_saved() {
    let data = HashMap::from([("train", features())]);
    let with = |hyper: Value| {
        let mut all = json!({"loss": "TripletMarginLoss", "epochs": 3, "batch_size": 12});
        for (key, value) in hyper.as_object().unwrap() {
            all[key] = value.clone();
        }
        run(config(mlp(), all, json!([])), &data)
            .err()
            .map(|e| e.to_string())
            .unwrap_or_default()
    };
    for (hyper, part) in [
        (
            json!({"optimizer": "AdamW", "optimizer_options": {"weight_decay": 1e30}}),
            "`weight_decay` is 1e+30: give a number from 0 to 1000",
        ),
        (
            json!({"optimizer": "AdamW", "learning_rate": 0.5,
                "optimizer_options": {"weight_decay": 10}}),
            "`weight_decay` is 10: with a learning rate of 0.5 it must be less than 2",
        ),
        (
            json!({"loss_options": {"margin": 1e30}}),
            "`margin` is 1e+30: give a number from -1000000 to 1000000",
        ),
        (
            json!({"loss_options": {"margin": "NaN"}}),
            "`margin` is \"NaN\"",
        ),
    ] {
        let found = with(hyper);
        assert!(found.contains(part), "{part} is missing in: {found}");
    }
    // Features that overflow: NaN distances count as zero loss.
    let huge = features().into_iter().enumerate().map(|(i, document)| {
        let label = document.label().unwrap();
        Document::tensor(&[if i % 2 == 0 { 3e38 } else { -3e38 }; 5], &[5]).with_label(label)
    });
    let data = HashMap::from([("train", huge.collect::<DocumentArray>())]);
    let hyper = json!({"loss": "TripletMarginLoss", "epochs": 1, "batch_size": 12});
    let found = run(config(mlp(), hyper, json!([])), &data)
        .err()
        .unwrap()
        .to_string();
    assert!(found.contains("diverged"), "{found}");
}

#[test]
fn repeated_captions_are_logged() {
    let mut repeated = pairs();
    for document in repeated.iter_mut().take(3) {
        let text = document
            .chunks
            .iter_mut()
            .find(|chunk| chunk.modality == Some(Modality::Text));
        *text.unwrap() = Document::text("the same").with_modality("text");
    }
    let data = HashMap::from([("train", repeated)]);
    let hyper = json!({"loss": "CLIPLoss", "epochs": 1, "batch_size": 6});
    let run = run(
        config(json!({"name": "clip-small"}), hyper, json!([])),
        &data,
    )
    .unwrap();
    assert!(run.logged("3 of 12 pairs share their caption with another (3 have `the same`)"));
}
