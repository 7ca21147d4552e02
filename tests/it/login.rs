//! All ways of logging in and out.

use std::sync::{Arc, Mutex};

use finetuner::{Finetuner, TokenStorage};
use serde_json::{Value, json};
use wiremock::{Mock, MockServer, Request, ResponseTemplate, matchers::path};

use crate::{
    backend,
    mock::{accept_all, count, on, short_pauses},
};

const WHOAMI: &str = "/v2/rpc/user.identity.whoami";
const AUTHORIZE: &str = "/v2/rpc/user.identity.proxiedAuthorize";

/// Starts a server that accepts the token `good` and returns it to browser logins.
async fn server_with_login_page(events: &str) -> MockServer {
    let server = MockServer::start().await;
    Mock::given(path(WHOAMI))
        .respond_with(|request: &Request| {
            if request.headers["authorization"] == "token good" {
                let user = json!({"_id": "u", "name": "ada", "nickname": "Ada"});
                return ResponseTemplate::new(200)
                    .set_body_json(json!({"code": 200, "status": 20000, "data": user}));
            }
            ResponseTemplate::new(401).set_body_json(json!({
                "code": 401, "status": 40103, "message": "Authentication required",
            }))
        })
        .mount(&server)
        .await;
    let stream = ResponseTemplate::new(200).set_body_raw(events, "application/json");
    on(&server, "GET", AUTHORIZE, stream).await;
    let granted = json!({"code": 200, "status": 20000, "data": {
        "token": "good", "user": {"name": "ada", "nickname": "Ada"},
    }});
    let grant = "/v2/rpc/user.identity.grant.auto";
    on(
        &server,
        "POST",
        grant,
        ResponseTemplate::new(200).set_body_json(granted),
    )
    .await;
    server
}

fn good_events() -> String {
    let redirect = json!({"event": "redirect", "data": {"redirectTo": "https://login.example/x"}});
    let authorize = json!({"event": "authorize", "data": {"code": "c", "state": "s"}});
    // A waiting server sends white space to keep the connection open.
    format!("  {redirect}\n   {authorize}\n")
}

fn builder(server: &MockServer) -> finetuner::Builder {
    Finetuner::builder()
        .registry(server.uri())
        .token_storage(TokenStorage::Memory)
        .retry(short_pauses())
}

#[tokio::test]
async fn a_browser_login_gives_a_token() {
    let server = server_with_login_page(&good_events()).await;
    let shown = Arc::new(Mutex::new(Vec::new()));
    let pages = Arc::clone(&shown);
    let login = builder(&server)
        .login()
        .force(true)
        .interactive(true)
        .on_link(move |page| pages.lock().unwrap().push(page.to_string()));
    let finetuner = login.await.unwrap();
    assert_eq!(finetuner.user().unwrap().nickname.as_deref(), Some("Ada"));
    assert_eq!(finetuner.get_token().unwrap().expose(), "good");
    assert_eq!(*shown.lock().unwrap(), ["https://login.example/x"]);

    let requests = server.received_requests().await.unwrap();
    let authorize = requests.iter().find(|r| r.url.path() == AUTHORIZE).unwrap();
    assert_eq!(authorize.url.query(), Some("prompt=login"));
    let grant = requests
        .iter()
        .find(|r| r.url.path().ends_with("grant.auto"));
    let sent: Value = grant.unwrap().body_json().unwrap();
    assert_eq!(sent, json!({"code": "c", "state": "s"}));
}

#[tokio::test]
async fn a_refused_login_has_a_reason() {
    let refused = json!({"event": "error", "data": "access denied by ada"}).to_string();
    for (events, words) in [
        (refused.as_str(), "access denied by ada"),
        ("", "closed the connection"),
        ("{", "understood"),
    ] {
        let server = server_with_login_page(events).await;
        let login = builder(&server)
            .login()
            .force(true)
            .interactive(true)
            .on_link(|_| {});
        let error = login.await.unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
    }
    // An address that is not a web page is never opened.
    let evil = json!({"event": "redirect", "data": {"redirectTo": "file:///etc/passwd"}});
    let server = server_with_login_page(&evil.to_string()).await;
    let login = builder(&server)
        .login()
        .force(true)
        .interactive(true)
        .on_link(|_| panic!());
    assert!(login.await.unwrap_err().is_decode());
}

#[tokio::test]
async fn a_pasted_token_is_stored_after_it_is_verified() {
    let server = server_with_login_page(&good_events()).await;
    let error = builder(&server).login().paste("bad").await.unwrap_err();
    assert!(error.is_unauthorized(), "{error}");
    let finetuner = builder(&server).login().paste(" good\n").await.unwrap();
    assert_eq!(finetuner.user().unwrap().name, "ada");
    assert_eq!(count(&server, "proxiedAuthorize").await, 0);
}

#[tokio::test]
async fn a_wrong_token_in_code_is_an_error_and_opens_no_browser() {
    let server = server_with_login_page(&good_events()).await;
    let login = builder(&server).token("bad").login().interactive(true);
    let error = login.await.unwrap_err();
    assert_eq!(error.status(), Some(401));
    assert_eq!(count(&server, "proxiedAuthorize").await, 0);
}

#[tokio::test]
async fn a_missing_token_without_a_terminal_is_an_error() {
    let (server, _) = accept_all().await;
    let error = builder(&server)
        .login()
        .force(true)
        .interactive(false)
        .await
        .unwrap_err();
    assert!(error.is_unauthorized(), "{error}");
    assert!(error.to_string().contains("JINA_AUTH_TOKEN"), "{error}");
}

#[tokio::test]
async fn tokens_are_created_listed_and_revoked() {
    let (server, finetuner) = backend::start().await;
    let token = finetuner
        .create_token("ci")
        .expires_in_days(30)
        .await
        .unwrap();
    let error = finetuner.create_token("ci").await.unwrap_err();
    assert!(error.is_conflict(), "{error}");
    let listed = finetuner.list_tokens().await.unwrap();
    let ci = listed.iter().find(|t| t.name == "ci").unwrap();
    assert!(ci.expires_at.is_some() && ci.created_at.is_some());

    let program = Finetuner::builder().registry(server.url()).token(token);
    let program = program.login().await.unwrap();
    assert_eq!(
        program.whoami().await.unwrap(),
        finetuner.whoami().await.unwrap()
    );
    finetuner.delete_token("ci").await.unwrap();
    assert!(
        finetuner
            .delete_token("ci")
            .await
            .unwrap_err()
            .is_not_found()
    );
    assert!(program.whoami().await.unwrap_err().is_unauthorized());
    for bad in [0, 100_000] {
        let error = finetuner
            .create_token("x")
            .expires_in_days(bad)
            .await
            .unwrap_err();
        assert!(error.is_invalid(), "{error}");
    }
}

#[tokio::test]
async fn logging_out_ends_an_existing_session() {
    let (server, finetuner) = accept_all().await;
    finetuner.logout().await.unwrap();
    assert_eq!(count(&server, "user.session.dismiss").await, 1);
    let (server, finetuner) = accept_all().await;
    let gone = ResponseTemplate::new(401).set_body_json(json!({"code": 401}));
    on(&server, "POST", "/v2/rpc/user.session.dismiss", gone).await;
    finetuner.logout().await.unwrap();
}
