//! Compares mined hard negatives with those of sentence-transformers
//! (`fixtures/make_hard_negatives.py`), and tests runs that mine before training.

use std::collections::{BTreeSet, HashMap};

use finetuner_engine::{
    Error,
    data::Item,
    hard_negatives::{Format, Mined, Prompts, Role, Row, Source, mine, mine_with},
    infer::{Embeddings, Encoder},
};
use finetuner_protocol::{Document, DocumentArray, HardNegatives, SCORE_TAG};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::runs::{Data, config, run};

#[derive(Deserialize)]
struct Fixture {
    dim: usize,
    vectors: HashMap<String, Vec<f32>>,
    pairs: Vec<[String; 2]>,
    corpus: Vec<String>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    corpus: bool,
    options: Map<String, Value>,
    rows: Vec<Vec<Value>>,
    lines: Vec<String>,
}

fn fixture() -> Fixture {
    serde_json::from_str(include_str!("../fixtures/hard-negatives.json")).unwrap()
}

fn item(text: &str) -> Item {
    Item::Text(text.into())
}

fn text(item: &Item) -> &str {
    match item {
        Item::Text(text) => text,
        other => panic!("{other:?}"),
    }
}

impl Fixture {
    fn mine(&self, corpus: bool, options: &HardNegatives) -> Result<Mined, Error> {
        let pairs: Vec<[Item; 2]> = self
            .pairs
            .iter()
            .map(|p| [item(&p[0]), item(&p[1])])
            .collect();
        let corpus: Vec<Item> = self
            .corpus
            .iter()
            .filter(|_| corpus)
            .map(|text| item(text))
            .collect();
        let source = Source {
            pairs: &pairs,
            corpus: &corpus,
            known: &[],
        };
        let mut embed = |_, items: &[&Item]| {
            let values = items
                .iter()
                .flat_map(|item| self.vectors[text(item)].clone());
            Ok(Embeddings {
                dim: self.dim,
                values: values.collect(),
            })
        };
        mine(source, options, 0, &mut embed, &mut |_, _| Ok(()))
    }
}

/// Returns a row in the format of sentence-transformers' `mine_hard_negatives`.
fn as_given_out(row: &Row<'_>, format: Format) -> Vec<Value> {
    let mut texts: Vec<Value> = row.items.iter().map(|item| json!(text(item))).collect();
    if format == Format::LabeledList {
        let documents = texts.split_off(1);
        texts.push(documents.into());
    }
    let one = format == Format::LabeledPair;
    if !row.labels.is_empty() {
        texts.push(if one {
            json!(row.labels[0])
        } else {
            json!(row.labels)
        });
    }
    if !row.scores.is_empty() {
        texts.push(if one {
            json!(row.scores[0])
        } else {
            json!(row.scores)
        });
    }
    texts
}

/// Compares values with a tolerance for numbers.
fn alike(found: &Value, wanted: &Value) -> bool {
    match (found, wanted) {
        (Value::Array(found), Value::Array(wanted)) => {
            found.len() == wanted.len() && found.iter().zip(wanted).all(|(f, w)| alike(f, w))
        }
        (Value::Number(found), Value::Number(wanted)) => {
            (found.as_f64().unwrap() - wanted.as_f64().unwrap()).abs() < 2e-5
        }
        (found, wanted) => found == wanted,
    }
}

#[test]
fn negatives_equal_those_of_sentence_transformers() {
    let fixture = fixture();
    assert_eq!(fixture.cases.len(), 32);
    for case in &fixture.cases {
        let options: HardNegatives = serde_json::from_value(case.options.clone().into()).unwrap();
        let mined = fixture.mine(case.corpus, &options).unwrap();
        let what = format!("{:?} {}", case.options, case.corpus);
        let rows = mined
            .rows()
            .map(|row| Value::from(as_given_out(&row, mined.format())));
        let rows: Vec<Value> = rows.collect();
        let wanted: Vec<Value> = case.rows.iter().cloned().map(Value::from).collect();
        assert_eq!(rows.len(), wanted.len(), "{what}: {rows:?}\n{wanted:?}");
        for (found, wanted) in rows.iter().zip(&wanted) {
            assert!(alike(found, wanted), "{what}: {found} and {wanted}");
        }
        let lines = mined.report.lines();
        let lines: Vec<&str> = lines.iter().map(|line| line.trim_end()).collect();
        assert_eq!(lines, case.lines, "{what}");
    }
}

#[test]
fn positives_of_a_query_are_never_its_negatives() {
    let fixture = fixture();
    let options = HardNegatives::new().range_max(40).num_negatives(12);
    let options = options.output_format("labeled-list");
    let mined = fixture.mine(true, &options).unwrap();
    assert!(mined.rows().count() > 0);
    for row in mined.rows() {
        let query = text(row.items[0]);
        let own = fixture.pairs.iter().filter(|pair| pair[0] == query);
        let own: BTreeSet<&str> = own.map(|pair| pair[1].as_str()).collect();
        assert!(
            row.items[2..].iter().all(|item| !own.contains(text(item))),
            "{query}"
        );
    }
}

