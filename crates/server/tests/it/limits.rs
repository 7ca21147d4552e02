//! Limits of one client's usage: passwords, runs, uploads, connections and
//! time.

use std::io::{Read, Write};

use finetuner_server::Settings;
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde_json::{Value, json};

use crate::support::{Backend, connect, fit, pairs, start, start_with};

const WRONG: &str = "wrong password";
const RIGHT: &str = "correct horse";

fn sign_in(backend: &Backend, name: &str, password: &str) -> RequestBuilder {
    let form = [("name", name), ("password", password)];
    let http = backend.http.with_token(None);
    let request = http.post("/console/signin").form(&form);
    request.header("sec-fetch-site", "same-origin")
}

async fn sent(request: RequestBuilder) -> Response {
    request.send().await.unwrap()
}

/// Signs in the first user with a token. Returns the session cookie.
async fn session(backend: &Backend) -> String {
    let token = backend.server.first_token().unwrap();
    let signed_in = sent(sign_in(backend, "", token)).await;
    let cookie = signed_in.headers()["set-cookie"].to_str().unwrap();
    cookie.split(';').next().unwrap().to_owned()
}

/// Sets the first user's password.
async fn set_password(backend: &Backend) {
    let session = session(backend).await;
    let request = backend.http.with_token(None).post("/console/password");
    let request = request
        .form(&[("password", RIGHT)])
        .header("sec-fetch-site", "same-origin")
        .header("cookie", session);
    assert_eq!(sent(request).await.status(), StatusCode::SEE_OTHER);
}

#[tokio::test(flavor = "multi_thread")]
async fn parallel_guesses_are_counted_before_they_are_verified() {
    let backend = start().await;
    let guesses = (0..40).map(|_| sent(sign_in(&backend, "finetuner", WRONG)));
    let answers = futures_util::future::join_all(guesses).await;
    let count = |status| answers.iter().filter(|a| a.status() == status).count();
    assert_eq!(count(StatusCode::UNAUTHORIZED), 8);
    assert_eq!(count(StatusCode::TOO_MANY_REQUESTS), 32);
}

#[tokio::test]
async fn wrong_passwords_do_not_lock_out_other_users() {
    let settings = Settings {
        trusted_proxies: vec!["127.0.0.0/8".parse().unwrap()],
        ..Settings::default()
    };
    let backend = start_with(settings).await;
    set_password(&backend).await;
    let from = async |address: &str, password: &str| {
        let request = sign_in(&backend, "finetuner", password);
        sent(request.header("x-forwarded-for", address)).await
    };
    // A device on which the user has signed in before.
    let signed_in = from("192.0.2.1", RIGHT).await;
    assert_eq!(signed_in.status(), StatusCode::SEE_OTHER);
    let cookies = signed_in.headers().get_all("set-cookie").iter();
    let mut cookies = cookies.map(|cookie| cookie.to_str().unwrap().split(';').next().unwrap());
    let device = cookies
        .find(|c| c.starts_with("finetuner_device="))
        .unwrap();
    let other = "203.0.113.9, 192.0.2.66";
    for _ in 0..8 {
        assert_eq!(from(other, WRONG).await.status(), StatusCode::UNAUTHORIZED);
    }
    let refused = from(other, RIGHT).await;
    assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
    assert!(refused.headers().contains_key("retry-after"));
    // Addresses that the client adds to the header have no effect.
    let refused = from("198.51.100.1, 192.0.2.66", RIGHT).await;
    assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
    // The user from another network, and from the same one with a known device.
    assert_eq!(
        from("192.0.2.1", RIGHT).await.status(),
        StatusCode::SEE_OTHER
    );
    let known = sign_in(&backend, "finetuner", RIGHT)
        .header("x-forwarded-for", other)
        .header("cookie", device);
    assert_eq!(sent(known).await.status(), StatusCode::SEE_OTHER);
    // A device of one user does not count for another user.
    for _ in 0..8 {
        let stolen = sign_in(&backend, "anna", WRONG)
            .header("x-forwarded-for", "192.0.2.77")
            .header("cookie", device);
        assert_eq!(sent(stolen).await.status(), StatusCode::UNAUTHORIZED);
    }
    let anna = sign_in(&backend, "anna", WRONG).header("x-forwarded-for", "192.0.2.77");
    assert_eq!(sent(anna).await.status(), StatusCode::TOO_MANY_REQUESTS);
}

#[tokio::test]
async fn forwarded_addresses_of_clients_are_ignored() {
    let backend = start().await;
    for n in 0..8 {
        let guess = sign_in(&backend, "finetuner", WRONG);
        let guess = guess.header("x-forwarded-for", format!("192.0.2.{n}"));
        assert_eq!(sent(guess).await.status(), StatusCode::UNAUTHORIZED);
    }
    let guess = sign_in(&backend, "finetuner", WRONG).header("x-forwarded-for", "192.0.2.99");
    assert_eq!(sent(guess).await.status(), StatusCode::TOO_MANY_REQUESTS);
}

