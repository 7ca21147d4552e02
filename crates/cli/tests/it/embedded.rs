//! `--embedded`, with the backend in the same process, and `serve`.

#[cfg(unix)]
use std::io::{BufRead, BufReader};

use crate::program::{Machine, finish};
#[cfg(unix)]
use crate::program::{interrupt, start};

/// Options of a run of one epoch on `train.csv`.
const SHORT_FIT: [&str; 12] = [
    "fit",
    "train.csv",
    "--model",
    "clip-small",
    "--loss",
    "CLIPLoss",
    "--epochs",
    "1",
    "--batch-size",
    "4",
    "--device",
    "cpu",
];

#[test]
fn an_embedded_fit_trains_saves_and_keeps_its_runs() {
    let machine = Machine::new("alone");
    machine.fashion("train.csv", "train", 8);
    // Neither an address nor a token is needed.
    let run = |words: &[&str]| {
        let mut command = machine.bare(words);
        command.env_remove("JINA_FINETUNER_REGISTRY");
        let done = finish(command);
        assert_eq!(done.code, Some(0), "{words:?}: {}", done.err);
        done
    };
    let more = ["--run-name", "alone", "--embedded", "--output", "model"];
    let fitted = run(&[&SHORT_FIT[..], &more].concat());
    assert!(
        fitted.out.contains("Saved the model in model"),
        "{}",
        fitted.out
    );
    assert!(fitted.err.contains("epoch 1 of 1"), "{}", fitted.err);
    // In the user's data folder.
    assert!(machine.path(".local/share/finetuner").exists() || cfg!(not(target_os = "linux")));
    let runs = run(&["runs", "--embedded", "--json"]);
    let runs: serde_json::Value = serde_json::from_str(&runs.out).unwrap();
    assert_eq!(runs[0]["name"], "alone");
    run(&["save", "alone", "--embedded", "-o", "again"]);
    let found = run(&[
        "search",
        "again",
        "train.csv",
        "x",
        "--column",
        "2",
        "-k",
        "1",
    ]);
    assert_eq!(found.out.lines().count(), 2, "{}", found.out);
    // Another folder is another backend, and tokens are deleted at the end.
    let other = run(&["runs", "--embedded", "--data", "other", "--json"]);
    assert_eq!(other.out.trim(), "[]");
    let tokens = run(&["token", "list", "--embedded", "--json"]);
    let tokens: serde_json::Value = serde_json::from_str(&tokens.out).unwrap();
    let left = tokens.as_array().unwrap().iter();
    let left = left.filter(|token| {
        token["name"]
            .as_str()
            .unwrap()
            .starts_with("finetuner-embedded")
    });
    assert_eq!(left.count(), 1, "the program's own, while it runs");
    let both = finish(machine.command(&["runs", "--embedded", "--url", "http://127.0.0.1:1"]));
    assert_eq!(both.code, Some(2));
}

#[cfg(unix)]
#[test]
fn an_interrupted_embedded_run_pauses_and_can_be_resumed() {
    let machine = Machine::new("traveller");
    machine.fashion("much.csv", "train", 60);
    let mut program = start(machine.bare(&[
        "fit",
        "much.csv",
        "--embedded",
        "--model=clip-small",
        "--loss=CLIPLoss",
        "--epochs=49",
        "--batch-size=2",
        "--device=cpu",
        "--run-name=long",
        "--json",
    ]));
    let mut lines = BufReader::new(program.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("\"progress\"")));
    interrupt(&program);
    lines.for_each(drop);
    let output = program.wait_with_output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(130), "{error}");
    assert!(error.contains("finetuner watch long --embedded"), "{error}");

    let status = finish(machine.bare(&["status", "long", "--embedded"]));
    let is_open = status.out.starts_with("STARTED") || status.out.starts_with("CREATED");
    assert!(is_open, "{}{}", status.out, status.err);
    // It serves until it gets the signal to stop.
    let cancelled = finish(machine.bare(&["cancel", "long", "--embedded"]));
    assert_eq!(cancelled.code, Some(0), "{}", cancelled.err);
    let watched = finish(machine.bare(&["watch", "long", "--embedded"]));
    assert_eq!(watched.code, Some(1), "{}", watched.out);
}

#[cfg(unix)]
#[test]
fn serve_accepts_runs_of_other_programs() {
    let machine = Machine::new("operator");
    machine.fashion("train.csv", "train", 8);
    let words = ["serve", "--address", "127.0.0.1:0", "--data", "server"];
    let mut server = start(machine.bare(&words));
    let mut lines = BufReader::new(server.stdout.take().unwrap()).lines();
    let mut value = |name: &str| {
        let prefix = format!("export {name}=");
        let value = lines.find_map(|line| Some(line.unwrap().strip_prefix(&prefix)?.to_owned()));
        value.unwrap()
    };
    let (url, token) = (value("JINA_FINETUNER_REGISTRY"), value("JINA_AUTH_TOKEN"));
    let more = ["--url", &url, "--watch", "--json"];
    let mut command = machine.bare(&[&SHORT_FIT[..], &more].concat());
    let done = finish({
        command.env("JINA_AUTH_TOKEN", token);
        command
    });
    interrupt(&server);
    let ended = server.wait().unwrap();
    assert_eq!(done.code, Some(0), "{}{}", done.out, done.err);
    assert!(done.out.contains("\"FINISHED\""), "{}", done.out);
    assert!(ended.success());
}
