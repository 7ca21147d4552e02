//! A complete run from data to search, and runs that fail or are cancelled.

use std::io::{BufRead, BufReader};

#[cfg(unix)]
use crate::program::interrupt;
use crate::program::{Machine, start};

/// Settings of a run that takes a second.
const SHORT: &str = r#"
model = "clip-small"
loss = "CLIPLoss"
learning_rate = 1e-3
batch_size = 4
epochs = 3
device = "cpu"
"#;

/// Options of a run that takes longer than any test waits.
const LONG: [&str; 6] = [
    "much.csv",
    "--config",
    "short.toml",
    "--epochs",
    "49",
    "--batch-size=2",
];

/// Returns a machine with data and configurations.
fn prepared(user: &str) -> Machine {
    let machine = Machine::new(user);
    machine.fashion("train.csv", "train", 8);
    machine.fashion("test.csv", "eval", 6);
    machine.fashion("much.csv", "train", 60);
    machine.file("short.toml", SHORT);
    machine
}

#[test]
fn a_run_is_watched_saved_and_used_for_search() {
    let machine = prepared("trainer");
    machine.text(&["push", "train", "train.csv"]);
    let updates = machine.json_lines(&[
        "fit",
        "train",
        "--config",
        "short.toml",
        "--epochs",
        "1",
        "--run-name",
        "first",
        "--experiment-name",
        "clothes",
        "--evaluate",
        "test.csv",
        "--evaluate-option",
        "gather_examples=true",
        "--callback",
        "BestModelCheckpoint:monitor=train_loss",
        "--option",
        "seed=3",
        "--loss-option",
        "mini_batch_size=4",
        "--description",
        "eight pictures",
        "--tag",
        "baseline",
        "--watch",
        "--output",
        "model",
    ]);
    let of_kind = |kind: &str| {
        let found = updates.iter().filter(|update| update["event"] == kind);
        found.collect::<Vec<_>>()
    };
    assert_eq!(updates[0]["run"], "first");
    assert_eq!(of_kind("progress").last().unwrap()["step"], 2);
    assert!(
        of_kind("point")
            .iter()
            .any(|point| point["kind"] == "epoch")
    );
    let last = updates.last().unwrap();
    assert_eq!(last["event"], "end");
    assert_eq!(last["status"], "FINISHED");
    assert!(last["metrics"]["after"].as_object().unwrap().len() > 3);
    assert_eq!(last["model"], "model");

    // Other commands show the run.
    let status = machine.json(&["status", "clothes/first"]);
    assert_eq!(status["status"], "FINISHED");
    assert_eq!(status["description"], "eight pictures");
    let tagged = machine.json(&["tag", "clothes/first", "small", "--remove", "none"]);
    assert_eq!(tagged["tags"], serde_json::json!(["baseline", "small"]));
    machine.text(&["note", "clothes/first", "keep it"]);
    assert_eq!(machine.text(&["note", "clothes/first"]).trim(), "keep it");
    let listed = machine.json(&["runs", "--tag", "small"]);
    assert_eq!(listed[0]["note"], "keep it");
    assert_eq!(
        machine.json(&["runs", "--tag", "other"]),
        serde_json::json!([])
    );
    machine.text(&["data", "tag", "train", "clean"]);
    assert_eq!(machine.json(&["data", "show", "train"])["tags"][0], "clean");
    machine.error(2, &["tag", "clothes/first", "a,b"]);
    assert!(
        machine
            .text(&["status", "first", "-e", "clothes"])
            .starts_with("FINISHED")
    );
    let log = machine.text(&["logs", "clothes/first"]);
    assert_eq!(machine.text(&["logs", "clothes/first", "--follow"]), log);
    assert!(
        log.lines().count() > 3
            && machine.json_lines(&["logs", "clothes/first"])[0]["line"].is_string()
    );
    let metrics = machine.json(&["metrics", "clothes/first"]);
    assert_eq!(metrics, last["metrics"]);
    let table = machine.text(&["metrics", "clothes/first"]);
    assert!(
        table.starts_with("METRIC") && table.contains("recall_at_k"),
        "{table}"
    );
    let points = machine.json_lines(&["metrics", "clothes/first", "--history"]);
    assert!(
        points.iter().any(|point| point["kind"] == "step"),
        "{points:?}"
    );
    let examples = machine.json(&["examples", "clothes/first"]);
    assert!(
        !examples["after"].as_object().unwrap().is_empty(),
        "{examples}"
    );
    assert!(
        machine
            .text(&["examples", "clothes/first", "-k", "1"])
            .contains("  1. ")
    );

    // Saves the model in every format.
    let saved = machine.json(&["save", "clothes/first", "-o", "again", "--onnx", "onnx"]);
    assert_eq!(saved["path"], "again");
    assert!(machine.path("again/.finetuner-files.json").exists());
    assert!(machine.path("onnx/text_model.onnx").exists());
    let zip = machine.text(&["save", "clothes/first", "--zip"]);
    assert_eq!(zip.trim(), "./first.zip");

    // Uses the model on this machine.
    machine.file("titles.txt", "glasses\na hat\n");
    for name in ["glasses", "kimono", "crown", "backpack"] {
        let picture = crate::program::emoji().join(format!("images/noto/{name}.png"));
        machine.file(
            &format!("pictures/{name}.png"),
            std::fs::read(picture).unwrap(),
        );
    }
    let pictures = "pictures";
    let found = machine.json(&["search", "model", pictures, "glasses", "-k", "3"]);
    assert_eq!(found["query"]["text"], "glasses");
    assert_eq!(found["matches"].as_array().unwrap().len(), 3);
    let glasses = format!("{pictures}/glasses.png");
    let found = machine.text(&[
        "search",
        "first.zip",
        "titles.txt",
        "--picture",
        &glasses,
        "-k",
        "1",
    ]);
    assert_eq!(found.lines().count(), 2, "{found}");
    let found = machine.json(&[
        "search",
        "model",
        "titles.txt",
        "a hat",
        "-k",
        "1",
        "--quantized",
    ]);
    assert_eq!(found["matches"][0]["index"], 1);
    let lines = machine.json_lines(&["encode", "model", "titles.txt"]);
    let dim = lines[0]["embedding"].as_array().unwrap().len();
    assert_eq!(lines[1]["text"], "a hat");
    let wrote = machine.json(&[
        "encode",
        "model",
        "titles.txt",
        "-o",
        "titles.npy",
        "--truncate-dim",
        "8",
    ]);
    assert_eq!(wrote["embeddings"], 2);
    assert_eq!(wrote["dim"], 8);
    assert!(dim > 8);
    let bytes = std::fs::read(machine.path("titles.npy")).unwrap();
    assert_eq!(bytes.len(), 128 + 2 * 8 * 4);

    // Submits without watching, then cancels and deletes the run.
    let name = machine.text(&[&["fit"], &LONG[..]].concat());
    let name = name.trim();
    let runs = machine.json(&["runs"]);
    assert_eq!(runs.as_array().unwrap().len(), 2);
    let finished = machine.json(&["runs", "--status", "finished"]);
    assert_eq!(finished[0]["name"], "first");
    assert_eq!(
        machine.json(&["runs", "-e", "clothes", "-n", "1"])[0]["name"],
        "first"
    );
    assert!(machine.text(&["runs"]).contains(name));
    let early = machine.error(1, &["save", name]);
    assert!(early.contains("finished"), "{early}");
    machine.text(&["cancel", name]);
    let done = machine.run(&["watch", name]);
    assert_eq!(done.code, Some(1), "{}", done.out);
    assert!(
        done.err.contains(&format!("the run `{name}` failed")),
        "{}",
        done.err
    );
    let error = machine.error(2, &["delete", name]);
    assert!(error.contains("--yes"), "{error}");
    machine.text(&["delete", name, "clothes/first", "--yes"]);
    machine.error(3, &["status", name]);
}