/// A client that is still sending receives the reason why its upload was
/// refused.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_reaches_a_client_that_is_still_sending() {
    let backend = start().await;
    for _ in 0..20 {
        let upload = backend
            .http
            .with_token(None)
            .post("/v2/rpc/artifact.upload");
        let answer = upload.body(vec![7; 8 << 20]).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
    }
}

#[tokio::test]
async fn open_runs_per_user_are_limited() {
    let settings = Settings {
        // No run starts, so all of them wait.
        runs_at_once: 0,
        max_open_runs: Some(2),
        ..Settings::default()
    };
    let backend = start_with(settings).await;
    let finetuner = &backend.finetuner;
    finetuner
        .push("train", pairs(8))
        .public(true)
        .await
        .unwrap();
    let first = fit(finetuner, "first", 40).await.unwrap();
    let submitted = ["second", "third", "fourth"].map(|name| async move {
        // Concurrent submissions are counted in the transaction that stores the run.
        fit(finetuner, name, 40).await
    });
    let submitted = futures_util::future::join_all(submitted).await;
    let refused: Vec<_> = submitted.into_iter().filter_map(Result::err).collect();
    assert_eq!(refused.len(), 2);
    for error in refused {
        assert!(error.is_forbidden(), "{error}");
        let text = error.to_string();
        assert!(
            text.contains("you have 2") && text.contains("the limit is 2"),
            "{text}"
        );
        assert!(text.contains("--max-open-runs"), "{text}");
    }
    // Other users have their own counts.
    let token = backend.server.create_token("anna", "laptop").await.unwrap();
    let anna = connect(&backend.server.url(), &token).await;
    let run = anna
        .fit("clip-small", "finetuner/train")
        .loss("CLIPLoss")
        .epochs(40);
    run.await.unwrap();
    // An ended run does not count.
    first.cancel().await.unwrap();
    fit(finetuner, "fifth", 1).await.unwrap();
}

#[tokio::test]
async fn the_console_shows_usage_and_limits() {
    let settings = Settings {
        max_open_runs: Some(12),
        max_uploads: 1,
        max_stored: Some(3 << 30),
        ..Settings::default()
    };
    let backend = start_with(settings).await;
    let begin = || {
        let request = backend.http.post("/v2/rpc/artifact.beginUpload");
        sent(request.json(&json!({"name": "p"})))
    };
    assert_eq!(begin().await.status(), StatusCode::OK);
    let refused = begin().await;
    assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
    let body: Value = refused.json().await.unwrap();
    let text = body["detail"].as_str().unwrap();
    assert!(
        text.contains("the limit is 1") && text.contains("--max-uploads"),
        "{text}"
    );
    let session = session(&backend).await;
    let page = backend
        .http
        .with_token(None)
        .request(Method::GET, "/console/account");
    let page = sent(page.header("cookie", session))
        .await
        .text()
        .await
        .unwrap();
    for row in [
        "Runs waiting or running</th><td class=\"number\">0</td><td class=\"number\">12</td>",
        "Uploads in progress</th><td class=\"number\">1</td><td class=\"number\">1</td>",
        "<td class=\"number\">3.0 GiB</td>",
    ] {
        assert!(page.contains(row), "{row} is not in {page}");
    }
}

/// A request that is refused by its head is not read.
#[tokio::test(flavor = "multi_thread")]
async fn oversized_and_unknown_parts_are_refused_before_the_body_is_sent() {
    let backend = start().await;
    let begun = backend.http.post("/v2/rpc/artifact.beginUpload");
    let begun = sent(begun.json(&json!({"name": "p"}))).await;
    let begun: Value = begun.json().await.unwrap();
    let upload = begun["data"]["uploadId"].as_str().unwrap();
    let url = backend.server.url();
    let host = url.trim_start_matches("http://");
    let token = backend.server.first_token().unwrap();
    for (upload, length, expected) in [
        (upload, (16_u64 << 20) + 1, "413"),
        (upload, 4 << 30, "413"),
        ("none", 1 << 20, "404"),
    ] {
        let head = format!(
            "PUT /v2/rpc/artifact.uploadPart?uploadId={upload}&offset=0 HTTP/1.1\r\nhost: {host}\r\n\
             authorization: token {token}\r\ncontent-length: {length}\r\n\r\n"
        );
        let mut stream = std::net::TcpStream::connect(host).unwrap();
        stream.write_all(head.as_bytes()).unwrap();
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).unwrap();
        let answer = String::from_utf8_lossy(&answer);
        assert_eq!(answer.split(' ').nth(1), Some(expected), "{length}");
    }
}

#[tokio::test]
async fn callbacks_per_run_are_limited() {
    let backend = start().await;
    backend.finetuner.push("train", pairs(4)).await.unwrap();
    let mut run = fit(&backend.finetuner, "r", 1);
    for _ in 0..65 {
        run = run.callback(finetuner::EvaluationCallback::new("train"));
    }
    let error = run.await.unwrap_err();
    assert!(error.to_string().contains("at most 64"), "{error}");
}
