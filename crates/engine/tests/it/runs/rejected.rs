//! Runs that are rejected before training, for their data or their configuration.

use std::{cell::RefCell, collections::HashMap};

use finetuner_protocol::{Document, DocumentArray};
use serde_json::{Value, json};

use super::{config, run, texts};

#[test]
fn data_without_pairs_to_learn_from_is_rejected() {
    let model = json!({"name": "mlp", "options": {"input_size": 2, "hidden_sizes": [4]}});
    let hyper = json!({"loss": "TripletMarginLoss", "epochs": 1, "batch_size": 4});
    let refused = |labels: &[u64]| {
        let train = labels
            .iter()
            .map(|label| Document::tensor(&[1.0, 2.0], &[2]).with_label(*label));
        let data = HashMap::from([("train", train.collect::<DocumentArray>())]);
        let refused = run(config(model.clone(), hyper.clone(), json!([])), &data);
        refused.err().unwrap().to_string()
    };
    assert!(refused(&[1, 1, 1]).contains("all examples have the same label"));
    assert!(refused(&[1, 2, 3]).contains("no two examples share a label"));
    assert!(refused(&[1]).contains("at least 2 are needed"));
}

#[test]
fn invalid_configurations_are_rejected_by_field() {
    let data = RefCell::new(HashMap::from([("train", texts())]));
    let refused = |model: Value, hyper: Value, callbacks: Value| {
        let mut all = json!({"epochs": 1, "loss": "TripletMarginLoss"});
        for (key, value) in hyper.as_object().unwrap() {
            all[key] = value.clone();
        }
        let refused = run(config(model, all, callbacks), &data.borrow());
        refused.err().map(|e| e.to_string()).unwrap_or_default()
    };
    let text = || json!({"name": "minilm-small"});
    let with =
        |option: &str, value: Value| json!({"name": "minilm-small", "options": {option: value}});
    let callback = |name: &str, options: Value| json!([{"name": name, "options": options}]);
    let none = || json!([]);
    for (found, part) in [
        (
            refused(text(), json!({"loss": "CLIPLoss"}), none()),
            "`loss`: `CLIPLoss` is for models",
        ),
        (
            refused(
                json!({"name": "clip-small"}),
                json!({"loss_options": {"margin": 0.1}}),
                none(),
            ),
            "`loss`: `TripletMarginLoss`: a text-to-image model",
        ),
        (
            refused(
                json!({"name": "clip-small", "output_dim": 8}),
                json!({}),
                none(),
            ),
            "set `freeze` to train projection heads of that dimension",
        ),
        (
            refused(with("pooler", json!("best")), json!({}), none()),
            "one of mean, max, cls, mean_sqrt_len_tokens, weightedmean, lasttoken, GeM",
        ),
        (
            refused(with("poler", json!("max")), json!({}), none()),
            "`poler` is \"max\"",
        ),
        (
            refused(with("augmentation", json!("light")), json!({}), none()),
            "`augmentation` is \"light\"",
        ),
        (
            refused(with("precision", json!("float16")), json!({}), none()),
            "`precision` is \"float16\": give one of float32, bfloat16, tf32",
        ),
        (
            refused(json!({"name": "mlp"}), json!({}), none()),
            "missing field `input_size`",
        ),
        (
            refused(text(), json!({"loss_optimizer": "Adam"}), none()),
            "`loss_optimizer`: `Adam`: `TripletMarginLoss` has no weights",
        ),
        (
            refused(
                text(),
                json!({"scheduler": "cosine", "scheduler_options": {"num_cycles": 0}}),
                none(),
            ),
            "`num_cycles` is 0",
        ),
        (
            refused(text(), json!({"scheduler": "steps"}), none()),
            "`scheduler`: `steps` is not known",
        ),
        (
            refused(text(), json!({}), callback("Confetti", json!({}))),
            "`Confetti` is unknown; the callbacks are BestModelCheckpoint",
        ),
        (
            refused(
                text(),
                json!({}),
                callback("EarlyStopping", json!({"monitor": "mood"})),
            ),
            "`mood` is not a metric of this run",
        ),
        (
            refused(
                text(),
                json!({}),
                callback("WiSEFTCallback", json!({"alpha": 2})),
            ),
            "alpha",
        ),
        (
            refused(
                text(),
                json!({}),
                callback(
                    "EvaluationCallback",
                    json!({"query_data": "train", "metrics": ["luck"]}),
                ),
            ),
            "give a list of metrics from average_precision",
        ),
    ] {
        assert!(found.contains(part), "{part} is missing in: {found}");
    }
}