#[cfg(unix)]
#[test]
fn interrupting_a_watch_does_not_cancel_the_run() {
    let machine = prepared("impatient");
    let more = ["--run-name", "long", "--watch", "--json"];
    let words = [&["fit"], &LONG[..], &more].concat();
    let mut child = start(machine.command(&words));
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let started = lines.any(|line| line.unwrap().contains("\"progress\""));
    assert!(started);
    interrupt(&child);
    // Reads to the end, so that the program never blocks on its output.
    lines.for_each(drop);
    let output = child.wait_with_output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(130), "{error}");
    assert!(
        error.contains("The run continues") && error.contains("finetuner watch long"),
        "{error}"
    );
    assert_eq!(machine.json(&["status", "long"])["status"], "STARTED");
    machine.text(&["cancel", "long"]);
}

#[test]
fn logs_end_when_their_output_is_closed() {
    let machine = prepared("short-reader");
    let name = machine.text(&[&["fit"], &LONG[..]].concat());
    let mut child = start(machine.command(&["logs", "-f", name.trim()]));
    let mut out = BufReader::new(child.stdout.take().unwrap());
    out.read_line(&mut String::new()).unwrap();
    drop(out);
    machine.text(&["cancel", name.trim()]);
    let output = child.wait_with_output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(!error.contains("panicked"), "{error}");
}

#[test]
fn training_data_is_synthesized_from_queries_and_a_corpus() {
    let machine = Machine::new("maker");
    machine.file("queries.txt", "what do cats eat\nhow far is the moon\n");
    let corpus = "cats eat fish\nthe moon is far\na needle and thread\nthe sun is a star\n";
    machine.file("corpus.txt", corpus);
    let scorer = crate::program::root().join("crates/engine/tests/fixtures/cross-encoders/bert");
    let scorer = scorer.canonicalize().unwrap();
    let words = [
        "synthesize",
        "queries.txt",
        "corpus.txt",
        "--relation-miner",
        "minilm-small",
        "--cross-encoder",
        scorer.to_str().unwrap(),
        "--num-relations",
        "2",
        "--device",
        "cpu",
        "--run-name",
        "made",
        "--watch",
        "--quiet",
    ];
    let done = machine.run(&words);
    assert_eq!(done.code, Some(0), "{}", done.err);
    assert_eq!(done.err, "", "`--quiet` leaves errors alone");
    let name = done.out;
    let pulled = machine.json(&["pull", name.trim(), "-o", "made.jsonl"]);
    assert_eq!(pulled["documents"], 2);
}