#[test]
fn random_negatives_are_candidates_and_depend_on_the_seed() {
    let fixture = fixture();
    let options = HardNegatives::new()
        .range_min(1)
        .range_max(9)
        .num_negatives(2);
    let options = options.output_format("labeled-list");
    let lists = |options: &HardNegatives| -> Vec<Vec<String>> {
        let mined = fixture.mine(true, options).unwrap();
        let texts = |row: Row<'_>| row.items[2..].iter().map(|i| text(i).to_owned()).collect();
        mined.rows().map(texts).collect()
    };
    let candidates = lists(&options.clone().num_negatives(8));
    let random = options.clone().sampling_strategy("random");
    let drawn = lists(&random);
    for (drawn, candidates) in drawn.iter().zip(&candidates) {
        // Drawn negatives keep the order of their similarity.
        let places: Vec<usize> = drawn
            .iter()
            .map(|text| candidates.iter().position(|c| c == text).unwrap())
            .collect();
        assert!(places.len() == 2 && places[0] < places[1], "{places:?}");
    }
    assert_eq!(drawn, lists(&random));
    assert_ne!(drawn, lists(&options));
    assert_ne!(drawn, lists(&random.seed(1)));
}

fn pair(query: &str, matched: &str) -> Document {
    Document::new()
        .with_chunk(Document::text(query))
        .with_chunk(Document::text(matched))
}

/// Queries and answers. One query has two answers.
fn pairs() -> Vec<Document> {
    [
        ("how do I sew on a button", "use a needle and thread"),
        ("how do I sew on a button", "sewing buttons by hand"),
        ("what do cats eat", "a cat lives on meat and fish"),
        ("how far is the moon", "384400 kilometres on average"),
        ("who wrote Faust", "Johann Wolfgang von Goethe"),
        ("what is a parka", "a warm coat with a hood"),
        ("how do I boil an egg", "four minutes in hot water"),
        ("where is Lisbon", "at the coast of Portugal"),
    ]
    .into_iter()
    .map(|(query, matched)| pair(query, matched))
    .collect()
}

#[test]
fn output_documents_contain_the_results() {
    let encoder = Encoder::from_backbone("minilm-small").unwrap();
    let mined = |options: &HardNegatives| {
        let given = |documents: Vec<Document>| Box::new(documents.into_iter().map(Ok));
        let corpus = vec![
            Document::text("needles in all sizes"),
            pair("thread", "a button"),
        ];
        let corpus = Some(given(corpus) as finetuner_engine::data::Documents);
        let mut compared = 0;
        let mut progress = |done: usize, _: usize| compared = done;
        let prompts = Prompts::default();
        let pairs = given(pairs());
        let mined = mine_with(&encoder, pairs, corpus, options, &prompts, &mut progress);
        // Eight positives and three further documents.
        assert_eq!(compared, 11);
        mined
            .unwrap()
            .documents()
            .collect::<Result<Vec<_>, _>>()
            .unwrap()
    };
    let triplets = mined(&HardNegatives::new());
    assert_eq!(triplets.len(), 8 * 3);
    assert!(triplets.iter().all(|d| d.chunks.len() == 3));
    let tuples = mined(
        &HardNegatives::new()
            .output_format("n-tuple")
            .output_scores(true),
    );
    assert_eq!(tuples.len(), 8);
    assert_eq!(tuples[0].chunks.len(), 5);
    assert_eq!(tuples[0].tags["scores"].as_array().unwrap().len(), 4);
    let labelled = mined(&HardNegatives::new().output_format("labeled-pair"));
    assert_eq!(labelled.len(), 8 + 7 * 3);
    let scores: Vec<f64> = labelled
        .iter()
        .map(|d| d.tags[SCORE_TAG].as_f64().unwrap())
        .collect();
    assert_eq!(scores[..5], [1.0, 1.0, 0.0, 0.0, 0.0]);
    let lists = mined(&HardNegatives::new().output_format("labeled-list"));
    assert_eq!(lists[0].tags["labels"], json!([1, 0, 0, 0]));
}

fn data() -> Data {
    let corpus = [
        "needles in all sizes",
        "fish and chips",
        "the moon is a satellite",
    ];
    let corpus: Vec<Document> = corpus.into_iter().map(Document::text).collect();
    let ready = pairs()
        .into_iter()
        .map(|d| d.with_chunk(Document::text("no")));
    HashMap::from([
        ("train", DocumentArray::from(pairs())),
        ("corpus", corpus.into()),
        ("ready", ready.collect::<Vec<_>>().into()),
        ("texts", ["a", "b", "c"].map(Document::text).to_vec().into()),
    ])
}

