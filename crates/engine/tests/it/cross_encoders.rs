//! Compares cross-encoders with sentence-transformers: scores, rankings, losses,
//! gradients of all parameters, metrics, and the files that a run saves. The expected
//! values come from `fixtures/make_cross_encoders.py`.

use std::path::Path;

use candle_core::Device;
use finetuner_engine::{
    infer::{CrossEncoder, Encoder},
    loss::{Criterion, LossSpec, Target},
    source::{LoadOptions, LoadedModel, ModelSource, OutputKind},
};
use finetuner_protocol::{Document, DocumentArray, Loss, Options};
use serde_json::{Value, json};

use crate::{
    runs::{Data, Run, config, run, run_from},
    support::{fixture, json as fixture_json, norm, tensors},
};

const MODELS: [&str; 7] = [
    "bert",
    "distilbert",
    "modernbert-cls",
    "modernbert-mean",
    "mpnet",
    "roberta",
    "xlm-roberta",
];

/// Prefix of a network's tensors in `transformers`.
const PREFIXES: [&str; 6] = ["", "bert.", "distilbert.", "model.", "mpnet.", "roberta."];

fn expected() -> Value {
    fixture_json("cross-encoders/expected.json")
}

fn folder(name: &str) -> std::path::PathBuf {
    fixture(&format!("cross-encoders/{name}"))
}

/// Returns the numbers of a list, or of a list of lists.
fn numbers(json: &Value) -> Vec<f32> {
    match json {
        Value::Array(list) => list.iter().flat_map(numbers).collect(),
        number => vec![number.as_f64().unwrap() as f32],
    }
}

fn pairs(json: &Value) -> Vec<[&str; 2]> {
    let pairs = json.as_array().unwrap().iter();
    pairs
        .map(|pair| [pair[0].as_str().unwrap(), pair[1].as_str().unwrap()])
        .collect()
}

fn assert_near(case: &str, found: &[f32], expected: &[f32], limit: f32) {
    assert_eq!(found.len(), expected.len(), "{case}");
    let difference = found.iter().zip(expected).map(|(a, b)| (a - b).abs());
    let worst = difference.fold(0.0, f32::max);
    println!("{case}: differs by at most {worst:.1e}");
    assert!(worst < limit, "{case}: {worst}");
}

#[test]
fn scores_and_rankings_equal_those_of_the_python_library() {
    let all = expected();
    let pairs = pairs(&all["pairs"]);
    for name in MODELS.iter().chain(&["bert-labels", "bert-identity"]) {
        let case = &all[name];
        // Batches of two sort and pad the pairs differently.
        let model = CrossEncoder::from_folder(folder(name))
            .unwrap()
            .batch_size(2);
        let found = model.predict(&pairs).unwrap();
        assert_eq!(found.values.len(), pairs.len() * model.labels());
        assert_eq!(
            found.get(1),
            &found.values[model.labels()..2 * model.labels()]
        );
        assert_near(name, &found.values, &numbers(&case["scores"]), 1e-5);
        let logits = model.clone().without_activation().predict(&pairs).unwrap();
        assert_near(name, &logits.values, &numbers(&case["logits"]), 1e-5);
        if let softmax @ Value::Array(_) = &case["softmax"] {
            let found = model.clone().softmax().predict(&pairs).unwrap();
            assert_near(name, &found.values, &numbers(softmax), 1e-5);
            let refused = model.rank("a", &["b"], None).unwrap_err().to_string();
            assert!(refused.contains("3 scores"), "{refused}");
            continue;
        }
        let documents = all["documents"].as_array().unwrap().iter();
        let documents: Vec<&str> = documents.map(|text| text.as_str().unwrap()).collect();
        let ranked = model.rank("a hat", &documents, None).unwrap();
        let ranked = ranked
            .iter()
            .flat_map(|found| [found.corpus_id as f32, found.score]);
        assert_near(
            name,
            &ranked.collect::<Vec<_>>(),
            &numbers(&case["rank"]),
            1e-5,
        );
        let top = model.rank("a hat", &documents, Some(2)).unwrap();
        let top: Vec<f32> = top.iter().map(|found| found.corpus_id as f32).collect();
        assert_near(name, &top, &numbers(&case["top"]), 0.5);
    }
}

fn load(folder: &Path) -> LoadedModel {
    let options = LoadOptions {
        output: OutputKind::Scores,
        ..LoadOptions::default()
    };
    let files = ModelSource::Folder(folder.to_owned()).read().unwrap();
    files.load(&options, &Device::Cpu).unwrap()
}

