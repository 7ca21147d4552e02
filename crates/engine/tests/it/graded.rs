//! Runs that are evaluated on scored pairs or triplets.

use std::collections::HashMap;

use finetuner_protocol::{Document, DocumentArray};
use serde_json::{Value, json};

use crate::runs::{Data, config, run, texts};

fn chunks(texts: &[&str]) -> Document {
    let parts = texts.iter().map(|text| Document::text(*text));
    parts.fold(Document::new(), Document::with_chunk)
}

const ROWS: [[&str; 3]; 5] = [
    [
        "how do I sew on a button",
        "use a needle and thread",
        "meat and fish",
    ],
    [
        "what do cats eat",
        "a cat lives on meat and fish",
        "in hot water",
    ],
    [
        "how far is the moon",
        "384400 kilometres on average",
        "a warm coat",
    ],
    ["what is a parka", "a warm coat with a hood", "use a needle"],
    [
        "where is Lisbon",
        "at the coast of Portugal",
        "sewing by hand",
    ],
];

fn data() -> Data {
    let pairs = |scores: [f64; 5]| -> DocumentArray {
        let rows = ROWS.iter().zip(scores);
        let document = |([a, b, _], score): (&[&str; 3], f64)| chunks(&[a, b]).with_score(score);
        rows.map(document).collect::<Vec<_>>().into()
    };
    let triplets: Vec<Document> = ROWS.iter().map(|row| chunks(row)).collect();
    HashMap::from([
        ("train", texts()),
        ("scored", pairs([0.9, 0.1, 0.5, 0.7, 0.3])),
        ("binary", pairs([1.0, 0.0, 1.0, 0.0, 1.0])),
        ("triplets", triplets.into()),
    ])
}

fn evaluated(options: Value, watch: Option<&str>) -> Value {
    let hyper = json!({"epochs": 2, "batch_size": 6, "learning_rate": 1e-4});
    let mut callbacks = vec![json!({"name": "EvaluationCallback", "options": options})];
    callbacks.extend(watch.map(
        |monitor| json!({"name": "EarlyStopping", "options": {"monitor": monitor, "patience": 5}}),
    ));
    config(json!({"name": "minilm-small"}), hyper, callbacks.into())
}

#[test]
fn the_layout_of_the_data_selects_the_metrics() {
    for (name, watch, wanted) in [
        (
            "scored",
            "spearman_cosine",
            &["pearson_cosine", "spearman_cosine"][..],
        ),
        (
            "binary",
            "cosine_ap",
            &[
                "cosine_accuracy",
                "cosine_accuracy_threshold",
                "cosine_ap",
                "cosine_f1",
                "cosine_f1_threshold",
                "cosine_mcc",
                "cosine_precision",
                "cosine_recall",
            ],
        ),
        ("triplets", "cosine_accuracy", &["cosine_accuracy"]),
    ] {
        let done = run(evaluated(json!({"query_data": name}), Some(watch)), &data()).unwrap();
        let names: Vec<&String> = done.finished.after.keys().collect();
        assert_eq!(names, wanted);
        assert_eq!(done.finished.before.len(), wanted.len());
        assert!(done.logged("Model improved from -inf"));
    }
    let wanted = ["max_accuracy", "manhattan_accuracy"];
    let options = json!({"query_data": "triplets", "metrics": wanted, "caption": "own"});
    let done = run(evaluated(options, Some("own_max_accuracy")), &data()).unwrap();
    let names: Vec<&str> = done.finished.after.keys().map(String::as_str).collect();
    assert_eq!(names, ["own_manhattan_accuracy", "own_max_accuracy"]);
    assert_eq!(done.finished.before["own_max_accuracy"], 1.0);
    // A retrieval evaluation of the same documents, if requested.
    let options = json!({"query_data": "triplets", "metrics": ["recall@1"]});
    let done = run(evaluated(options, None), &data()).unwrap();
    assert!(done.finished.after.contains_key("recall@1"));
}

#[test]
fn metrics_that_do_not_fit_the_data_are_rejected_by_name() {
    for (options, watch, part) in [
        (
            json!({"query_data": "scored", "metrics": ["cosine_ap"]}),
            None,
            "`cosine_ap` can't be measured on pairs with a score",
        ),
        (
            json!({"query_data": "train", "metrics": ["spearman_cosine"]}),
            None,
            "is neither",
        ),
        (
            json!({"query_data": "scored", "metrics": ["spearman_cosine", "recall@1"]}),
            None,
            "of its own",
        ),
        (
            json!({"query_data": "scored", "index_data": "train", "metrics": ["spearman_dot"]}),
            None,
            "remove `index_data`",
        ),
        (
            json!({"query_data": "scored", "metrics": ["spearman_far"]}),
            None,
            "spearman_cosine",
        ),
        (
            json!({"query_data": "binary"}),
            Some("cosine_f1_threshold"),
            "neither high nor low is better",
        ),
    ] {
        let error = run(evaluated(options.clone(), watch), &data())
            .err()
            .unwrap();
        let error = error.to_string();
        assert!(
            error.contains(part),
            "{options}: {part} is missing in: {error}"
        );
    }
}
