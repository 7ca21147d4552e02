//! Attacks on the server: each line of a table is one attempt with the expected
//! answer. Access to routes is tested here, harmful input in `input`.

mod input;

use finetuner_server::Server;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::{Http, connect, finished_run, pairs, start};

/// All routes that need a token, with their method and a valid body.
pub(crate) fn routes(run: &str, artifact: &str) -> Vec<(Method, String, Body)> {
    let e = "/api/v1/experiments";
    let r = format!("{e}/default/runs/{run}");
    let v = "/v2/rpc";
    let id = |id: &str| Body::Form(vec![("id", id.to_owned())]);
    let get = |path: String| (Method::GET, path, Body::None);
    let post = |path: String, body: Body| (Method::POST, path, body);
    let json = |value: Value| Body::Json(value);
    vec![
        get(format!("{e}/default")),
        get(format!("{e}/default/runs")),
        get(r.clone()),
        get(format!("{r}/status")),
        get(format!("{r}/metrics")),
        get(format!("{r}/examples")),
        get(format!("{r}/history")),
        get(format!("{r}/events")),
        get(format!("{r}/checkpoints")),
        get(format!("{r}/annotations")),
        (
            Method::PUT,
            format!("{r}/annotations"),
            json(json!({"tags": ["stolen"]})),
        ),
        get(format!("{r}/logs")),
        get(format!("{r}/logstream")),
        post(format!("{r}/cancel"), Body::None),
        post(
            format!("{r}/checkpoints/1/runs"),
            json(json!({"name": "stolen"})),
        ),
        (Method::DELETE, r.clone(), Body::None),
        (Method::DELETE, format!("{e}/default/runs"), Body::None),
        (Method::DELETE, format!("{e}/default"), Body::None),
        get(format!("{v}/artifact.getDownloadUrl?id={artifact}")),
        get(format!("{v}/artifact.getDownloadUrl?name=train")),
        get(format!("{v}/artifact.getDownloadUrl?name=finetuner/train")),
        post(format!("{v}/artifact.getDownloadUrl"), id(artifact)),
        post(format!("{v}/artifact.getDetail"), id(artifact)),
        post(
            format!("{v}/artifact.update"),
            json(json!({"id": artifact, "public": true})),
        ),
        post(format!("{v}/artifact.delete"), id(artifact)),
        post(
            format!("{v}/artifact.finishUpload"),
            json(json!({"uploadId": artifact, "sha256": ""})),
        ),
        get(format!("/v1/models/{run}")),
        get(format!("/v1/models/default/{run}")),
        get(format!("/v1/models/{artifact}")),
        post(
            "/v1/embeddings".to_owned(),
            json(json!({"model": format!("default/{run}"), "input": "x"})),
        ),
        post(
            "/v1/embeddings".to_owned(),
            json(json!({"model": artifact, "input": "x"})),
        ),
    ]
}

/// Calls that need a token and name no object of a user.
fn general() -> Vec<(Method, String, Body)> {
    let v = "/v2/rpc";
    let post = |path: &str, body| (Method::POST, format!("{v}/{path}"), body);
    vec![
        (Method::GET, "/api/v1/experiments".to_owned(), Body::None),
        (Method::DELETE, "/api/v1/experiments".to_owned(), Body::None),
        (
            Method::POST,
            "/api/v1/experiments".to_owned(),
            Body::Json(json!({"name": "x"})),
        ),
        (Method::GET, "/api/v1/projects".to_owned(), Body::None),
        (
            Method::POST,
            "/api/v1/projects".to_owned(),
            Body::Json(json!({"name": "x"})),
        ),
        (
            Method::PUT,
            "/api/v1/projects/finetuner/members/x".to_owned(),
            Body::Json(json!({"role": "owner"})),
        ),
        (
            Method::DELETE,
            "/api/v1/projects/finetuner/members/finetuner".to_owned(),
            Body::None,
        ),
        (
            Method::DELETE,
            "/api/v1/projects/finetuner".to_owned(),
            Body::None,
        ),
        post("user.identity.whoami", Body::None),
        post("user.pat.list", Body::None),
        post("user.pat.create", Body::Form(vec![("name", "x".into())])),
        post("user.pat.delete", Body::Form(vec![("name", "x".into())])),
        post("user.session.dismiss", Body::None),
        post("artifact.list", Body::Json(json!({}))),
        post("artifact.beginUpload", Body::Json(json!({}))),
        post(
            "artifact.deleteMany",
            Body::Form(vec![("names", "train".into())]),
        ),
        (
            Method::POST,
            "/api/v1/worker/start".to_owned(),
            Body::Json(json!({"token_sha256": "0".repeat(64)})),
        ),
        (Method::GET, "/api/v1/worker/job".to_owned(), Body::None),
        (
            Method::GET,
            "/api/v1/worker/content?name=train_data".to_owned(),
            Body::None,
        ),
        (Method::GET, "/v1/models".to_owned(), Body::None),
        (Method::GET, "/api/v1/webhooks".to_owned(), Body::None),
        (
            Method::POST,
            "/api/v1/webhooks".to_owned(),
            Body::Json(json!({"url": "https://example.org/"})),
        ),
    ]
}

