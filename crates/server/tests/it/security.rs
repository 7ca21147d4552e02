//! Attacks on the server: each line of a table is one attempt with the expected
//! answer.

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

use finetuner::Document;
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

#[tokio::test(flavor = "multi_thread")]
async fn names_and_paths_can_not_escape_their_folder() {
    let backend = start().await;
    let long = "x".repeat(300);
    for name in [
        "..",
        ".",
        "../../etc/passwd",
        "a/b",
        "a\\b",
        "a\0b",
        "",
        " ",
        "a\nb",
        &long,
    ] {
        let new = backend
            .http
            .post("/api/v1/experiments")
            .json(&json!({"name": name}));
        let status = new.send().await.unwrap().status();
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{name:?}");
        let form = reqwest::multipart::Form::new()
            .part(
                "file",
                reqwest::multipart::Part::bytes(vec![1]).file_name("f"),
            )
            .text("name", name.to_owned());
        let answer = backend.http.post("/v2/rpc/artifact.upload").multipart(form);
        let status = answer.send().await.unwrap().status();
        let expected = if name.is_empty() {
            StatusCode::OK
        } else {
            StatusCode::BAD_REQUEST
        };
        assert_eq!(status, expected, "{name:?}");
    }
    let very_long = format!("/api/v1/experiments/{}", "y".repeat(20_000));
    for path in [
        "/api/v1/experiments/..%2f..%2f..%2fetc%2fpasswd",
        "/api/v1/experiments/%2e%2e/%2e%2e/runs",
        "/api/v1/experiments/%252e%252e%252f",
        "/api/v1/experiments/a%5cb",
        "/api/v1/experiments/a%00b",
        "/api/v1/experiments/;x",
        "/v2/download/..%2f..%2ffinetuner.sqlite",
        "/v2/download/%2e%2e%2f",
        "/console/../finetuner.sqlite",
        "/console/data/..%2f..%2fx",
        very_long.as_str(),
    ] {
        let status = raw_get(&backend.server.url(), path, backend.server.first_token());
        assert!(
            [303, 400, 404, 414].contains(&status),
            "{path:.60}: {status}"
        );
    }
}

/// Sends a request with an unchanged path, which HTTP libraries would normalise.
fn raw_get(url: &str, path: &str, token: Option<&str>) -> u16 {
    let host = url.trim_start_matches("http://");
    let mut stream = TcpStream::connect(host).unwrap();
    let token = token.unwrap_or_default();
    let head = format!(
        "GET {path} HTTP/1.1\r\nhost: {host}\r\nauthorization: token {token}\r\n\
         connection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.split(' ').nth(1).unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn oversized_requests_are_refused() {
    let backend = start().await;
    // A body that is not an upload.
    let large = vec![b'x'; 5 << 20];
    let answer = backend.http.post("/api/v1/experiments").body(large);
    let answer = answer
        .header("content-type", "application/json")
        .send()
        .await;
    let answer = answer.unwrap();
    assert_eq!(answer.status(), StatusCode::PAYLOAD_TOO_LARGE);
    let body: Value = answer.json().await.unwrap();
    assert!(body["detail"].is_string(), "{body}");
    // A form field that is not a file.
    let field = "m".repeat(2 << 20);
    let form = reqwest::multipart::Form::new().text("metaData", field);
    let answer = backend.http.post("/v2/rpc/artifact.upload").multipart(form);
    assert_eq!(
        answer.send().await.unwrap().status(),
        StatusCode::PAYLOAD_TOO_LARGE
    );
    // Too many headers, and one that is too long.
    let many: String = (0..500).map(|n| format!("x-{n}: y\r\n")).collect();
    let long = format!("x: {}\r\n", "z".repeat(200_000));
    for headers in [many, long] {
        let host = backend
            .server
            .url()
            .trim_start_matches("http://")
            .to_owned();
        let mut stream = TcpStream::connect(&host).unwrap();
        let head = format!("GET / HTTP/1.1\r\nhost: {host}\r\n{headers}\r\n");
        // The server may close the connection while the request is still being sent.
        let _ = stream.write_all(head.as_bytes());
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer);
        assert!(
            answer.is_empty() || answer.starts_with("HTTP/1.1 431"),
            "{answer}"
        );
    }
    // JSON with too many levels.
    let deep = "[".repeat(200_000);
    let answer = backend.http.post("/api/v1/experiments").body(deep);
    let answer = answer
        .header("content-type", "application/json")
        .send()
        .await;
    assert_eq!(answer.unwrap().status(), StatusCode::UNPROCESSABLE_ENTITY);
    assert!(backend.finetuner.whoami().await.is_ok());
}

/// Small uploads that would fill the memory when they are unpacked.
#[tokio::test]
async fn decompression_bombs_are_refused_when_they_are_read() {
    let backend = start().await;
    let zeros = "0".repeat(40 << 20);
    let mut pair = pairs(1)[0].clone();
    pair.chunks[1] = Document::text(zeros).with_modality("text");
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    packer.write_all(&pair.to_bytes()).unwrap();
    let packed = packer.finish().unwrap();
    let mut bomb = vec![1];
    bomb.extend(4_u64.to_be_bytes());
    for _ in 0..4 {
        bomb.extend((packed.len() as u32).to_be_bytes());
        bomb.extend(&packed);
    }
    // A wrong document count.
    let mut lie = vec![1];
    lie.extend(u64::MAX.to_be_bytes());
    for (name, bytes, said) in [
        ("bomb", bomb, "far more than what was sent"),
        ("count", lie, "are allowed: split it"),
        ("noise", vec![7; 100], "not a stream of documents"),
        ("empty", Vec::new(), "it has no head"),
    ] {
        let form = reqwest::multipart::Form::new()
            .part(
                "file",
                reqwest::multipart::Part::bytes(bytes).file_name("f"),
            )
            .text("name", name)
            .text("type", "documentArray");
        let sent = backend
            .http
            .post("/v2/rpc/artifact.upload")
            .multipart(form)
            .send();
        assert!(sent.await.unwrap().status().is_success());
        let fit = backend.finetuner.fit("clip-small", name).loss("CLIPLoss");
        let error = fit.await.unwrap_err();
        assert!(
            error.is_invalid() && error.to_string().contains(said),
            "{error}"
        );
    }
}

/// Bodies that arrive one byte at a time.
#[tokio::test(flavor = "multi_thread")]
async fn slow_requests_do_not_block_others() {
    let backend = start().await;
    let host = backend
        .server
        .url()
        .trim_start_matches("http://")
        .to_owned();
    let mut slow = Vec::new();
    for n in 0..64 {
        let mut stream = TcpStream::connect(&host).unwrap();
        let head = match n % 2 {
            0 => "GET / HTTP/1.1\r\nhos".to_owned(),
            _ => format!(
                "POST /api/v1/experiments HTTP/1.1\r\nhost: {host}\r\ncontent-length: 100\r\n\
                 content-type: application/json\r\nauthorization: token {}\r\n\r\n{{",
                backend.server.first_token().unwrap()
            ),
        };
        stream.write_all(head.as_bytes()).unwrap();
        slow.push(stream);
    }
    let asked = tokio::time::timeout(Duration::from_secs(20), backend.finetuner.whoami());
    asked.await.unwrap().unwrap();
    drop(slow);
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
