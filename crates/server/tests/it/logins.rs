//! Logging in through a browser, in the current and the older way.

use finetuner::{Finetuner, TokenStorage};
use reqwest::StatusCode;
use serde_json::Value;

use crate::support::{Backend, Http, start};

/// Signs in the first user. Returns the browser's cookie.
pub(crate) async fn sign_in(backend: &Backend) -> String {
    let link = backend.server.console_link().await.unwrap();
    let path = link.strip_prefix(&backend.server.url()).unwrap();
    let answer = backend
        .http
        .with_token(None)
        .get(path)
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), StatusCode::SEE_OTHER);
    let cookie = answer.headers()["set-cookie"].to_str().unwrap();
    assert!(
        cookie.contains("HttpOnly") && cookie.contains("SameSite=Lax"),
        "{cookie}"
    );
    // The link is valid once.
    let again = backend
        .http
        .with_token(None)
        .get(path)
        .send()
        .await
        .unwrap();
    assert_eq!(again.status(), StatusCode::UNAUTHORIZED);
    cookie.split(';').next().unwrap().to_owned()
}

/// Opens the page at `address` and sends the user's answer. Returns the next page.
pub(crate) async fn answer(http: &Http, cookie: &str, address: &str, answer: &str) -> String {
    let path = &address[address.find("/console/").unwrap()..];
    let page = http
        .get(path)
        .header("cookie", cookie)
        .send()
        .await
        .unwrap();
    let page = page.text().await.unwrap();
    assert!(page.contains("Authorize this program?"), "{page}");
    let request = path.split_once("request=").unwrap().1;
    let form = [("request", request), ("answer", answer)];
    let sent = http
        .post("/console/authorize")
        .header("cookie", cookie)
        .header("sec-fetch-site", "same-origin")
        .form(&form);
    sent.send().await.unwrap().text().await.unwrap()
}

#[tokio::test]
async fn a_program_gets_a_token_when_its_user_agrees() {
    let backend = start().await;
    let cookie = sign_in(&backend).await;
    let http = backend.http.with_token(None);
    for (said, good) in [("yes", true), ("no", false)] {
        let (link, mut links) = tokio::sync::mpsc::unbounded_channel();
        let login = Finetuner::builder()
            .registry(backend.server.url())
            .token_storage(TokenStorage::Memory)
            .user_agent("my-app/1.0")
            .login()
            .force(true)
            .interactive(true)
            .on_link(move |url| link.send(url.to_string()).unwrap());
        let login = tokio::spawn(login.into_future());
        let page = links.recv().await.unwrap();
        answer(&http, &cookie, &page, said).await;
        let outcome = login.await.unwrap();
        if good {
            let finetuner = outcome.unwrap();
            assert_eq!(finetuner.whoami().await.unwrap().name, "finetuner");
            // Logging out ends the session on the server too.
            let token = finetuner.get_token().unwrap().expose().to_owned();
            finetuner.logout().await.unwrap();
            let whoami = http
                .with_token(Some(&token))
                .post("/v2/rpc/user.identity.whoami");
            assert_eq!(
                whoami.send().await.unwrap().status(),
                StatusCode::UNAUTHORIZED
            );
        } else {
            let error = outcome.err().unwrap().to_string();
            assert!(error.contains("the user refused the login"), "{error}");
        }
    }
}

#[tokio::test]
async fn the_older_login_redirects_to_the_programs_address() {
    let backend = start().await;
    let cookie = sign_in(&backend).await;
    let http = backend.http.with_token(None);
    let ask = "/v2/rpc/user.identity.authorize?provider=jina-login\
               &redirectUri=http://localhost:8085";
    let asked: Value = http.get(ask).send().await.unwrap().json().await.unwrap();
    let page = asked["data"]["redirectTo"].as_str().unwrap();
    let done = answer(&http, &cookie, page, "yes").await;
    assert!(done.contains("action=\"http://localhost:8085/\""), "{done}");
    let value = |name: &str| {
        let start = format!("name=\"{name}\" value=\"");
        let rest = done.split_once(&start).unwrap().1;
        rest.split('"').next().unwrap().to_owned()
    };
    let form = [("code", value("code")), ("state", value("state"))];
    let grant = async || {
        let request = http
            .post("/v2/rpc/user.identity.grant.auth0Unified")
            .form(&form);
        request.send().await.unwrap()
    };
    let granted: Value = grant().await.json().await.unwrap();
    let token = granted["data"]["token"].as_str().unwrap();
    let whoami = http
        .with_token(Some(token))
        .post("/v2/rpc/user.identity.whoami");
    assert!(whoami.send().await.unwrap().status().is_success());
    assert_eq!(grant().await.status(), StatusCode::UNAUTHORIZED, "once");
    // The question is asked once as well.
    let path = &page[page.find("/console/").unwrap()..];
    let again = http
        .get(path)
        .header("cookie", &cookie)
        .send()
        .await
        .unwrap();
    assert_eq!(again.status(), StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn agreeing_to_a_login_requires_a_session() {
    let backend = start().await;
    let http = backend.http.with_token(None);
    let ask = "/v2/rpc/user.identity.authorize?redirectUri=http://localhost:1";
    let asked: Value = http.get(ask).send().await.unwrap().json().await.unwrap();
    let page = asked["data"]["redirectTo"].as_str().unwrap();
    let path = &page[page.find("/console/").unwrap()..];
    let answer = http.get(path).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::SEE_OTHER);
    let to = answer.headers()["location"].to_str().unwrap();
    assert!(
        to.starts_with("/console/signin?next=%2Fconsole%2Fauthorize"),
        "{to}"
    );
}