#[test]
fn losses_and_gradients_equal_those_of_the_python_library() {
    let all = expected();
    let pairs = pairs(&all["pairs"]);
    let scores = numbers(&all["labels"]);
    for name in MODELS {
        let LoadedModel {
            model, preparer, ..
        } = load(&folder(name));
        let gradients = tensors(&format!("cross-encoders/{name}/gradients.safetensors"));
        for case in all[name]["losses"].as_array().unwrap() {
            let loss = case["loss"].as_str().unwrap();
            let spec = LossSpec {
                options: Some(Options::from(case["options"].as_object().unwrap().clone())),
                ..LossSpec::new(Loss::from(loss))
            };
            let mut criterion = Criterion::new(&spec, 0, 1, 0).unwrap();
            let pass = model.training();
            let input = preparer.prepare_pairs(&pairs).unwrap();
            let target = Target {
                labels: &[0; 5],
                scores: &scores,
            };
            model.params().zero_grad();
            let parts = [model.encode(&pass, &input).unwrap()];
            let value = criterion
                .loss(&model, &pass, &parts, target, 0, true)
                .unwrap();
            model.params().backward(&value).unwrap();
            let found: f64 = value.to_scalar().unwrap();
            let difference = (found - case["value"].as_f64().unwrap()).abs();
            assert!(difference < 1e-5, "{name} {case}: {found}");
            let is_compared = match loss {
                "MSELoss" => case["options"]["activation_fn"].is_string(),
                _ => case["options"]["pos_weight"].is_number(),
            };
            if is_compared {
                compare_gradients(&format!("{name} {loss}"), &model, loss, &gradients);
            }
        }
    }
}

fn compare_gradients(
    case: &str,
    model: &finetuner_engine::models::Model,
    loss: &str,
    gradients: &crate::support::Tensors,
) {
    let own = || {
        gradients
            .iter()
            .filter(|(key, _)| key.starts_with(&format!("{loss}/")))
    };
    let lengths = own().map(|(_, (_, grad))| norm(grad.iter().copied()));
    let largest = lengths.fold(0.0, f32::max);
    let mut worst = 0.0_f32;
    let mut compared = 0;
    for param in model.params().iter() {
        let names = PREFIXES.map(|prefix| format!("{loss}/{prefix}{}", param.name()));
        let (_, grad) = names.iter().find_map(|name| gradients.get(name)).unwrap();
        let found = param.grad().unwrap();
        let difference = norm(found.iter().zip(grad).map(|(a, b)| a - b));
        // Biases of keys have no effect: their gradient is rounding error.
        let error = difference / norm(grad.iter().copied()).max(1e-3 * largest);
        assert!(error < 1e-4, "{case}: {} {error}", param.name());
        (compared, worst) = (compared + 1, worst.max(error));
    }
    println!("{case}: {compared} gradients differ by at most {worst:.1e}");
    assert_eq!(compared, own().count(), "{case}");
}

fn scored(pairs: &[[&str; 2]], scores: &[f32]) -> DocumentArray {
    let documents = pairs.iter().zip(scores).map(|([query, text], score)| {
        Document::new()
            .with_chunk(Document::text(*query))
            .with_chunk(Document::text(*text))
            .with_tag("finetuner_score", *score)
    });
    documents.collect::<Vec<_>>().into()
}

/// The pairs of the evaluation, as training and evaluation data.
fn data() -> Data {
    let all = expected();
    let evaluation = &all["evaluation"];
    let documents = scored(
        &pairs(&evaluation["pairs"]),
        &numbers(&evaluation["scores"]),
    );
    Data::from([("train", documents.clone()), ("eval", documents)])
}

fn evaluation(options: Value) -> Value {
    json!([{"name": "EvaluationCallback", "options": options}])
}

fn named(folder: &Path) -> Value {
    json!({"name": folder})
}

#[test]
fn metrics_of_reranking_and_correlation_equal_those_of_the_python_library() {
    let metrics = json!(["map", "mrr@3", "ndcg@3", "pearson", "spearman"]);
    let callbacks = evaluation(json!({"query_data": "eval", "metrics": metrics}));
    let hyper = json!({"loss": "BinaryCrossEntropyLoss", "epochs": 1, "batch_size": 8});
    let made = run(config(named(&folder("bert")), hyper, callbacks), &data()).unwrap();
    let all = expected();
    for (name, value) in all["evaluation"]["metrics"].as_object().unwrap() {
        let found = made.finished.before[name.as_str()];
        let difference = (found - value.as_f64().unwrap()).abs();
        assert!(difference < 1e-6, "{name}: {found}, not {value}");
    }
    assert_eq!(made.finished.before.len(), 5);
}

/// Runs a training that learns to rank.
fn learn(model: Value, loss: &str) -> Run {
    let hyper = json!({
        "loss": loss, "epochs": 40, "batch_size": 6, "learning_rate": 0.01,
        "optimizer_options": {"layer_wise_lr_decay": 0.9},
    });
    let callbacks = evaluation(json!({"query_data": "eval", "caption": "ranks"}));
    run(config(model, hyper, callbacks), &data()).unwrap()
}

