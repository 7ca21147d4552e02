//! Harmful input: names and paths that try to leave their folder, requests that are
//! too large, too slow, or grow when they are unpacked.

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

use finetuner::Document;
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::support::{pairs, start};

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
