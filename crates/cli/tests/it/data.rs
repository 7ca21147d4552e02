//! Uploading and downloading files of every kind.

use std::{io::Write, process::Stdio};

use crate::program::{Machine, emoji, root};

#[test]
fn every_file_format_can_be_pushed() {
    let machine = Machine::new("pusher");
    machine.fashion("pairs.csv", "train", 3);
    machine.file("texts.csv", "a cat;an animal\na rose;a flower\n");
    machine.file(
        "rows.jsonl",
        "{\"q\": \"a\", \"p\": \"b\"}\n{\"q\": \"c\", \"p\": \"d\"}\n",
    );
    let image = std::fs::read(emoji().join("images/noto/glasses.png")).unwrap();
    machine.file("listed/one.png", &image);
    machine.file("listed/metadata.csv", "file_name,text\none.png,glasses\n");
    machine.file("classes/round/one.png", &image);
    machine.file("classes/square/two.png", &image);
    let parquet = root().join("crates/data/tests/fixtures/parquet/snappy.parquet");
    let parquet = parquet.to_str().unwrap();
    let texts = ["--model", "minilm-small"];
    for (name, file, options, documents) in [
        ("pairs", "pairs.csv", &[][..], 3),
        ("few", "pairs.csv", &["--rows", "2"], 2),
        ("texts", "texts.csv", &texts[..], 4),
        (
            "rows",
            "rows.jsonl",
            &[
                "--model",
                "minilm-small",
                "--column",
                "anchor=q",
                "--column",
                "positive=p",
            ],
            4,
        ),
        ("listed", "listed", &[], 1),
        ("classes", "classes", &["--model", "efficientnet-small"], 2),
        ("parquet", parquet, &texts, 0),
    ] {
        let mut words = vec!["push", name, file];
        words.extend(options);
        let pushed = machine.json(&words);
        let count = pushed["documents"].as_u64().unwrap();
        assert!(
            count == documents || (documents == 0 && count > 0),
            "{pushed}"
        );
        assert_eq!(pushed["name"], name);
    }
    let listed = machine.json(&["data", "list"]);
    assert_eq!(listed.as_array().unwrap().len(), 7);
    let table = machine.text(&["data", "list"]);
    assert!(table.contains("\npairs"), "{table}");
    assert!(machine.text(&["data", "show", "pairs"]).contains("Length"));
    assert_eq!(machine.json(&["data", "show", "few"])["documents"], 2);

    // Uploaded and downloaded, as documents and as lines.
    machine.text(&["pull", "pairs", "--output", "back.da"]);
    assert_eq!(machine.json(&["push", "again", "back.da"])["documents"], 3);
    let pulled = machine.json(&["pull", "texts", "--output", "back.jsonl"]);
    assert_eq!(pulled["documents"], 4);
    let lines = std::fs::read_to_string(machine.path("back.jsonl")).unwrap();
    let line: serde_json::Value = serde_json::from_str(lines.lines().next().unwrap()).unwrap();
    assert_eq!(line["text"], "a cat");
    assert_eq!(machine.json(&["pull", "classes"])["path"], "classes.da");

    let error = machine.error(2, &["data", "delete", "few"]);
    assert!(error.contains("--yes"), "{error}");
    machine.text(&["data", "delete", "few", "again", "--yes"]);
    let error = machine.error(3, &["data", "show", "few"]);
    assert!(error.contains("finetuner data list"), "{error}");
}

#[test]
fn rows_are_read_from_standard_input() {
    let machine = Machine::new("piper");
    let mut child = machine
        .command(&["push", "piped", "-", "--model", "minilm-small", "--json"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    writeln!(input, "{{\"anchor\": \"a\", \"positive\": \"b\"}}").unwrap();
    drop(input);
    let output = child.wait_with_output().unwrap();
    let value: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    // Two texts with the same label.
    assert_eq!(value["documents"], 2);
}

#[test]
fn all_invalid_rows_are_reported_together() {
    let machine = Machine::new("sloppy");
    machine.file("bad.csv", "nowhere/a.png,a\nnowhere/b.png,b\n");
    let error = machine.error(2, &["push", "bad", "bad.csv"]);
    assert!(
        error.contains("1: ") && error.contains("2: "),
        "both rows: {error}"
    );
}

#[test]
fn options_that_no_file_is_read_with_are_refused() {
    let machine = Machine::new("reader");
    machine.fashion("pairs.csv", "train", 3);
    let image = std::fs::read(emoji().join("images/noto/glasses.png")).unwrap();
    machine.file("classes/round/one.png", &image);
    machine.file("rows.jsonl", "{\"anchor\": \"a\", \"positive\": \"b\"}\n");
    machine.text(&["push", "pairs", "pairs.csv"]);
    machine.text(&["pull", "pairs", "--output", "back.da"]);
    for (words, option) in [
        (&["push", "a", "classes", "--rows", "1"][..], "--rows"),
        (&["push", "a", "back.da", "--column", "text=x"], "--column"),
        (&["push", "a", "rows.jsonl", "--labeled"], "--labeled"),
        (
            &["fit", "pairs", "--model", "two-towers-small", "--rows", "1"],
            "--rows",
        ),
    ] {
        let error = machine.error(2, words);
        assert!(
            error.contains(&format!("`{option}` has no effect")),
            "{error}"
        );
    }
    // One data set of a run is read with it, another is not.
    let words = [
        "fit",
        "pairs.csv",
        "--rows",
        "2",
        "--eval-data",
        "name:nothing",
    ];
    let done = machine.run(&[&words[..], &["--model", "two-towers-small"]].concat());
    assert!(
        done.code != Some(0) && !done.err.contains("no effect"),
        "{}",
        done.err
    );
}
