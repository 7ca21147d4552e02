//! Login and tokens.

use std::{io::Write, process::Stdio};

use crate::program::{Machine, finish};

#[test]
fn commands_without_a_token_fail() {
    let machine = Machine::new("stranger");
    let done = finish(machine.bare(&["runs"]));
    assert_eq!((done.code, done.out.as_str()), (Some(4), ""));
    assert!(done.err.contains("finetuner login"), "{}", done.err);
    let mut command = machine.bare(&["whoami", "--json"]);
    command.env("JINA_AUTH_TOKEN", "not-a-token-at-all");
    let done = finish(command);
    assert_eq!((done.code, done.out.as_str()), (Some(4), ""));
    assert!(!done.err.contains("not-a-token-at-all"), "{}", done.err);
    // A program without a terminal does not wait for a browser.
    assert_eq!(finish(machine.bare(&["login"])).code, Some(4));
}

// On other systems, the test would use the developer's keyring.
#[cfg(target_os = "linux")]
#[test]
fn a_token_from_standard_input_is_stored_until_logout() {
    let machine = Machine::new("anna");
    let mut child = machine
        .bare(&["login", "--token-stdin", "--json"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    writeln!(input, "{}", machine.token).unwrap();
    drop(input);
    let output = child.wait_with_output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    assert!(!error.contains(&machine.token));
    let user: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(user["name"], "anna");

    let whoami = finish(machine.bare(&["whoami"]));
    assert!(whoami.out.starts_with("anna ("), "{}", whoami.err);
    assert_eq!(finish(machine.bare(&["logout"])).code, Some(0));
    assert_eq!(finish(machine.bare(&["whoami"])).code, Some(4));
}

#[test]
fn empty_standard_input_is_refused_as_a_token() {
    let machine = Machine::new("empty");
    let done = finish(machine.bare(&["login", "--token-stdin"]));
    assert_eq!(done.code, Some(2));
    assert!(done.err.contains("`--token-stdin`"), "{}", done.err);
}

#[test]
fn tokens_are_created_listed_and_revoked() {
    let machine = Machine::new("bert");
    let made = machine.json(&["token", "create", "ci", "--days", "3"]);
    let token = made["token"].as_str().unwrap();
    let mut command = machine.bare(&["whoami"]);
    command.env("JINA_AUTH_TOKEN", token);
    assert!(finish(command).out.starts_with("bert"));

    let listed = machine.json(&["token", "list"]);
    let of_name = |name: &str| {
        let tokens = listed.as_array().unwrap();
        tokens.iter().find(|token| token["name"] == name).cloned()
    };
    assert!(of_name("ci").unwrap()["expires_at"].is_string());
    let table = machine.text(&["token", "list"]);
    assert!(
        table.starts_with("NAME") && table.contains("\nci "),
        "{table}"
    );
    assert!(!table.contains(token));

    machine.text(&["token", "revoke", "ci"]);
    let error = machine.error(3, &["token", "revoke", "ci"]);
    assert!(error.contains("token `ci` does not exist"), "{error}");
    let error = machine.error(2, &["token", "create", "x", "--days", "0"]);
    assert!(error.contains("--days"), "{error}");
}