fn mining(options: Value, model: Value) -> Value {
    let hyper = json!({"loss": "MultipleNegativeRankingLoss", "epochs": 1, "batch_size": 4,
        "mine_hard_negatives": options});
    config(model, hyper, json!([]))
}

#[test]
fn a_run_trains_on_the_negatives_that_its_model_mines() {
    let model = json!({"name": "minilm-small"});
    let options = json!({"corpus": "corpus", "num_negatives": 2, "output_format": "n-tuple"});
    let done = run(mining(options.clone(), model.clone()), &data()).unwrap();
    assert!(done.logged("Found 7 unique queries out of 8 total queries."));
    assert!(done.logged("8 training examples, each with 2 hard negatives, from 8 pairs"));
    let again = run(mining(options, model.clone()), &data()).unwrap();
    assert_eq!(done.losses(), again.losses());
    let plain = json!({"loss": "MultipleNegativeRankingLoss", "epochs": 1, "batch_size": 4});
    let plain = run(config(model.clone(), plain, json!([])), &data()).unwrap();
    assert_ne!(plain.losses()[0], done.losses()[0]);
    // As triplets, a pair occurs once for each of its negatives.
    let triplets = run(mining(json!({"num_negatives": 2}), model), &data()).unwrap();
    assert!(triplets.logged("16 training examples, each with 1 hard negatives, from 8 pairs"));
}

#[test]
fn queries_and_documents_are_mined_with_the_prompts_of_their_columns() {
    let mut config = mining(json!({"num_negatives": 1}), json!({"name": "minilm-small"}));
    config["hyper_parameters"]["prompts"] = json!({"anchor": "query: ", "positive": "passage: "});
    let done = run(config, &data()).unwrap();
    let encoder = Encoder::from_backbone("minilm-small").unwrap();
    let found: Vec<[Item; 2]> = pairs()
        .iter()
        .map(|pair| [0, 1].map(|i| Item::Text(pair.chunks[i].as_text().unwrap().into())))
        .collect();
    let mined = |query: &str, document: &str| {
        let mut embed = |role: Role, items: &[&Item]| {
            let prompt = match role {
                Role::Query => query,
                Role::Document => document,
            };
            let texts = items.iter().map(|item| format!("{prompt}{}", text(item)));
            let texts: Vec<String> = texts.collect();
            encoder.encode_texts(&texts.iter().map(String::as_str).collect::<Vec<_>>())
        };
        let source = Source {
            pairs: &found,
            ..Source::default()
        };
        let options = HardNegatives::new().num_negatives(1);
        let mined = mine(source, &options, 0, &mut embed, &mut |_, _| Ok(()));
        mined.unwrap().report.lines()
    };
    let lines = mined("query: ", "passage: ");
    assert!(lines.iter().any(|line| line.starts_with("Mean ")));
    for line in &lines {
        assert!(done.logged(line), "{line}");
    }
    assert_ne!(lines, mined("passage: ", "query: "));
}

#[test]
fn unusable_mining_options_are_rejected_by_name() {
    let model = || json!({"name": "minilm-small"});
    let from = |name: &str, mut config: Value| {
        config["data"]["train_data"] = name.into();
        config
    };
    let mut several = mining(json!({}), model());
    several["data"]["more_train_data"] = json!([{"name": "ready"}]);
    let with_loss = |loss: &str| {
        let hyper = json!({"loss": loss, "mine_hard_negatives": {}});
        config(model(), hyper, json!([]))
    };
    for (config, part) in [
        (
            with_loss("TripletMarginLoss"),
            "`TripletMarginLoss` uses no negatives",
        ),
        (
            mining(json!({}), json!({"name": "minilm-small", "output_dim": 8})),
            "has random weights",
        ),
        (
            mining(json!({"include_positives": true}), model()),
            "include_positives`: true",
        ),
        (
            mining(json!({"output_scores": true}), model()),
            "output_scores`: true",
        ),
        (
            mining(json!({"output_format": "labeled-list"}), model()),
            "`triplet` or `n-tuple`",
        ),
        (
            mining(json!({"num_negatives": 0}), model()),
            "num_negatives`: 0",
        ),
        (
            mining(json!({"use_faiss": true}), model()),
            "there is no such option",
        ),
        (
            mining(
                json!({"num_negatives": 50, "output_format": "n-tuple"}),
                model(),
            ),
            "only 0 of 8 pairs get enough negatives",
        ),
        (
            from("ready", mining(json!({}), model())),
            "has 1 negatives already",
        ),
        (
            from("texts", mining(json!({}), model())),
            "embedded twice under dropout (SimCSE). Remove `mine_hard_negatives`",
        ),
        (several, "`more_train_data` also names `ready`"),
    ] {
        let error = run(config, &data()).err().unwrap().to_string();
        assert!(error.contains(part), "{part} is missing in: {error}");
        assert!(error.contains("mine_hard_negatives"), "{error}");
    }
}
