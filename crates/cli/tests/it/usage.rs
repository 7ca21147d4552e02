//! Bad input: the error names the option, the value and the remedy.

use std::net::TcpListener;

use crate::program::{Machine, finish};

#[test]
fn invalid_input_is_reported_in_one_sentence() {
    let machine = Machine::new("careless");
    machine.file("empty.toml", "");
    machine.file("typo.toml", "modle = \"clip-small\"\n");
    machine.file("a.csv", "a,b\nc,d\n");
    machine.file("a.unknown", "a");
    std::fs::create_dir(machine.path("folder")).unwrap();
    let fit = ["fit", "a.csv", "--model", "minilm-small"];
    for (more, words) in [
        (&["--loss", "TripletLos"][..], "'--loss <NAME>'"),
        (&["--loss-option", "margin"], "'--loss-option <KEY=VALUE>'"),
        (&["--loss-option", "margin"], "write KEY=VALUE, such as"),
        (&["--callback", ":a"], "'--callback"),
        (&["--epochs", "many"], "'--epochs <N>'"),
        (&["--column", "ancor=a"], "`ancor` is not a role"),
        (
            &["--eval-data", "none.csv"],
            "`--eval-data none.csv`: there is no such file",
        ),
        (&["--evaluate", "none.csv"], "`--evaluate none.csv`"),
        (&["--config", "none.toml"], "`--config none.toml`"),
        (&["--config", "typo.toml"], "`modle`"),
        (&["--set", "model.nmae=x"], "`model.nmae`"),
        (&["--epochs", "0"], "epochs"),
        (&["--nothing"], "--nothing"),
        // The backend checks the options of a loss.
        (&["--loss-option", "nothing=1"], "nothing"),
    ] {
        let mut all = fit.to_vec();
        all.extend(more);
        let error = machine.error(2, &all);
        assert!(error.contains(words), "{more:?}: {error}");
        assert!(error.starts_with("error: "), "{error}");
        assert!(
            !error.contains("Error {") && !error.contains("panicked"),
            "{error}"
        );
    }
    for (words, said) in [
        (&["fit"][..], "the training data is missing"),
        (&["fit", "train"], "the model is missing"),
        (&["fit", "a.unknown", "--model", "m"], "`DATA a.unknown`"),
        (&["fit", "folder", "--model", "m"], "metadata.csv"),
        (&["push", "x", "nowhere"], "`FILE nowhere`"),
        (&["pull", "x", "--output", "x.zip"], ".da or .jsonl"),
        (&["models", "--task", "nothing"], "text-to-text"),
        (&["runs", "--status", "gone"], "created, started"),
        (&["delete"], "<RUNS>"),
        (&["search", "nowhere", "a.csv"], "nothing to search for"),
        (&["search", "nowhere", "a.csv", "x"], "`MODEL nowhere`"),
        (
            &["search", "minilm-small", "none.txt", "x"],
            "`ITEMS none.txt`",
        ),
        (
            &["encode", "minilm-small", "a.csv", "-o", "a.zip"],
            ".npy or .jsonl",
        ),
        (&["login", "--embedded"], "needs no login"),
        (&["completions", "cmd"], "bash"),
        (&["--timeout", "0", "runs"], "--timeout"),
        (&[], "Usage"),
    ] {
        let error = machine.error(2, words);
        assert!(error.contains(said), "{words:?}: {error}");
    }
}

#[test]
fn missing_objects_have_their_own_exit_code() {
    let machine = Machine::new("seeker");
    for words in [
        &["status", "none"][..],
        &["watch", "none"],
        &["logs", "none"],
        &["logs", "-f", "none"],
        &["metrics", "some/none"],
        &["examples", "none", "-e", "some"],
        &["cancel", "none"],
        &["delete", "none", "--yes"],
        &["save", "none"],
        &["runs", "-e", "none"],
        &["data", "show", "none"],
        &["data", "delete", "none", "--yes"],
        &["pull", "none"],
        &["models", "none"],
    ] {
        let error = machine.error(3, words);
        assert!(error.contains("none"), "{words:?}: {error}");
    }
}

#[test]
fn an_unreachable_server_is_reported_with_the_remedy() {
    // A port that was free a moment ago.
    let port = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", port.local_addr().unwrap());
    drop(port);
    let machine = Machine::new("lost");
    let error = machine.error(1, &["runs", "--url", &url]);
    assert!(error.contains("`finetuner serve`"), "{error}");
    assert!(error.contains("--url"), "{error}");
    let error = machine.error(1, &["runs", "--url", "ftp://user:secret@host"]);
    assert!(!error.contains("secret"), "{error}");
}

#[test]
fn help_lists_exit_codes_and_environment_variables() {
    let machine = Machine::new("reader");
    let help = machine.text(&["--help"]);
    for words in ["Exit codes:", "130", "JINA_AUTH_TOKEN", "NO_COLOR"] {
        assert!(help.contains(words), "{words}: {help}");
    }
    // Every command has a help text.
    let commands = [
        "login",
        "logout",
        "whoami",
        "token",
        "models",
        "push",
        "pull",
        "data",
        "fit",
        "watch",
        "runs",
        "status",
        "logs",
        "metrics",
        "examples",
        "cancel",
        "delete",
        "save",
        "search",
        "encode",
        "synthesize",
        "completions",
        "man",
    ];
    for command in commands {
        assert!(
            help.contains(&format!("\n  {command} ")),
            "{command}: {help}"
        );
        let help = machine.text(&[command, "--help"]);
        assert!(help.contains(&format!("finetuner {command}")), "{help}");
    }
    let served = finish(machine.command(&["serve", "--help"]));
    assert_eq!(served.code, Some(0));
    assert!(served.out.contains("--runs-at-once"), "{}", served.out);
}
