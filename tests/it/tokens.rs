//! Token storage, and which backend gets a token. Each test runs in its own process
//! with its own home folder.

use std::path::{Path, PathBuf};

use finetuner::{Finetuner, TokenStorage};
use serde_json::{Value, json};
use wiremock::{Mock, MockServer, Request, ResponseTemplate, matchers::any};

use crate::process::in_child_process;

fn home() -> PathBuf {
    std::env::var_os("HOME").unwrap().into()
}

fn config(folder: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(folder.join("config.json")).unwrap()).unwrap()
}

/// Starts a server that accepts every token.
async fn server() -> MockServer {
    let server = MockServer::start().await;
    let user = json!({"code": 200, "status": 20000, "data": {"_id": "u", "name": "ada"}});
    let welcome = ResponseTemplate::new(200).set_body_json(user);
    Mock::given(any())
        .respond_with(welcome)
        .mount(&server)
        .await;
    server
}

fn at(server: &MockServer) -> finetuner::Builder {
    let builder = Finetuner::builder().registry(server.uri());
    builder.token_storage(TokenStorage::File)
}

async fn tokens_seen_by(server: &MockServer) -> Vec<String> {
    let shown = |request: &Request| {
        let header = request.headers.get("authorization")?;
        Some(header.to_str().unwrap().to_owned())
    };
    let requests = server.received_requests().await.unwrap();
    requests.iter().filter_map(shown).collect()
}

#[tokio::test]
async fn a_stored_token_is_sent_to_no_other_server() {
    if in_child_process("tokens::a_stored_token_is_sent_to_no_other_server", &[]) {
        return;
    }
    let (ours, other) = (server().await, server().await);
    let folder = home().join(".jina");
    std::fs::create_dir(&folder).unwrap();
    let python = json!({"auth_token": "of-jina", "jwks": {}});
    std::fs::write(folder.join("config.json"), python.to_string()).unwrap();

    let error = at(&ours).login().interactive(false).await.unwrap_err();
    assert!(error.is_unauthorized(), "{error}");
    at(&ours).login().paste(" ours\n").await.unwrap();
    let error = at(&other).login().interactive(false).await.unwrap_err();
    assert!(error.is_unauthorized(), "{error}");
    assert!(at(&other).connect().await.is_err());
    assert!(tokens_seen_by(&other).await.is_empty());

    at(&other).login().paste("other").await.unwrap();
    let finetuner = at(&ours).login().interactive(false).await.unwrap();
    assert_eq!(finetuner.get_token().unwrap().expose(), "ours");
    finetuner.logout().await.unwrap();
    let kept = json!({"auth_token": "of-jina", "jwks": {}, "auth_tokens": {other.uri(): "other"}});
    assert_eq!(config(&folder), kept);
    assert!(
        tokens_seen_by(&ours)
            .await
            .iter()
            .all(|t| t == "token ours")
    );
    assert!(
        tokens_seen_by(&other)
            .await
            .iter()
            .all(|t| t == "token other")
    );
}

#[tokio::test]
async fn with_an_explicit_token_the_home_folder_is_not_touched() {
    let test = "tokens::with_an_explicit_token_the_home_folder_is_not_touched";
    if in_child_process(test, &[("JINA_AUTH_TOKEN", " given\r\n")]) {
        return;
    }
    // A file that can't be read would be an error.
    std::fs::write(home().join(".jina"), "").unwrap();
    let server = server().await;
    for storage in [TokenStorage::Auto, TokenStorage::File] {
        let builder = at(&server).token_storage(storage);
        builder
            .clone()
            .connect()
            .await
            .unwrap()
            .logout()
            .await
            .unwrap();
        builder.login().await.unwrap().logout().await.unwrap();
        let in_code = at(&server).token_storage(storage).token("in-code ");
        in_code.login().await.unwrap().logout().await.unwrap();
    }
    let mut seen = tokens_seen_by(&server).await;
    seen.sort();
    seen.dedup();
    assert_eq!(seen, ["token given", "token in-code"]);
    let left = std::fs::read_dir(home()).unwrap().count();
    assert_eq!(left, 1, "nothing was created");
    let error = at(&server).token(" \n").connect().await.unwrap_err();
    assert!(error.to_string().contains("`token` is blank"), "{error}");
}

#[tokio::test]
async fn a_blank_variable_counts_as_unset() {
    let blank = [("JINA_AUTH_TOKEN", " \n"), ("JINA_HUB_ROOT", "~/jina")];
    if in_child_process("tokens::a_blank_variable_counts_as_unset", &blank) {
        return;
    }
    let server = server().await;
    let error = at(&server).connect().await.unwrap_err();
    assert!(error.is_unauthorized(), "{error}");
    at(&server).login().paste("stored").await.unwrap();
    let finetuner = at(&server).connect().await.unwrap();
    assert_eq!(finetuner.get_token().unwrap().expose(), "stored");
    // `~` in a variable means the home folder as well.
    let stored = config(&home().join("jina"));
    assert_eq!(stored["auth_tokens"][server.uri()], "stored");
}

#[tokio::test]
async fn a_login_succeeds_if_its_token_can_not_be_stored() {
    if in_child_process(
        "tokens::a_login_succeeds_if_its_token_can_not_be_stored",
        &[],
    ) {
        return;
    }
    std::fs::write(home().join(".jina"), "a file where the folder should be").unwrap();
    let server = server().await;
    let error = at(&server).login().paste("good").await.unwrap_err();
    assert!(
        error.is_file() && error.to_string().contains(".jina"),
        "{error}"
    );
}

#[tokio::test]
async fn logging_out_names_the_store_that_still_has_the_token() {
    if in_child_process(
        "tokens::logging_out_names_the_store_that_still_has_the_token",
        &[],
    ) {
        return;
    }
    let server = server().await;
    let finetuner = at(&server).login().paste("good").await.unwrap();
    let path = home().join(".jina/config.json");
    std::fs::write(&path, "broken meanwhile").unwrap();
    let error = finetuner.logout().await.unwrap_err().to_string();
    assert!(error.contains("may still be stored"), "{error}");
    assert!(error.contains(path.to_str().unwrap()), "{error}");
    assert!(!error.contains("good"), "{error}");
}

/// A program without the keyring, such as one over SSH, logs in again and stores its
/// token in the file.
#[cfg(feature = "keyring")]
#[tokio::test]
async fn the_token_of_the_last_login_is_used_with_and_without_a_keyring() {
    let name = "tokens::the_token_of_the_last_login_is_used_with_and_without_a_keyring";
    if in_child_process(name, &[]) {
        return;
    }
    keyring_core::set_default_store(keyring_core::mock::Store::new().unwrap());
    let server = server().await;
    let auto = || Finetuner::builder().registry(server.uri());
    let found = async || {
        let finetuner = auto().login().interactive(false).await.unwrap();
        finetuner.get_token().unwrap().expose().to_owned()
    };
    auto().login().paste("first").await.unwrap();
    assert_eq!(found().await, "first");
    at(&server).login().paste("second").await.unwrap();
    assert_eq!(found().await, "second");
    auto().login().paste("third").await.unwrap();
    assert_eq!(found().await, "third");
    assert_eq!(config(&home().join(".jina")).get("auth_tokens"), None);
}