#[test]
fn a_trained_cross_encoder_ranks_better_and_loads_again() {
    for (name, loss) in [("bert", "BinaryCrossEntropyLoss"), ("roberta", "MSELoss")] {
        let made = learn(named(&folder(name)), loss);
        let metric = |metrics: &finetuner_engine::evaluation::Metrics| metrics["ranks_map"];
        let (before, after) = (metric(&made.finished.before), metric(&made.finished.after));
        assert!(after > before + 0.1, "{name}: {before} to {after}");
        let opened = made.opened();
        let read = |file: &str| -> Value {
            serde_json::from_slice(&std::fs::read(opened.path().join(file)).unwrap()).unwrap()
        };
        assert_eq!(
            read("config_sentence_transformers.json")["model_type"],
            "CrossEncoder"
        );
        assert_eq!(
            read("config_sentence_transformers.json")["activation_fn"],
            "torch.nn.modules.activation.Sigmoid"
        );
        let model = CrossEncoder::from_folder(opened.path()).unwrap();
        let all = expected();
        let evaluation = &all["evaluation"];
        let scores = model.predict(&pairs(&evaluation["pairs"])).unwrap().values;
        let wanted = numbers(&evaluation["scores"]);
        let mean = |relevant: bool| {
            let chosen = scores.iter().zip(&wanted);
            let chosen = chosen.filter(|(_, wanted)| (**wanted > 0.5) == relevant);
            let chosen: Vec<f32> = chosen.map(|(score, _)| *score).collect();
            chosen.iter().sum::<f32>() / chosen.len() as f32
        };
        assert!(mean(true) > mean(false), "{name}");
        // Later runs continue from it as from any model.
        let hyper = json!({"loss": loss, "epochs": 1, "batch_size": 6});
        let mut again = config(json!({"artifact": "earlier"}), hyper, json!([]));
        again["model"]["name"] = Value::Null;
        run_from(again, &data(), Some(opened.path())).unwrap();
        let refused = Encoder::from_folder(opened.path())
            .err()
            .unwrap()
            .to_string();
        assert!(refused.contains("cross-encoder"), "{refused}");
    }
}

#[test]
fn a_model_without_a_classification_head_gets_a_new_one() {
    let plain = fixture("sentence/network");
    let refused = CrossEncoder::from_folder(&plain).err().unwrap().to_string();
    assert!(refused.contains("not a sequence classifier"), "{refused}");
    let hyper = json!({"loss": "BinaryCrossEntropyLoss", "epochs": 1, "batch_size": 8});
    let made = run(config(named(&plain), hyper, json!([])), &data()).unwrap();
    assert!(
        made.logged("classification head with one label"),
        "{:?}",
        made.log()
    );
    let model = CrossEncoder::from_folder(made.opened().path()).unwrap();
    assert_eq!(model.labels(), 1);
}

#[test]
fn a_frozen_network_trains_only_its_classification_head() {
    let model = folder("bert");
    let before = load(&model);
    let hyper = json!({"loss": "BinaryCrossEntropyLoss", "epochs": 1, "batch_size": 8});
    let frozen = json!({"name": model, "freeze": true});
    let made = run(config(frozen, hyper, json!([])), &data()).unwrap();
    let opened = made.opened();
    let after = load(opened.path());
    for (was, is) in before
        .model
        .params()
        .iter()
        .zip(after.model.params().iter())
    {
        assert_eq!(was.name(), is.name());
        let is_head = ["pooler.", "classifier."]
            .iter()
            .any(|head| was.name().starts_with(head));
        let changed = was.to_vec().unwrap() != is.to_vec().unwrap();
        assert_eq!(changed, is_head, "{}", was.name());
    }
}

#[test]
fn unusable_settings_of_cross_encoders_are_refused_by_name() {
    let refused = |name: &str, hyper: Value, callbacks: Value, data: &Data| {
        let config = config(named(&folder(name)), hyper, callbacks);
        run(config, data).err().unwrap().to_string()
    };
    let hyper = |loss: &str| json!({"loss": loss, "epochs": 1, "batch_size": 4});
    let binary = || hyper("BinaryCrossEntropyLoss");
    let good = data();
    let message = refused("bert-labels", binary(), json!([]), &good);
    assert!(message.contains("one label; the model has 3"), "{message}");
    let odd = Data::from([("train", scored(&[["a", "b"], ["c", "d"]], &[1.0, 7.0]))]);
    let message = refused("bert", binary(), json!([]), &odd);
    assert!(
        message.contains("outside of 0 to 1, such as 7"),
        "{message}"
    );
    let index = evaluation(json!({"query_data": "eval", "index_data": "eval"}));
    let message = refused("bert", binary(), index, &good);
    assert!(message.contains("does not search an index"), "{message}");
    let unknown = evaluation(json!({"query_data": "eval", "metrics": ["hit_at_k"]}));
    let message = refused("bert", binary(), unknown, &good);
    assert!(message.contains("map, pearson, spearman"), "{message}");
    let message = refused("bert", hyper("CosineSimilarityLoss"), json!([]), &good);
    assert!(message.contains("`BinaryCrossEntropyLoss` or"), "{message}");
    let longer = json!({"name": folder("bert"), "output_dim": 8});
    let message = run(config(longer, binary(), json!([])), &good);
    let message = message.err().unwrap().to_string();
    assert!(message.contains("`output_dim`: 8"), "{message}");
    let mut options = binary();
    options["loss_options"] = json!({"activation_fn": "torch.nn.Softsign"});
    let message = refused("bert", options, json!([]), &good);
    assert!(
        message.contains("`torch.nn.Softsign` is not supported"),
        "{message}"
    );
}