#[derive(Clone)]
pub(crate) enum Body {
    None,
    Json(Value),
    Form(Vec<(&'static str, String)>),
}

pub(crate) async fn send(
    http: &Http,
    (method, path, body): (Method, String, Body),
) -> (StatusCode, Value) {
    let request = http.request(method, &path);
    let request = match body {
        Body::None => request,
        Body::Json(value) => request.json(&value),
        Body::Form(fields) => request.form(&fields),
    };
    let answer = request.send().await.unwrap();
    let status = answer.status();
    (status, answer.json().await.unwrap_or_default())
}

#[tokio::test]
async fn every_route_needs_a_valid_token() {
    let backend = start().await;
    let run = finished_run(&backend.finetuner, "mine").await;
    let artifact = run.artifact_id().await.unwrap().to_owned();
    let short = backend.finetuner.create_token("short").expires_in_days(1);
    let ended = short.await.unwrap();
    backend.finetuner.delete_token("short").await.unwrap();
    let ended = ended.expose().to_owned();
    for token in [
        None,
        Some(""),
        Some("ft_wrong"),
        Some(ended.as_str()),
        Some("' OR 1=1 --"),
    ] {
        let http = backend.http.with_token(token);
        for route in routes("mine", &artifact).into_iter().chain(general()) {
            let place = format!("{} {} with {token:?}", route.0, route.1);
            let as_openai = route.1.starts_with("/v1/");
            let (status, body) = send(&http, route).await;
            assert_eq!(status, StatusCode::UNAUTHORIZED, "{place}");
            let told = match as_openai {
                true => body["error"]["code"] == "invalid_api_key",
                false => body["detail"].is_string() && body["status"] == 40103,
            };
            assert!(told, "{place}: {body}");
        }
    }
    assert!(run.status().await.is_ok(), "it still exists");
}

#[tokio::test]
async fn objects_of_other_users_are_not_found() {
    let backend = start().await;
    let run = finished_run(&backend.finetuner, "mine").await;
    let artifact = run.artifact_id().await.unwrap().to_owned();
    let eve = backend.server.create_token("eve", "laptop").await.unwrap();
    let http = backend.http.with_token(Some(&eve));
    for route in routes("mine", &artifact) {
        let place = format!("{} {}", route.0, route.1);
        let (status, body) = send(&http, route).await;
        assert_eq!(status, StatusCode::NOT_FOUND, "{place}: {body}");
    }
    // An upload can't replace another user's artifact.
    let form = reqwest::multipart::Form::new()
        .part(
            "file",
            reqwest::multipart::Part::bytes(vec![1]).file_name("f"),
        )
        .text("id", artifact.clone());
    let answer = http.post("/v2/rpc/artifact.upload").multipart(form);
    assert_eq!(answer.send().await.unwrap().status(), StatusCode::NOT_FOUND);
    let (status, body) = send(&http, general().remove(0)).await;
    assert_eq!((status, &body), (StatusCode::OK, &json!([])));
    // Public data can be read but not changed.
    backend
        .finetuner
        .push("open", pairs(2))
        .public(true)
        .await
        .unwrap();
    let open = backend
        .finetuner
        .describe_documents("open")
        .await
        .unwrap()
        .id;
    let by = |path: &str, id: &str| {
        (
            Method::POST,
            format!("/v2/rpc/{path}"),
            Body::Form(vec![("id", id.to_owned())]),
        )
    };
    assert_eq!(
        send(&http, by("artifact.getDetail", &open)).await.0,
        StatusCode::OK
    );
    assert_eq!(
        send(&http, by("artifact.delete", &open)).await.0,
        StatusCode::NOT_FOUND
    );
    let form = reqwest::multipart::Form::new()
        .part(
            "file",
            reqwest::multipart::Part::bytes(vec![1]).file_name("f"),
        )
        .text("id", open);
    let answer = http.post("/v2/rpc/artifact.upload").multipart(form);
    assert_eq!(answer.send().await.unwrap().status(), StatusCode::NOT_FOUND);
    assert!(run.status().await.is_ok(), "it still exists");
    assert_eq!(backend.finetuner.pull("open").await.unwrap().len(), 2);
}

#[tokio::test]
async fn a_read_only_token_can_not_change_anything() {
    let backend = start().await;
    let run = finished_run(&backend.finetuner, "mine").await;
    let artifact = run.artifact_id().await.unwrap().to_owned();
    let form = [("name", "reader"), ("scope", "read")];
    let made = backend.http.post("/v2/rpc/user.pat.create").form(&form);
    let made: Value = made.send().await.unwrap().json().await.unwrap();
    let reader = backend.http.with_token(made["data"]["token"].as_str());
    for route in routes("mine", &artifact).into_iter().chain(general()) {
        let place = format!("{} {}", route.0, route.1);
        let is_worker = route.1.contains("/worker/");
        let reads = route.0 == Method::GET
            || [
                "whoami",
                "pat.list",
                "dismiss",
                "artifact.list",
                "getDetail",
                "getDownloadUrl",
                "/v1/embeddings",
            ]
            .iter()
            .any(|end| route.1.ends_with(end));
        let expected = match (is_worker, reads) {
            (true, _) => StatusCode::UNAUTHORIZED,
            (_, true) => StatusCode::OK,
            (_, false) => StatusCode::FORBIDDEN,
        };
        assert_eq!(send(&reader, route).await.0, expected, "{place}");
    }
}

/// Wrong passwords and wrong tokens at the console's sign-in are counted.
#[tokio::test]
async fn password_guesses_are_limited() {
    let backend = start().await;
    let http = backend.http.with_token(None);
    let try_in = async |name: &str, password: &str| {
        let form = [("name", name), ("password", password)];
        let request = http.post("/console/signin").form(&form);
        let request = request.header("sec-fetch-site", "same-origin");
        request.send().await.unwrap()
    };
    for _ in 0..8 {
        let answer = try_in("finetuner", "wrong password").await;
        assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
        assert!(!answer.headers().contains_key("set-cookie"));
    }
    let answer = try_in("finetuner", "wrong password").await;
    assert_eq!(answer.status(), StatusCode::TOO_MANY_REQUESTS);
    // A form from another site is not evaluated.
    let form = [("name", "finetuner"), ("password", "x")];
    for (header, value) in [
        ("sec-fetch-site", "cross-site"),
        ("origin", "https://evil.example"),
    ] {
        let request = http
            .post("/console/signin")
            .form(&form)
            .header(header, value);
        assert_eq!(
            request.send().await.unwrap().status(),
            StatusCode::FORBIDDEN
        );
    }
}

/// Tokens are stored as hashes, and only the owner can read the folder.
#[cfg(unix)]
#[tokio::test]
async fn the_data_folder_contains_no_tokens() {
    use std::os::unix::fs::PermissionsExt;

    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let server = Server::embedded().folder(&data).start().await.unwrap();
    let token = server.first_token().unwrap().to_owned();
    let finetuner = connect(&server.url(), &token).await;
    finetuner.push("train", pairs(2)).await.unwrap();
    let secret = token.trim_start_matches("ft_");
    let mut folders = vec![data.clone()];
    let mut files = 0;
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap().flatten() {
            if entry.path().is_dir() {
                folders.push(entry.path());
                continue;
            }
            files += 1;
            let bytes = std::fs::read(entry.path()).unwrap();
            let found = bytes.windows(secret.len()).any(|w| w == secret.as_bytes());
            assert!(!found, "{}", entry.path().display());
        }
    }
    assert!(files > 2);
    let mode = std::fs::metadata(&data).unwrap().permissions().mode();
    assert_eq!(mode & 0o077, 0, "{mode:o}");
}
