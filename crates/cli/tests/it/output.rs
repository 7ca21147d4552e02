//! Colours, pipes, completions, man pages.

use std::process::Stdio;

use crate::program::{Machine, finish, start};

#[test]
fn models_are_listed_as_a_table_or_as_json() {
    let machine = Machine::new("cat");
    let table = machine.text(&["models"]);
    assert!(table.starts_with("MODEL"), "{table}");
    assert!(
        table
            .lines()
            .any(|line| line.starts_with("two-towers-small"))
    );
    let models = machine.json(&["models"]);
    assert_eq!(models.as_array().unwrap().len(), table.lines().count() - 1);
    let texts = machine.json(&["models", "--task", "text-to-text"]);
    let texts = texts.as_array().unwrap();
    assert!(!texts.is_empty() && texts.iter().all(|m| m["task"] == "text-to-text"));
    let options = machine.json(&["models", "bert-base-en"]);
    let names: Vec<&str> = options
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|o| o["name"].as_str())
        .collect();
    assert!(names.contains(&"pooler"), "{names:?}");
    assert!(machine.text(&["models", "bert-base-en"]).contains("pooler"));
}

#[test]
fn output_is_coloured_only_on_terminals_or_on_request() {
    let machine = Machine::new("painter");
    let coloured = |variables: &[(&str, &str)], words: &[&str]| {
        let mut command = machine.command(words);
        command.envs(variables.iter().copied());
        finish(command).out.contains('\x1b')
    };
    let force = ("CLICOLOR_FORCE", "1");
    assert!(!coloured(&[], &["models"]), "a pipe");
    assert!(coloured(&[force], &["models"]));
    assert!(!coloured(&[force, ("NO_COLOR", "1")], &["models"]));
    assert!(!coloured(&[force], &["models", "--no-color"]));
    assert!(!coloured(&[force], &["--no-color", "--help"]));
    assert!(!coloured(&[force], &["models", "--json"]), "JSON has none");
}

#[test]
fn a_closed_pipe_ends_the_program_without_an_error() {
    let machine = Machine::new("plumber");
    for words in [
        &["completions", "bash"][..],
        &["models"],
        &["models", "--json"],
        &["encode", "minilm-small", "texts.txt"],
        &["--help"],
    ] {
        machine.file("texts.txt", "a\nb\n");
        let mut child = start(machine.command(words));
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(error, "", "{words:?}");
        assert_eq!(output.status.code(), Some(0), "{words:?}");
    }
}

#[test]
fn completions_exist_for_every_shell() {
    let machine = Machine::new("shell");
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let script = machine.text(&["completions", shell]);
        for word in ["finetuner", "synthesize", "loss-option"] {
            assert!(script.contains(word), "{shell}: {word}");
        }
        let value = machine.json(&["completions", shell]);
        assert_eq!(
            value["script"].as_str().unwrap().trim_end(),
            script.trim_end()
        );
    }
}

#[test]
fn every_command_has_a_man_page() {
    let machine = Machine::new("man");
    machine.text(&["man", "pages", "--quiet"]);
    for page in [
        "finetuner",
        "finetuner-fit",
        "finetuner-token-create",
        "finetuner-search",
    ] {
        let text = std::fs::read_to_string(machine.path(&format!("pages/{page}.1"))).unwrap();
        assert!(text.contains(".TH") && text.contains("finetuner"), "{page}");
    }
    assert!(!machine.path("pages/finetuner-worker.1").exists());
}

#[test]
fn the_completion_script_is_valid_bash() {
    let machine = Machine::new("bash");
    machine.file("complete.bash", machine.text(&["completions", "bash"]));
    let mut bash = std::process::Command::new("bash");
    bash.args(["-n", "complete.bash"])
        .current_dir(machine.path("."));
    // Not every machine has this shell.
    if let Ok(checked) = bash.stdout(Stdio::null()).status() {
        assert!(checked.success());
    }
}
