//! Invalid bodies, queries and forms: each is refused by field, and none causes a
//! server error.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::{Backend, start};

const EXPERIMENTS: &str = "/api/v1/experiments";
const RUNS: &str = "/api/v1/experiments/default/runs";

/// Every route that takes a JSON body.
const JSON_ROUTES: [&str; 10] = [
    EXPERIMENTS,
    RUNS,
    "/api/v1/experiments/default/check",
    "/v2/rpc/artifact.abortUpload",
    "/api/v1/experiments/default/runs/r/checkpoints/1/runs",
    "/v2/rpc/artifact.beginUpload",
    "/v2/rpc/artifact.finishUpload",
    "/v2/rpc/artifact.list",
    "/v2/rpc/artifact.update",
    "/v2/rpc/user.identity.grant.auto",
];

async fn post(backend: &Backend, path: &str, body: impl Into<Vec<u8>>) -> (StatusCode, String) {
    let request = backend.http.post(path).body(body.into());
    let request = request.header("content-type", "application/json");
    let answer = request.send().await.unwrap();
    let status = answer.status();
    let body: Value = answer.json().await.unwrap();
    (
        status,
        body["detail"].as_str().unwrap_or_default().to_owned(),
    )
}

async fn with_experiment() -> Backend {
    let backend = start().await;
    let (status, _) = post(&backend, EXPERIMENTS, r#"{"name": "default"}"#).await;
    assert_eq!(status, StatusCode::CREATED);
    backend
}

#[tokio::test]
async fn bodies_that_are_not_json_objects_are_refused_on_every_route() {
    let backend = with_experiment().await;
    let deep = format!("{{\"name\": {}", "[".repeat(100_000));
    let bodies: [&[u8]; 14] = [
        b"",
        b"null",
        b"[]",
        b"[\"a\"]",
        b"\"x\"",
        b"1e999999",
        b"{\"name\"",
        b"{\"name\": 1e999}",
        b"{\"name\": NaN}",
        b"{\"name\": \"a\"} b",
        // Unpaired surrogates: the first half of an emoji, and the second half.
        b"{\"name\": \"half \\ud83d emoji\", \"uploadId\": \"\\udc80\", \"code\": \"\\ud83d\"}",
        b"{\"name\": \"\xff\xfe\"}",
        b"\xef\xbb\xbf{\"name\": \"marked\"}",
        deep.as_bytes(),
    ];
    for path in JSON_ROUTES {
        for body in bodies {
            let (status, detail) = post(&backend, path, body).await;
            let shown = String::from_utf8_lossy(&body[..body.len().min(40)]).into_owned();
            // Lists ignore this unknown field without reading it.
            let unknown = ["{\"name\": \"half", "{\"name\": 1e999"];
            let known = path.ends_with("artifact.list")
                && unknown.iter().any(|start| shown.starts_with(start));
            assert!(
                status.is_client_error() || known,
                "{path} {shown}: {status}"
            );
            assert!(!detail.is_empty() || known, "{path} {shown}");
            assert!(
                detail.len() < 9000,
                "{path} {shown}: {} bytes",
                detail.len()
            );
        }
        let answer = backend.http.post(path).body("{}").send().await.unwrap();
        assert_eq!(
            answer.status(),
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "{path}"
        );
    }
    // A complete surrogate pair is valid.
    let (status, _) = post(
        &backend,
        EXPERIMENTS,
        r#"{"name": "whole \ud83d\ude00 emoji"}"#,
    )
    .await;
    assert_eq!(status, StatusCode::CREATED);
    assert!(backend.finetuner.whoami().await.is_ok());
}

fn config() -> Value {
    json!({
        "model": {"name": "clip-small"},
        "data": {"train_data": "train"},
        "hyper_parameters": {"loss": "CLIPLoss"},
        "callbacks": [],
        "run_name": "r",
        "experiment_name": "default",
    })
}

#[tokio::test]
async fn a_run_with_an_invalid_field_is_refused_by_field() {
    let backend = with_experiment().await;
    for (pointer, value, named) in [
        ("/name", json!(null), "`name`"),
        ("/name", json!("a\0b"), "`run_name`"),
        ("/name", json!("x".repeat(300)), "`run_name`"),
        ("/cpus", json!(-1), "`cpus`"),
        ("/gpus", json!("all"), "`gpus`"),
        ("/device", json!(7), "`device`"),
        ("/description", json!({}), "`description`"),
        ("/description", json!("x".repeat(20_000)), "`description`"),
        ("/config", json!(null), "`config`"),
        ("/config", json!([]), "`config`"),
        ("/config/model", json!(1), "`config.model`"),
        ("/config/model/name", json!([]), "`config.model.name`"),
        ("/config/model/freeze", json!(null), "`config.model.freeze`"),
        (
            "/config/model/output_dim",
            json!(-1),
            "`config.model.output_dim`",
        ),
        (
            "/config/model/options",
            json!("fast"),
            "`config.model.options`",
        ),
        (
            "/config/data/train_data",
            json!({}),
            "`config.data.train_data`",
        ),
        ("/config/data/val_split", json!(1e308), "`val_split`"),
        (
            "/config/data/num_workers",
            json!(1.5),
            "`config.data.num_workers`",
        ),
        (
            "/config/hyper_parameters",
            json!([1]),
            "`config.hyper_parameters`",
        ),
        (
            "/config/hyper_parameters/batch_size",
            json!(1e300),
            "`config.hyper_parameters.batch_size`",
        ),
        (
            "/config/hyper_parameters/learning_rate",
            json!("high"),
            "`config.hyper_parameters.learning_rate`",
        ),
        (
            "/config/hyper_parameters/loss",
            json!("x".repeat(50_000)),
            "`loss`",
        ),
        ("/config/callbacks", json!({"a": 1}), "`config.callbacks"),
        ("/config/callbacks", json!([1]), "`config.callbacks"),
        ("/config/extra", json!("x".repeat(300_000)), "`config`"),
    ] {
        let mut body = json!({
            "name": "r", "config": config(), "device": "cpu", "cpus": 1, "gpus": 1,
            "description": "",
        });
        let (parent, field) = pointer.rsplit_once('/').unwrap();
        body.pointer_mut(parent).unwrap()[field] = value.clone();
        let (status, detail) = post(&backend, RUNS, body.to_string()).await;
        let sent = format!("{pointer}: {:.40}", value.to_string());
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{sent}: {detail}");
        assert!(detail.contains(named), "{sent}: {detail:.300}");
        assert!(detail.len() < 9000, "{sent}: {} bytes", detail.len());
    }
}

#[tokio::test]
async fn fields_of_artifacts_are_checked_before_anything_is_stored() {
    let backend = start().await;
    let begin = "/v2/rpc/artifact.beginUpload";
    for (body, named) in [
        (json!({"name": "a/b"}), "`name`"),
        (json!({"name": 1}), "`name`"),
        (json!({"id": "nobody's"}), "`nobody's`"),
        (json!({"type": "x".repeat(300)}), "`type`"),
        (json!({"public": "perhaps"}), "`public`"),
        (json!({"metaData": "{"}), "`metaData`"),
        (
            json!({"metaData": format!("\"{}\"", "x".repeat(70_000))}),
            "`metaData`",
        ),
    ] {
        let (status, detail) = post(&backend, begin, body.to_string()).await;
        assert!(status.is_client_error(), "{detail}");
        assert!(detail.contains(named), "{named}: {detail}");
        // The same values as form fields.
        let Some((field, value)) = body.as_object().and_then(|fields| fields.iter().next()) else {
            continue;
        };
        let Some(value) = value.as_str() else {
            continue;
        };
        let file = reqwest::multipart::Part::bytes(vec![1]).file_name("f");
        let form = reqwest::multipart::Form::new()
            .part("file", file)
            .text(field.clone(), value.to_owned());
        let answer = backend.http.post("/v2/rpc/artifact.upload").multipart(form);
        let answer = answer.send().await.unwrap();
        assert!(answer.status().is_client_error(), "{field}");
        let body: Value = answer.json().await.unwrap();
        assert!(body["detail"].as_str().unwrap().contains(named), "{body}");
    }
    let stored = backend.http.post("/v2/rpc/artifact.list").json(&json!({}));
    let stored: Value = stored.send().await.unwrap().json().await.unwrap();
    assert_eq!(stored["data"], json!([]));
    // A deletion without a name is an error.
    let nothing = backend
        .http
        .post("/v2/rpc/artifact.deleteMany")
        .form(&[("name", "a")]);
    let nothing = nothing.send().await.unwrap();
    assert_eq!(nothing.status(), StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn invalid_queries_headers_and_forms_are_refused_by_field() {
    let backend = with_experiment().await;
    let get = |path: String| (Method::GET, path, None);
    let form =
        |path: &str, fields: &'static str| (Method::POST, format!("/v2/rpc/{path}"), Some(fields));
    let long = format!(
        "/v2/rpc/user.identity.authorize?redirectUri=http://localhost:1/{}",
        "x".repeat(10_000)
    );
    for ((method, path, fields), named) in [
        (get(format!("{EXPERIMENTS}?page=-1")), "page"),
        (
            get(format!("{EXPERIMENTS}?page=99999999999999999999")),
            "page",
        ),
        (get(format!("{RUNS}?size=x")), "size"),
        (get(format!("{RUNS}?page=1&page=2")), "page"),
        (get(format!("{RUNS}/r/history?after=1.5")), "after"),
        (get(long), "redirectUri"),
        (form("user.pat.create", "name=%00"), "name"),
        (
            form("user.pat.create", "name=a&expirationDays=-1"),
            "expirationDays",
        ),
        (form("user.pat.create", "name=a&scope=root"), "scope"),
        (form("user.pat.create", ""), "name"),
        (form("artifact.getDetail", ""), "`id` or `name`"),
        (form("user.identity.grant.auth0Unified", "code=a"), "state"),
    ] {
        let request = backend.http.request(method, &path);
        let request = match fields {
            Some(fields) => request
                .body(fields)
                .header("content-type", "application/x-www-form-urlencoded"),
            None => request,
        };
        let answer = request.send().await.unwrap();
        let status = answer.status();
        let body: Value = answer.json().await.unwrap();
        let detail = body["detail"].as_str().unwrap();
        assert!(
            [400, 422].contains(&status.as_u16()),
            "{path:.80}: {status}"
        );
        assert!(detail.contains(named), "{path:.80}: {detail}");
    }
    for key in ["", "x".repeat(300).as_str(), "schl\u{fc}ssel"] {
        let request = backend.http.post(EXPERIMENTS).json(&json!({"name": "e"}));
        let request = request.header("idempotency-key", key.as_bytes());
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::BAD_REQUEST, "{key}");
    }
}
