//! Deletion of runs and data, by this program and by others.

use finetuner::Finetuner;
use finetuner_test::{Fault, TestBackend};
use serde_json::Value;
use tokio::runtime::Runtime;

use crate::program::{Done, Machine, finish};

/// A backend with the runs `a`, `b` and `c`. The runtime serves it.
fn with_runs() -> (Runtime, TestBackend) {
    let runtime = Runtime::new().unwrap();
    let backend = runtime.block_on(async {
        let backend = TestBackend::start().await.unwrap();
        backend.accept_any_data();
        let builder = Finetuner::builder()
            .registry(backend.url())
            .token(backend.token());
        let finetuner = builder.login().await.unwrap();
        for name in ["a", "b", "c"] {
            let run = finetuner.fit("minilm-small", "train").run_name(name);
            run.await.unwrap();
        }
        backend
    });
    (runtime, backend)
}

/// Runs a command with this backend.
fn run(machine: &Machine, backend: &TestBackend, words: &[&str]) -> Done {
    let mut command = machine.bare(words);
    command
        .env("JINA_FINETUNER_REGISTRY", backend.url())
        .env("JINA_AUTH_TOKEN", backend.token());
    finish(command)
}

#[test]
fn a_run_that_is_deleted_while_runs_are_listed_is_left_out() {
    let (_runtime, backend) = with_runs();
    let machine = Machine::new("lister");
    backend.fault(Fault::status(404).on("/runs/b/status"));
    let done = run(&machine, &backend, &["runs", "--json"]);
    assert_eq!(done.code, Some(0), "{}", done.err);
    let listed: Vec<Value> = serde_json::from_str(&done.out).unwrap();
    let names: Vec<&Value> = listed.iter().map(|run| &run["name"]).collect();
    assert_eq!(names, ["a", "c"]);
}

#[test]
fn a_failed_deletion_says_what_was_deleted() {
    let (_runtime, backend) = with_runs();
    let machine = Machine::new("remover");
    backend.fault(Fault::status(403).on("/runs/b").method("DELETE"));
    let words = ["delete", "a", "b", "c", "--yes"];
    let done = run(&machine, &backend, &words);
    assert_eq!(done.code, Some(1), "{}", done.err);
    assert!(
        done.err.contains("deleted a, but not b, c: "),
        "{}",
        done.err
    );
}

#[test]
fn a_name_that_is_given_twice_is_deleted_once() {
    let (_runtime, backend) = with_runs();
    let machine = Machine::new("repeater");
    let words = ["delete", "a", "default/a", "b", "a", "--yes", "--json"];
    let done = run(&machine, &backend, &words);
    assert_eq!(done.code, Some(0), "{}", done.err);
    let deleted: Value = serde_json::from_str(&done.out).unwrap();
    assert_eq!(deleted["deleted"], serde_json::json!(["a", "b"]));
    machine.file("texts.csv", "a cat,an animal\na rose,a flower\n");
    machine.text(&["push", "texts", "texts.csv", "--model", "minilm-small"]);
    let words = ["data", "delete", "texts", "texts", "--yes"];
    assert_eq!(machine.text(&words).trim(), "Deleted texts");
}
