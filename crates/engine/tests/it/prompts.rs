//! Prompts per column: the loss equals that of sentence-transformers' trainer
//! (`fixtures/make_prompts.py`), and the saved model has the prompts.

use std::collections::HashMap;

use finetuner_protocol::{Document, DocumentArray};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    runs::{config, run, texts},
    sentence::folder,
    settings::checked,
    support::relative_error,
};

#[derive(Deserialize)]
struct Fixture {
    rows: Vec<[String; 3]>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    model: String,
    prompts: Value,
    loss: f64,
    query: Vec<f32>,
    document: Vec<f32>,
}

#[test]
fn prompts_per_column_equal_those_of_sentence_transformers() {
    let fixture: Fixture = serde_json::from_str(include_str!("../fixtures/prompts.json")).unwrap();
    let document = |row: &[String; 3]| {
        let chunks = row.iter().map(Document::text);
        chunks.fold(Document::new(), Document::with_chunk)
    };
    let data = HashMap::from([("train", fixture.rows.iter().map(document).collect())]);
    assert_eq!(fixture.cases.len(), 6);
    for case in &fixture.cases {
        let what = format!("{} {}", case.prompts, case.model);
        let folder = folder(&case.model);
        let name = folder.path().to_str().unwrap();
        // Such a small step changes nothing that is compared.
        let hyper = json!({"loss": "MultipleNegativeRankingLoss", "epochs": 1, "batch_size": 3,
            "learning_rate": 1e-12, "prompts": case.prompts});
        let run = run(config(json!({"name": name}), hyper, json!([])), &data).unwrap();
        let loss = run.losses()[0];
        assert!(
            (loss - case.loss).abs() < 1e-5 * case.loss,
            "{what}: {loss} and {}",
            case.loss
        );
        assert!(run.logged("Prompt of "), "{:?}", run.log());
        let encoder = run.encoder();
        let [query, positive, _] = &fixture.rows[0];
        for (prompt, text, expected) in [
            ("query", query, &case.query),
            ("document", positive, &case.document),
        ] {
            let chosen = encoder.prompt(prompt).unwrap();
            let found = chosen.encode_texts(&[text.as_str()]).unwrap();
            let error = relative_error(&found.values[..expected.len()], expected);
            assert!(error < 1e-4, "{what} {prompt}: {error}");
        }
        // A single prompt becomes the model's own.
        let default = encoder
            .prompts()
            .default_prompt()
            .map(|(_, text)| text.to_owned());
        assert_eq!(default.as_deref(), case.prompts.as_str(), "{what}");
    }
}

#[test]
fn evaluation_and_frozen_models_use_the_prompts_too() {
    let data: HashMap<&str, DocumentArray> = HashMap::from([("train", texts())]);
    let callbacks = json!([{"name": "EvaluationCallback", "options": {"query_data": "train"}}]);
    let losses = |freeze: bool, prompts: Value| {
        let mut hyper = json!({"loss": "TripletMarginLoss", "loss_options": {"margin": 1},
            "epochs": 1, "batch_size": 8});
        if !prompts.is_null() {
            hyper["prompts"] = prompts;
        }
        let model = json!({"name": "minilm-small", "freeze": freeze});
        run(config(model, hyper, callbacks.clone()), &data)
            .unwrap()
            .losses()
            .to_vec()
    };
    for freeze in [false, true] {
        let without = losses(freeze, Value::Null);
        let with = losses(freeze, json!({"text": "a long prompt for every text: "}));
        assert_ne!(without, with, "freeze {freeze}");
        assert_eq!(
            losses(freeze, json!({"text": ""})),
            without,
            "freeze {freeze}"
        );
    }
}

#[test]
fn impossible_prompts_are_refused_at_submission() {
    let data = HashMap::from([("train", texts())]);
    let refused = |prompts: Value| {
        let hyper = json!({"loss": "TripletMarginLoss", "epochs": 1, "prompts": prompts});
        let config = config(json!({"name": "minilm-small"}), hyper, json!([]));
        checked(config, &data).err().unwrap_or_default()
    };
    let found = refused(json!({"anchor": "query: "}));
    assert!(
        found.contains("`prompts`: `anchor` is not a column of this data: text"),
        "{found}"
    );
    assert!(refused(json!(7)).contains("`prompts`: 7: give a text"));
    assert_eq!(refused(json!("query: ")), "");
}
